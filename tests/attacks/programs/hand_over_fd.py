"""The owner opens a secret and hands the descriptor to a stranger: hand_over_fd.py FILE OWNER STRANGER. What the stranger can do with it."""
import array, os, socket, sys

path, owner, stranger = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


if os.fork() == 0:
    become(owner)
    fd = os.open(path, os.O_RDONLY)
    here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    here.recv(1)  # until the other has tried
    os._exit(0)
become(stranger)
_, ancillary, _, _ = there.recvmsg(1, socket.CMSG_LEN(4))
fd = array.array("i", ancillary[0][2])[0]


def told(what, try_it):
    try:
        print(what, try_it())
    except OSError as e:
        print(what, "refused:", e.strerror)


told("read", lambda: os.pread(fd, 100, 0).decode())
told("reopened", lambda: os.read(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), 100).decode())
told("opened", lambda: os.read(os.open(path, os.O_RDONLY), 100).decode())
there.send(b"x")
os.wait()
