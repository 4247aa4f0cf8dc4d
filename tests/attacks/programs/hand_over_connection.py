"""An operator connects to the control socket and hands the connection to a stranger:
hand_over_connection.py SOCKET OPERATOR GROUP STRANGER MESSAGE MESSAGE. What the stranger is answered: both messages while the operator runs,
then the first once more."""
import array, os, socket, sys

path, operator, group, stranger = sys.argv[1], *map(int, sys.argv[2:5])
messages = sys.argv[5:]
here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def become(uid, groups):
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


child = os.fork()
if child == 0:
    become(operator, [group])
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
    here.recv(1)  # until the other has asked
    os._exit(0)
become(stranger, [])
_, ancillary, _, _ = there.recvmsg(1, socket.CMSG_LEN(4))
connection = socket.socket(fileno=array.array("i", ancillary[0][2])[0])
connection.settimeout(10)


def ask(message):
    connection.sendall(message.encode() + b"\0")
    answer = b""
    while not answer.endswith(b"\0"):
        part = connection.recv(65536)
        if not part:
            break
        answer += part
    print(answer.rstrip(b"\0").decode())


for message in messages:
    ask(message)
there.send(b"x")
os.waitpid(child, 0)
ask(messages[0])
