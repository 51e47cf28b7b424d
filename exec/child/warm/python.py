"""Parent of warm Python children: imports what scripts import, and forks a child for each socket that
it is handed. The fork in between ends at once, so that the children become those of the daemon.

Started as: python3 python.py FOLDER-OF-THE-PACK, with a socket to the daemon as descriptor 3. Messages
are a length of four bytes and fields that end in NUL; descriptors come along with the first byte.

What is imported ahead is what a script names and what does not come from its own pack: the pack's
modules may look at the environment of one attempt when they are imported.
"""

import atexit
import builtins
import gc
import os
import sys

import _imp
import _socket
import _thread


class Parent:
    # Importing these does something that a person would see.
    SHY = ("antigravity", "this", "idlelib", "turtle", "tkinter")

    def __init__(self):
        atexit.register(self.leave)  # the first to be registered is the last to be called
        self.status = None
        self.look()
        self.root = os.path.join(os.path.realpath(sys.argv[1]), "")
        self.preload = sys.argv[2:] != ["bare"]
        self.codes = {}
        self.sock = self.socket(3)
        if not getattr(sys.flags, "safe_path", False):
            del sys.path[0]
        gc.collect()
        gc.freeze()
        self.say(b"up")

    @staticmethod
    def socket(fd):
        os.set_inheritable(fd, False)
        return _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)

    def say(self, text):
        self.sock.sendall(text + b"\n")

    @staticmethod
    def hear(sock):
        """Gives the fields of a message and its descriptors; ends the process where there is no more."""
        head, extra, _, _ = sock.recvmsg(4, _socket.CMSG_SPACE(4 * 64), _socket.MSG_CMSG_CLOEXEC)
        fds = []
        for _, kind, data in extra:
            if kind == _socket.SCM_RIGHTS:
                size = len(data) // 4
                fds += [int.from_bytes(data[4 * i : 4 * i + 4], sys.byteorder) for i in range(size)]
        while 0 < len(head) < 4:
            head += sock.recv(4 - len(head))
        if not head:
            os._exit(0)
        rest, parts = int.from_bytes(head, "big"), []
        while rest:
            part = sock.recv(min(rest, 1 << 16))
            if not part:
                os._exit(0)
            parts.append(part)
            rest -= len(part)
        return b"".join(parts).split(b"\0")[:-1], fds

    def serve(self):
        """Forks until it is in a child; gives the child's socket."""
        while True:
            scripts, fds = self.hear(self.sock)
            for script in scripts:
                self.prepare(os.fsdecode(script))
            if len(os.listdir("/proc/self/task")) > 1:
                self.say(b"unfit: an import started threads")
                os._exit(1)
            come, answer = os.pipe()
            try:
                middle = os.fork()
            except OSError as err:
                self.say(b"unfit: cannot fork: %s" % os.fsencode(str(err)))
                os._exit(1)
            if middle == 0:
                for fd in fds:
                    try:
                        pid = os.fork()
                    except OSError:
                        break
                    if pid == 0:
                        self.sock.close()
                        for other in (come, answer, *fds):
                            if other != fd:
                                os.close(other)
                        return self.socket(fd)
                    os.write(answer, b" %d" % pid)
                os._exit(0)
            for fd in (answer, *fds):
                os.close(fd)
            pids = b""
            while True:
                part = os.read(come, 4096)
                if not part:
                    break
                pids += part
            os.close(come)
            os.waitpid(middle, 0)
            self.say(b"forked" + pids)

    def prepare(self, script):
        """Compiles a script, and imports what it imports. What fails here fails in the child."""
        try:
            with open(script, "rb") as f:
                text = f.read()
            self.codes[script] = compile(text, script, "exec", dont_inherit=True)
            if self.preload:
                self.imports(compile(text, script, "exec", 0x400, dont_inherit=True))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            return
        self.look()
        gc.collect()
        gc.freeze()

    def imports(self, tree):
        whole = sys.path[:]
        sys.path[:] = [p for p in whole if not os.path.join(os.path.realpath(p), "").startswith(self.root)]
        todo = [tree]
        while todo:
            node = todo.pop()
            kind = type(node).__name__
            if kind == "Import":
                for alias in node.names:
                    self.fetch(alias.name, [])
            elif kind == "ImportFrom" and not node.level:
                self.fetch(node.module, [alias.name for alias in node.names if alias.name != "*"])
            for field in node._fields:
                value = getattr(node, field, None)
                for item in value if isinstance(value, list) else (value,):
                    if hasattr(item, "_fields"):
                        todo.append(item)
        sys.path[:] = whole

    def fetch(self, module, names):
        if module.split(".")[0] in self.SHY:
            return
        try:
            __import__(module, {}, {}, names, 0)
        except BaseException:
            pass

    def look(self):
        """Notes what is imported, so that a child can tell what it has imported itself."""
        self.known = {name: id(module) for name, module in sys.modules.items()}
        self.plain = all(map(self.is_plain, list(sys.modules.values())))

    @staticmethod
    def is_plain(module):
        """Tells whether a module is Python, or C that comes with it: other C may have buffers that are
        written only by the C library's exit."""
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(tuple(_imp.extension_suffixes())):
            return True
        folder, name = os.path.split(file)
        return os.path.basename(folder) == "lib-dynload" and not name.startswith("_ctypes.")

    def begin(self, sock):
        """In the child: takes its work, becomes what a new interpreter would be, and gives the code."""
        fields, fds = self.hear(sock)
        script, folder = os.fsdecode(fields[0]), fields[1]
        for item in fields[2:]:
            name, _, value = item.partition(b"=")
            os.environb[name] = value
        os.chdir(folder)
        for place, fd in enumerate(fds):
            os.dup2(fd, place)
            os.close(fd)
        sock.send(b"r")
        if sock.recv(1) != b"g":
            os._exit(0)
        sock.close()

        sys.argv = [script]
        if hasattr(sys, "orig_argv"):
            sys.orig_argv = [sys.executable, script]
        if not getattr(sys.flags, "safe_path", False):
            sys.path.insert(0, os.path.dirname(script))
        if "tempfile" in sys.modules:
            sys.modules["tempfile"].tempdir = None
        if "numpy.random" in sys.modules:  # unlike random, it does not know of forks
            sys.modules["numpy.random"].seed()
        main = type(sys)("__main__")
        values = main.__dict__
        for name in ("__annotations__", "__cached__"):
            if name in globals():
                values[name] = {} if name == "__annotations__" else None
        values["__builtins__"] = builtins
        values["__file__"] = script
        values["__loader__"] = type(__loader__)("__main__", script)
        sys.modules["__main__"] = main
        code = self.codes.get(script)
        if code is None:
            with open(script, "rb") as f:
                code = compile(f.read(), script, "exec", dont_inherit=True)
        return code, values

    def over(self, error=None):
        """Notes how the script has ended, where it is clear what the interpreter will make of it."""
        if error is None:
            self.status = 0
        elif isinstance(error, SystemExit):
            code = error.code
            if code is None:
                self.status = 0
            elif not isinstance(code, int):
                self.status = 1
            elif -(1 << 31) <= code < 1 << 31:
                self.status = code & 0xFF
        elif isinstance(error, Exception) and sys.excepthook is sys.__excepthook__:
            self.status = 1

    def leave(self):
        """Ends a child as the interpreter is about to, but takes apart only what the child has added: taking
        apart what was imported ahead means a copy of nearly each page that it shares with its parent.
        Where anything is unusual it does nothing, and the interpreter does all."""
        if self.status is None or not self.plain or _thread._count() > 0:
            return
        own = []
        try:
            for name in reversed(sys.modules):
                module = sys.modules[name]
                if self.known.get(name) == id(module):
                    break
                if not self.is_plain(module):
                    return
                own.append(name)
            own.append("__main__")
            self.flush()
            sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
            for name in ("last_type", "last_value", "last_traceback", "last_exc"):
                vars(sys).pop(name, None)
            while own:
                module = sys.modules.pop(own.pop(), None)
            module = None
            gc.collect()
            # What is still there hangs on a module that was imported ahead.
            if any(hasattr(type(thing), "__del__") for thing in gc.get_objects()):
                return
            self.flush()
        except BaseException:
            return  # it comes up again, and is told
        os._exit(self.status)

    @staticmethod
    def flush():
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()


class Hook:
    """Leaves our own frames out of a traceback."""

    def __init__(self, then):
        self.then = then

    def __call__(self, kind, value, trace):
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        self.then(kind, value.with_traceback(trace), trace)


parent = Parent()
work = parent.serve()
try:
    exec(*parent.begin(work))
    parent.over()
except SystemExit as error:
    parent.over(error)
    raise
except BaseException as error:
    parent.over(error)
    if callable(sys.excepthook):
        sys.excepthook = Hook(sys.excepthook)
    raise
