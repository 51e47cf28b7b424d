"""What core's sensors that watch many things at once have in common: a thread for each trigger instance,
and one cursor for all of them."""

import json
import sys
import threading
import traceback

import attune

# A cursor may have 64 KiB; beyond this the instances are too many to be gone on with after a restart.
CURSOR_LIMIT = 60_000


class Watch:
    """One trigger instance: its parameters, what was kept of it, and a way to say something."""

    def __init__(self, owner, instance):
        self.id = instance["instance"]
        self.trigger = instance["trigger"]
        self.parameters = instance["parameters"]
        self.stopped = threading.Event()
        self._owner = owner
        self._told = None

    @property
    def state(self):
        """What was kept last; None: this instance is new."""
        return self._owner.states.get(self.id)

    def keep(self, state):
        """Keeps a state without an event."""
        with self._owner.lock:
            if self.stopped.is_set() or self._owner.states.get(self.id) == state:
                return
            self._owner.states[self.id] = state
            if self._owner.fits():
                attune.save_cursor(self._owner.states)

    def emit(self, payload, event_id, state):
        """Prints an event, with which the state is kept."""
        with self._owner.lock:
            if self.stopped.is_set():
                return
            self._owner.states[self.id] = state
            kept = {"cursor": self._owner.states} if self._owner.fits() else {}
            attune.emit(payload, self.trigger, self.id, event_id, **kept)

    def complain(self, problem):
        """Logs a problem once, until it is another or over (None)."""
        if problem != self._told and (problem or self._told):
            print(f"{self.id}: {problem or 'it works again'}", file=sys.stderr, flush=True)
        self._told = problem


class Watches:
    """Runs watch(Watch) in a thread of its own for each instance, until its stopped is set."""

    def __init__(self, watch):
        self.lock = threading.RLock()
        self.states = attune.cursor({})
        self._watch = watch
        self._running = {}
        self._full = False

    def fits(self):
        """Whether all that is kept has room in a cursor."""
        if len(json.dumps(self.states)) <= CURSOR_LIMIT:
            return True
        if not self._full:
            self._full = True
            print("there is too much to keep: a restart begins anew", file=sys.stderr, flush=True)
        return False

    def run(self):
        self._set(attune.instances())
        attune.Feed(self._set)
        threading.Event().wait()

    def _set(self, instances):
        wanted = {i["instance"]: i for i in instances}
        with self.lock:
            for name in [n for n in self._running if n not in wanted]:
                self._running.pop(name).stopped.set()
            # What nobody wants any more must not fill the cursor.
            for name in [n for n in self.states if n not in wanted]:
                del self.states[name]
            for name, instance in wanted.items():
                if name not in self._running:
                    one = Watch(self, instance)
                    self._running[name] = one
                    threading.Thread(target=self._live, args=(one,), daemon=True).start()

    def _live(self, one):
        while not one.stopped.is_set():
            try:
                self._watch(one)
                return
            except Exception:  # a mistake of ours must not silence an instance for ever
                traceback.print_exc()
                one.stopped.wait(10)
