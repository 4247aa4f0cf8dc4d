# Opens a file for reading and writing, says so, waits for a line, and then writes, syncs and closes: what each said.
#
#     held_writer.py FILE NEW [late]        with "late" it writes before it waits; with "made" it makes the file

import errno
import os
import sys

path, new, how = sys.argv[1], sys.argv[2].encode(), sys.argv[3:]


def tell(what, act):
    try:
        act()
        print(what, "ok", flush=True)
    except OSError as error:
        print(what, errno.errorcode[error.errno], flush=True)


fd = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if "made" in how else 0), 0o600)
if "late" in how:
    tell("write", lambda: os.pwrite(fd, new, 0))
print("open", flush=True)
sys.stdin.readline()
if "late" not in how:
    tell("write", lambda: os.pwrite(fd, new, 0))
tell("fsync", lambda: os.fsync(fd))
tell("close", lambda: os.close(fd))
