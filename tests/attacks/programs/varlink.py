"""Speaks to the control socket: varlink.py SOCKET [--fds N] MESSAGE...; prints what comes back until it is closed, or for a second."""
import array, os, socket, sys

path, messages = sys.argv[1], sys.argv[2:]
fds = 0
if messages[:1] == ["--fds"]:
    fds, messages = int(messages[1]), messages[2:]
s = socket.socket(socket.AF_UNIX)
s.settimeout(10)
try:
    s.connect(path)
except OSError as e:
    print("connect:", e.strerror)
    sys.exit(1)
try:
    for message in messages:
        data = message.encode() + b"\0"
        if fds:
            sent = array.array("i", [os.open(__file__, os.O_RDONLY)] * fds)
            s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
        else:
            s.sendall(data)
    s.shutdown(socket.SHUT_WR)
except OSError:
    pass  # closed already: what it said before, if anything, is read
answer = b""
try:
    while part := s.recv(65536):
        answer += part
except ConnectionError:
    pass
sys.stdout.write(answer.replace(b"\0", b"\n").decode())
