"""Helpers for sensors and actions in Python: what Attune says on stdin and reads on stdout, as functions.

A script works without them; copy this file into your pack's lib/ where you like to have them. It needs
nothing but Python 3.8.

A sensor:

    import attune
    last = attune.cursor(0)                 # what was kept with the newest event
    while True:
        last += 1
        attune.emit({"n": last}, event_id=str(last), cursor=last)
        time.sleep(60)

An action:

    import attune
    name = attune.parameters()["name"]
    attune.result({"greeting": "Hello, " + name})
"""

import json
import os
import sys
import threading

_NOTHING = object()
_out = threading.Lock()


def _say(line):
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
    with _out:
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.buffer.flush()


def emit(payload, trigger=None, instance=None, event_id=None, cursor=_NOTHING):
    """Prints an event. payload is a dict.

    trigger may be left out by a sensor of one trigger. instance is the id of a trigger instance, where the
    event is only for the rules that gave these parameters. event_id makes a replay harmless. cursor, any
    JSON, is kept with the event, and given back by cursor() after a restart.
    """
    line = {"payload": payload}
    if trigger is not None:
        line["trigger"] = trigger
    if instance is not None:
        line["instance"] = instance
    if event_id is not None:
        line["event_id"] = str(event_id)
    if cursor is not _NOTHING:
        line["cursor"] = cursor
    _say(line)


def blocked():
    """Says that an address was asked for that the pack's configuration forbids, for attune_http_blocked_total."""
    _say({"type": "blocked"})


def heartbeat():
    """Says that the sensor is alive, for its watchdog."""
    _say({"type": "heartbeat"})


def save_cursor(value):
    """Keeps a cursor without an event, after all events before it."""
    _say({"type": "cursor", "cursor": value})


def cursor(default=None):
    """What was kept as cursor before this process began."""
    text = os.environ.get("ATTUNE_SENSOR_CURSOR")
    return default if text is None else json.loads(text)


def instances():
    """The trigger instances at the start of the process: a list of dicts with trigger, instance and parameters."""
    text = os.environ.get("ATTUNE_SENSOR_TRIGGERS")
    if text is None:
        name = os.environ.get("ATTUNE_SENSOR_TRIGGERS_FILE")
        if not name:
            return []
        with open(name, encoding="utf-8") as file:
            text = file.read()
    return json.loads(text)


class Feed:
    """What Attune says to a running sensor: with `ack: true` which events are stored, with `updates: true`
    the trigger instances whenever they change, and secret configuration. It reads stdin in a thread."""

    def __init__(self, on_instances=None):
        self._on_instances = on_instances
        self._changed = threading.Condition()
        self._acks = set()
        self._config = None
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in sys.stdin.buffer:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            with self._changed:
                if "ack" in said:
                    self._acks.add(said["ack"])
                if "config" in said:
                    self._config = said["config"]
                self._changed.notify_all()
            if said.get("type") == "triggers" and self._on_instances:
                self._on_instances(said.get("instances") or [])
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_ack(self, event_id, timeout=None):
        """Waits until the event is stored, and forgets it; False: not within timeout seconds."""
        with self._changed:
            self._changed.wait_for(lambda: event_id in self._acks or self._ended, timeout)
            stored = event_id in self._acks
            self._acks.discard(event_id)
            return stored

    def config(self, timeout=None):
        """The sensor's secret configuration; only where it has some, as else this waits for timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._config is not None or self._ended, timeout)
            return self._config or {}


def parameters():
    """The parameters of an action, however they are delivered."""
    name = os.environ.get("ATTUNE_PARAMETER_FILE")
    if name:
        with open(name, encoding="utf-8") as file:
            return json.load(file)
    text = sys.stdin.read()
    return json.loads(text) if text.strip() else {}


def result(value):
    """Keeps a value, any JSON, as the action's result. What is printed is output and nothing else then."""
    with open(os.environ["ATTUNE_RESULT_FILE"], "w", encoding="utf-8") as file:
        json.dump(value, file)
