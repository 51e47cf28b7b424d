"""core.process: tells when processes start and end, by looking at /proc.

What was seen is kept: who ended while nobody looked is told when somebody looks again. What runs when an
instance is new is where it begins, and no event.
"""

import datetime
import os
import pwd
import re

from watching import Watches

CARRIED = 4096  # bytes of a command line
MOST = 100  # processes that are kept for an instance: more would fill the cursor


def boot():
    """The id of this boot of the machine, and when it was, in seconds since 1970."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        name = file.read().strip()[:8]
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            if line.startswith("btime "):
                return name, int(line.split()[1])
    return name, 0


BOOT, BOOTED_AT = boot()
TICKS = os.sysconf("SC_CLK_TCK")


def user_name(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def look_at(pid):
    """A process as an event tells of it, with the tick of its start; None: it is gone, or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(CARRIED).rstrip(b"\0").split(b"\0")
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    name, _, rest = stat.partition(b" (")[2].rpartition(b") ")
    fields = rest.split()
    if fields[0] in (b"Z", b"X"):
        return None
    tick = int(fields[19])
    started = datetime.datetime.fromtimestamp(BOOTED_AT + tick / TICKS, datetime.timezone.utc)
    return {
        "pid": pid,
        "name": name.decode("utf-8", "replace"),
        "command": b" ".join(words).decode("utf-8", "replace"),
        "file": os.path.basename(words[0]).decode("utf-8", "replace"),
        "user": user_name(uid),
        "started_at": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "tick": tick,
    }


def wanted(one, parameters, pattern):
    name = parameters.get("name")
    if name and name not in (one["name"], one["file"]):
        return False
    if pattern and not pattern.search(one["command"]):
        return False
    return not parameters.get("user") or parameters["user"] == one["user"]


def seen(parameters, pattern):
    """The processes that are wanted, by the name that no other process of this boot shares."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        one = look_at(int(entry))
        if one and wanted(one, parameters, pattern):
            found[f"{BOOT}:{one['pid']}:{one['tick']}"] = one
            if len(found) == MOST:
                break
    return found


def kept(one):
    """What is kept of a process, so that its end can be told of: a cursor has little room."""
    return [one["pid"], one["name"], one["command"][:60], one["user"], one["started_at"]]


def payload(event, of):
    return {"event": event, **dict(zip(("pid", "name", "command", "user", "started_at"), of))}


def follow(watch):
    p = watch.parameters
    try:
        pattern = re.compile(p["pattern"]) if p.get("pattern") else None
    except re.error as err:
        watch.complain(f"cannot use pattern {p['pattern']!r}: {err}")
        watch.stopped.wait()
        return
    event = p.get("event") or "both"
    known = watch.state
    while not watch.stopped.is_set():
        now = seen(p, pattern)
        if known is None:
            known = {key: kept(one) for key, one in now.items()}
            watch.keep(dict(known))
        if len(now) == MOST:
            watch.complain(f"more than {MOST} processes are meant; the others are not looked at")
        for key in [k for k in known if k not in now]:
            gone = known.pop(key)
            if event != "started":
                watch.emit(payload("ended", gone), f"{watch.id}:{key}:ended", dict(known))
        for key in [k for k in now if k not in known]:
            one = now[key]
            known[key] = kept(one)
            if event != "ended":
                told = payload("started", kept(one))
                told["command"] = one["command"]
                watch.emit(told, f"{watch.id}:{key}:started", dict(known))
        watch.keep(dict(known))
        watch.stopped.wait(float(p.get("interval") or 2))


Watches(follow).run()
