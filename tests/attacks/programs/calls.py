"""Attempts that the kernel refuses, one system call each.

    calls.py rdwr FILE          open for reading and writing
    calls.py change DIRECTORY   everything that changes the entries of a directory which holds `f`, `d/` and `l`
    calls.py knock FILE...      open each for reading
    calls.py again FILE         opens O_PATH, and reopens that through /proc/self/fd
    calls.py handle ROOT FILE   name_to_handle_at, then open_by_handle_at, then read
"""

import ctypes
import errno
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)


def attempt(what, act):
    try:
        act()
        print(what, "done", flush=True)
    except OSError as error:
        print(what, errno.errorcode[error.errno], flush=True)


def by_handle(root, path):
    handle = ctypes.create_string_buffer(8 + 128)
    ctypes.c_uint.from_buffer(handle).value = 128
    mount = ctypes.c_int()
    at_fdcwd = -100
    if libc.name_to_handle_at(at_fdcwd, path.encode(), handle, ctypes.byref(mount), 0) != 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    descriptor = libc.open_by_handle_at(root, handle, os.O_RDONLY)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    print(os.read(descriptor, 100))


def again(path):
    descriptor = os.open(path, os.O_PATH)
    print(os.read(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY), 100))


mode, arguments = sys.argv[1], sys.argv[2:]
print("pid", os.getpid(), flush=True)
if mode == "rdwr":
    attempt("open", lambda: os.open(arguments[0], os.O_RDWR))
elif mode == "change":
    os.chdir(arguments[0])
    attempt("unlink", lambda: os.unlink("f"))
    attempt("rmdir", lambda: os.rmdir("d"))
    attempt("mkdir", lambda: os.mkdir("new"))
    attempt("rename", lambda: os.rename("f", "g"))
    attempt("symlink", lambda: os.symlink("f", "new"))
    attempt("link", lambda: os.link("f", "new"))
    attempt("mknod", lambda: os.mknod("new"))
    attempt("creat", lambda: os.open("new", os.O_CREAT | os.O_WRONLY | os.O_EXCL))
elif mode == "knock":
    for path in arguments:
        attempt(os.path.basename(path), lambda: os.open(path, os.O_RDONLY))
elif mode == "again":
    attempt("open", lambda: again(arguments[0]))
elif mode == "handle":
    attempt("open", lambda: by_handle(*arguments))
