#!/usr/bin/python3
"""Makes an idmapped copy of a mount: idmap.py MOUNT TARGET UID. There, what is of UID shows as root's, and a process of
root's acts as UID. Prints "mapped", or the errno of the step that failed (open_tree, mount_setattr, move_mount)."""
import ctypes
import os
import struct
import subprocess
import sys

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_IDMAP = 0x00100000

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(step, number, *args):
    done = libc.syscall(ctypes.c_long(number), *args)
    if done < 0:
        print(step, os.strerror(ctypes.get_errno()))
        sys.exit(1)
    return done


def main():
    source, target, uid = sys.argv[1], sys.argv[2], int(sys.argv[3])
    # A user namespace whose map is taken: what is UID on the disk is 0 seen through the mount.
    child = subprocess.Popen(["unshare", "--user", "sleep", "60"], start_new_session=True)
    try:
        own = os.readlink("/proc/self/ns/user")
        path = f"/proc/{child.pid}/ns/user"
        while os.readlink(path) == own:
            pass
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{child.pid}/{kind}", "w") as file:
                file.write(f"{uid} 0 1")
        namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        tree = call("open_tree", OPEN_TREE, ctypes.c_int(AT_FDCWD), source.encode(),
                    ctypes.c_uint(OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC))
        attributes = struct.pack("QQQQ", MOUNT_ATTR_IDMAP, 0, 0, namespace)
        call("mount_setattr", MOUNT_SETATTR, ctypes.c_int(tree), b"", ctypes.c_uint(AT_EMPTY_PATH), attributes,
             ctypes.c_size_t(len(attributes)))
        call("move_mount", MOVE_MOUNT, ctypes.c_int(tree), b"", ctypes.c_int(AT_FDCWD), target.encode(),
             ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH))
        print("mapped")
    finally:
        child.kill()
        child.wait()


main()
