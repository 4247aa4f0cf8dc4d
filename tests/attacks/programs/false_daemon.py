"""Listens in the daemon's place as UID, and tells how many bytes it was sent: false_daemon.py SOCKET UID."""
import os, socket, sys

path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
s = socket.socket(socket.AF_UNIX)
s.bind(path)
os.chmod(path, 0o666)
s.listen(5)
print("listening", flush=True)
c, _ = s.accept()
c.settimeout(20)
got = b""
try:
    while part := c.recv(65536):
        got += part
except OSError:
    pass
print(len(got), flush=True)
