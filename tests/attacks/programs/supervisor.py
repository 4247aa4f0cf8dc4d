#!/usr/bin/python3
"""A false supervisor: takes what a daemon hands to its descriptor store (sd_notify(3), FDSTORE=1) at the socket SOCKET, and
tries to get bytes out of the identity's descriptor without mapping it. Prints what came of each try."""
import array
import os
import socket
import sys
import tempfile


def identity(server):
    while True:
        data, control, _, _ = server.recvmsg(4096, socket.CMSG_SPACE(16 * 4))
        for level, kind, content in control:
            if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                continue
            fds = array.array("i")
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            if b"FDNAME=pinfold-identity" in data:
                return fds[0]
            for fd in fds:
                os.close(fd)


def main():
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(sys.argv[1])
    print("ready", flush=True)
    fd = identity(server)
    print("taken", os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size, flush=True)
    sys.stdin.readline()
    to = tempfile.TemporaryFile()
    tries = {
        "read": lambda: os.read(fd, 4096),
        "pread": lambda: os.pread(fd, 4096, 0),
        "sendfile": lambda: os.sendfile(to.fileno(), fd, 0, 4096),
        "copy_file_range": lambda: os.copy_file_range(fd, to.fileno(), 4096, 0),
        "splice": lambda: os.splice(fd, os.pipe()[1], 4096, 0),
        "reopen": lambda: os.read(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), 4096),
        "reopen-rw": lambda: os.read(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), 4096),
        "write": lambda: os.write(fd, b"x"),
    }
    for name, attempt in tries.items():
        try:
            print(name, "got", attempt(), flush=True)
        except OSError as error:
            print(name, "refused", error.strerror, flush=True)
    print("done", flush=True)
    # Held until the test has done.
    sys.stdin.readline()


main()
