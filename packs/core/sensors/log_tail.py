"""core.log_tail: follows files and tells of lines that match.

What was read is kept as the inode and the place in it. A file that has another inode was rotated: what is
left of the old one is read first, also where it was rotated while nobody looked, if it still is in the same
folder. A file that is shorter than what was read was truncated, and is read from its beginning.
"""

import os
import re
import secrets
import time

from watching import Watches

LINE_LIMIT = 64 << 10  # longer lines are looked at in parts
CARRIED = 16 << 10  # of a line, in an event
KEEP_EVERY = 30  # seconds between two cursors without an event


def clean(text):
    return text.decode("utf-8", "replace").replace("\0", "\ufffd")


class Tail:
    """One file that is followed."""

    def __init__(self, watch):
        self.watch = watch
        self.path = watch.parameters["path"]
        self.pattern = re.compile(watch.parameters["pattern"])
        self.file = None
        self.epoch = self.position = None
        self.kept = time.monotonic()

    def state(self):
        status = os.fstat(self.file.fileno())
        return {"dev": status.st_dev, "ino": status.st_ino, "at": self.position, "epoch": self.epoch}

    def begin(self, file, position, epoch=None):
        """Follows a file from a place. The epoch tells it from all other files that ever had its inode."""
        if self.file is not None:
            self.file.close()
        self.file, self.position, self.epoch = file, position, epoch or secrets.token_hex(8)

    def resume(self, state):
        """Goes on where an earlier process was; False: that file is nowhere."""
        folder, name = os.path.split(self.path)
        candidates = [self.path]
        try:
            candidates += sorted(os.path.join(folder, n) for n in os.listdir(folder) if n != name and n.startswith(name))
        except OSError:
            pass
        for path in candidates:
            file = self.open(path)
            if file is None:
                continue
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) == (state["dev"], state["ino"]):
                if status.st_size < state["at"]:
                    self.begin(file, 0)
                else:
                    self.begin(file, state["at"], state["epoch"])
                return True
            file.close()
        return False

    @staticmethod
    def open(path):
        try:
            # A FIFO must not hold us.
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
        except OSError:
            return None
        if not os.path.isfile(path):
            file.close()
            return None
        return file

    def look(self):
        """One look: what is new in the file, and whether it still is the one of its name."""
        if self.file is None:
            self.start()
            if self.file is None:
                self.watch.complain(f"cannot read {self.path}: it is no file that can be read")
                return
            self.watch.complain(None)
        # First the name, then the rest: what is written in between to the old file is still read.
        try:
            named = os.stat(self.path)
        except OSError:
            named = None
        own = os.fstat(self.file.fileno())
        if own.st_size < self.position:
            self.begin(os.fdopen(os.dup(self.file.fileno()), "rb", buffering=0), 0)
            self.watch.keep(self.state())
        rotated = named is not None and (named.st_dev, named.st_ino) != (own.st_dev, own.st_ino)
        self.read(to_the_end=rotated)
        if rotated:
            following = self.open(self.path)
            if following is not None:
                self.begin(following, 0)
                self.watch.keep(self.state())
                self.read()
        if time.monotonic() - self.kept > KEEP_EVERY:
            self.kept = time.monotonic()
            self.watch.keep(self.state())

    def start(self):
        state = self.watch.state
        if state and self.resume(state):
            return
        file = self.open(self.path)
        if file is None:
            if state is None:
                # All that comes into a file which was not there is new.
                self.watch.parameters["from"] = "beginning"
            return
        if state is None and self.watch.parameters.get("from") != "beginning":
            self.begin(file, file.seek(0, os.SEEK_END))
        else:
            self.begin(file, 0)
        self.watch.keep(self.state())

    def read(self, to_the_end=False):
        """Reads whole lines; with to_the_end also a last one that has no end, as nobody writes on."""
        rest = b""
        while not self.watch.stopped.is_set():
            chunk = os.pread(self.file.fileno(), LINE_LIMIT, self.position + len(rest))
            data = rest + chunk
            lines = data.split(b"\n")
            rest = lines.pop()
            for line in lines:
                self.take(line, len(line) + 1)
            if len(rest) >= LINE_LIMIT or not chunk and to_the_end and rest:
                self.take(rest, len(rest))
                rest = b""
            if not chunk:
                return

    def take(self, raw, size):
        offset = self.position
        self.position += size
        line = clean(raw.rstrip(b"\r"))
        match = self.pattern.search(line)
        if not match:
            return
        payload = {
            "path": self.path,
            "line": line[:CARRIED],
            "match": match.group(0)[:CARRIED],
            "groups": [g if g is None else g[:CARRIED] for g in match.groups()],
            "named": {k: g if g is None else g[:CARRIED] for k, g in match.groupdict().items()},
            "offset": offset,
        }
        self.watch.emit(payload, f"{self.watch.id}:{self.epoch}:{offset}", self.state())


def follow(watch):
    try:
        tail = Tail(watch)
    except re.error as err:
        watch.complain(f"cannot use pattern {watch.parameters['pattern']!r}: {err}")
        watch.stopped.wait()
        return
    while not watch.stopped.is_set():
        tail.look()
        watch.stopped.wait(float(watch.parameters.get("interval") or 1))


Watches(follow).run()
