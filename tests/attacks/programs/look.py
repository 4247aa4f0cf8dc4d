"""Looks at what a directory's mode protects: its entries, a link, attributes, a file below, each by one system call.

    look.py DIRECTORY FILE LINK    prints a line for each: what it was, and what came of it
    look.py --beneath DIRECTORY FILE
                                   the file by a descriptor on its directory, opened before the capabilities are dropped
"""

import errno
import os
import sys


def attempt(what, act):
    try:
        print(what, "saw", act(), flush=True)
    except OSError as error:
        print(what, errno.errorcode[error.errno], flush=True)


def content(path, **more):
    descriptor = os.open(path, os.O_RDONLY, **more)
    try:
        return os.read(descriptor, 100).decode()
    finally:
        os.close(descriptor)


if sys.argv[1] == "--beneath":
    directory = os.open(sys.argv[2], os.O_PATH | os.O_DIRECTORY)
    os.setgroups([])
    os.setresgid(2002, 2002, 2002)
    os.setresuid(2002, 2002, 2002)
    print("pid", os.getpid(), flush=True)
    attempt("open", lambda: content(sys.argv[3], dir_fd=directory))
    sys.exit()

directory, file, link = sys.argv[1:4]
print("pid", os.getpid(), flush=True)
attempt("list", lambda: sorted(os.listdir(directory)))
attempt("readlink", lambda: os.readlink(link))
attempt("getxattr", lambda: os.getxattr(file, "user.note").decode())
attempt("listxattr", lambda: os.listxattr(file))
attempt("open", lambda: content(file))
