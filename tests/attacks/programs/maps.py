"""Opens, maps, reads and sends one file as it is told on standard input, a word a line; says what came of each."""
import ctypes
import errno
import mmap
import os
import select
import signal
import sys

descriptor = None
watcher = None
maps = []


def attempt(act):
    try:
        return act()
    except OSError as error:
        return errno.errorcode[error.errno]
    except (PermissionError, ValueError) as error:
        return repr(error)


def text(content):
    return bytes(content[:64]).decode("ascii", "replace").rstrip("\0\n") or "nothing"


def opened(path, how):
    global descriptor
    descriptor = os.open(path, {"ro": os.O_RDONLY, "rw": os.O_RDWR, "wo": os.O_WRONLY}[how])
    return "ok"


def mapped(kind, how="ro"):
    flags = {"private": mmap.MAP_PRIVATE, "shared": mmap.MAP_SHARED}[kind]
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if how == "rw" else 0)
    maps.append(mmap.mmap(descriptor, os.fstat(descriptor).st_size or 1, flags, prot))
    return "ok"


def sent():
    """Through the page cache, as sendfile(2) does with a file that is otherwise read past it."""
    out, into = os.pipe()
    os.sendfile(into, descriptor, 0, 64)
    os.close(into)
    content = os.read(out, 64)
    os.close(out)
    return text(content)


def kept():
    """A page in a pipe: the kernel cannot drop it."""
    out, into = os.pipe()
    maps.append((out, into))
    libc = ctypes.CDLL(None, use_errno=True)
    offset = ctypes.c_longlong(0)
    n = libc.splice(descriptor, ctypes.byref(offset), into, None, 64, 0)
    return "ok" if n > 0 else errno.errorcode[ctypes.get_errno()]


def closed():
    global descriptor
    os.close(descriptor)
    descriptor = None
    return "ok"


def unmapped():
    maps.pop().close()
    return "ok"


def watched(path):
    global watcher
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init1(os.O_NONBLOCK)
    close_write = 8
    return "ok" if libc.inotify_add_watch(watcher, path.encode(), close_write) > 0 else "no watch"


def heard():
    """Whether anything came within ten seconds; it is taken, with what else came until then."""
    if not select.select([watcher], [], [], 10)[0]:
        return "nothing"
    os.read(watcher, 65536)
    return "a change"


def fresh(path):
    reader = os.open(path, os.O_RDONLY)
    content = os.read(reader, 64)
    os.close(reader)
    return text(content)


def again(how="ro"):
    """What the descriptor names, opened anew, as `cat /dev/stdin` does."""
    return fresh(f"/proc/self/fd/{descriptor}")


def written(what):
    os.pwrite(descriptor, what.encode(), 0)
    return "ok"


def synced():
    os.fsync(descriptor)
    return "ok"


commands = {
    "watch": watched,
    "heard": heard,
    "open": opened,
    "map": mapped,
    "unmap": unmapped,
    "look": lambda at="-1": text(maps[int(at)]),
    "read": lambda: text(os.pread(descriptor, 64, 0)),
    "send": sent,
    "keep": kept,
    "close": closed,
    "fresh": fresh,
    "again": again,
    "write": written,
    "sync": synced,
    "ino": lambda: str(os.fstat(descriptor).st_ino),
    "mode": lambda: oct(os.fstat(descriptor).st_mode & 0o7777),
    "chmod": lambda mode: os.fchmod(descriptor, int(mode, 8)) or "ok",
    "lock": lambda: __import__("fcntl").lockf(descriptor, 6) or "ok",
    "size": lambda: str(os.fstat(descriptor).st_size),
}

signal.alarm(120)
for line in sys.stdin:
    word, *rest = line.split()
    print(attempt(lambda: commands[word](*rest)), flush=True)
