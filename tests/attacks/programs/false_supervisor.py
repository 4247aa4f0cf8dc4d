"""Keeps the descriptors of `pinfold mount --hand-over` as systemd does, and gives them to whoever is started next: as they are, or not.

Commands on standard input, a line each; each is answered by a line.
"""
import array
import fcntl
import os
import signal
import socket
import sys
import threading
import time

binary, config, log = sys.argv[1:]
home = os.path.dirname(config)
where = os.path.join(home, "notify.sock")
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
notify.bind(where)
os.chmod(where, 0o600)
store = {}
ready = set()
children = []
# After how many more messages of a daemon it is killed; what it says after that is not heard.
deaf_after = None
changed = threading.Condition()


def listen():
    global deaf_after
    while True:
        data, ancillary, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(16 * 4))
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % 4])
        for fd in fds:
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        lines = dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)
        with changed:
            if deaf_after == 0:
                for fd in fds:
                    os.close(fd)
                continue
            name = lines.get("FDNAME", "")
            if "FDSTOREREMOVE" in lines:
                for fd in store.pop(name, []):
                    os.close(fd)
            elif "FDSTORE" in lines:
                # One of each name is enough here: systemd knows by kcmp(2) which it has already.
                kept = store.setdefault(name, [])
                for fd in fds:
                    os.close(fd) if kept else kept.append(fd)
            if "READY" in lines:
                ready.add(len(children))
            if deaf_after:
                deaf_after -= 1
                if deaf_after == 0:
                    os.kill(children[-1], signal.SIGKILL)
            changed.notify_all()


def spawn(uid=None):
    with changed:
        passed = [(name, fd) for name, fds in store.items() for fd in fds]
    pid = os.fork()
    if pid == 0:
        out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        # First out of the way of the numbers that they are to have.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200) for _, fd in passed]
        for at, fd in enumerate(high):
            os.dup2(fd, 3 + at)
        environment = dict(os.environ, NOTIFY_SOCKET=where)
        if passed:
            environment |= {
                "LISTEN_PID": str(os.getpid()),
                "LISTEN_FDS": str(len(passed)),
                "LISTEN_FDNAMES": ":".join(name for name, _ in passed),
            }
        if uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        os.execve(binary, [binary, "--config", config, "mount", "--hand-over"], environment)
    with changed:
        ready.discard(len(children) + 1)
        children.append(pid)
    return pid


def ended(pid):
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return found == pid


def await_ready():
    """Until the one started last is ready, or has ended."""
    until = time.monotonic() + 30
    with changed:
        while len(children) not in ready:
            changed.wait(0.02)
            if ended(children[-1]):
                return "ended"
            if time.monotonic() > until:
                return "hangs"
    return "ready"


def start_as(uid):
    spawn(int(uid))
    return await_ready()


def end(number, pid=None):
    pid = pid or children[-1]
    os.kill(pid, number)
    until = time.monotonic() + 30
    while not ended(pid):
        if time.monotonic() > until:
            return "hangs"
        time.sleep(0.005)
    return "ended"


def start(*_):
    spawn()
    return await_ready()


def twice():
    """Two at once, with the same descriptors: how each ended, or that it is ready."""
    first, second = spawn(), spawn()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        gone = [pid for pid in (first, second) if ended(pid)]
        if gone:
            left = second if gone[0] == first else first
            children.append(children.pop(children.index(left)))
            with changed:
                changed.wait_for(lambda: len(children) in ready, 30)
            return f"{len(gone)} ended, the other is {'ready' if len(children) in ready else 'not ready'}"
        time.sleep(0.005)
    return "both go on"


def killed(delay="0"):
    """Starts the next and kills it so many microseconds later, wherever it is then."""
    pid = spawn()
    time.sleep(int(delay) / 1e6)
    return end(signal.SIGKILL, pid)


def killed_after(messages):
    """Starts the next and kills it when it has said so much: "ended", or "ready" if it has no more to say."""
    global deaf_after
    with changed:
        deaf_after = int(messages)
    spawn()
    said = await_ready()
    with changed:
        was_killed = deaf_after == 0
        deaf_after = None
    if was_killed and said != "ended":
        said = end(signal.SIGKILL)
    return said


def forget(name):
    with changed:
        for fd in store.pop(name, []):
            os.close(fd)
    return "ok"


def swap(name, kind):
    """In the place of what was left under this name, something of another kind."""
    made = {
        "null": lambda: os.open("/dev/null", os.O_RDWR),
        "file": lambda: os.open(config, os.O_RDONLY),
        "fuse": lambda: os.open("/dev/fuse", os.O_RDWR),
        "pipe": lambda: os.pipe()[0],
        "socket": lambda: socket.socketpair()[0].detach(),
    }[kind]()
    with changed:
        swapped = store.get(name, [])
        aside.setdefault(name, swapped)
        store[name] = [made]
    return "ok"


aside = {}


def back(name):
    with changed:
        for fd in store.pop(name):
            os.close(fd)
        store[name] = aside.pop(name)
    return "ok"


def replace(name, kind):
    """The same for good."""
    forget(name)
    swap(name, kind)
    aside.pop(name)
    return "ok"


def scribble(first, last, value):
    """Writes a number into a range of the words of the table of handles."""
    with changed:
        fd = store["pinfold-handles"][0]
        for word in range(int(first), int(last)):
            os.pwrite(fd, int(value).to_bytes(8, "little"), word * 8)
    return "ok"


def names():
    with changed:
        return " ".join(sorted(f"{name}:{len(fds)}" for name, fds in store.items())) or "none"


commands = {
    "start": start,
    "start_as": start_as,
    "twice": twice,
    "restart": lambda: f"{end(signal.SIGTERM)} {start()}",
    "stop": lambda: end(signal.SIGTERM),
    "kill": lambda: end(signal.SIGKILL),
    "killed": killed,
    "killed_after": killed_after,
    "forget": forget,
    "swap": swap,
    "back": back,
    "replace": replace,
    "scribble": scribble,
    "names": names,
    "pid": lambda: str(children[-1]),
}

threading.Thread(target=listen, daemon=True).start()
try:
    for line in sys.stdin:
        word, *rest = line.split()
        print(commands[word](*rest), flush=True)
finally:
    for child in children:
        if not ended(child):
            end(signal.SIGKILL, child)
