"""Starts pinfold as systemd does where pinfold-credentials.socket is enabled: with_credentials.py SOCKET BINARY ARG…"""
import os, socket, sys

where, binary, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
if "mount" in arguments:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
    os.chmod(where, 0o666)
    listener.listen(64)
    os.dup2(listener.fileno(), 3)
    os.set_inheritable(3, True)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "pinfold-credentials"}
os.execv(binary, [binary, *arguments])
