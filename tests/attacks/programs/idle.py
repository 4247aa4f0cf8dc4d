"""Opens COUNT connections to the control socket as UID (in GROUP), says nothing, and tells how many stay open: idle.py SOCKET COUNT UID GROUP."""
import os, resource, select, socket, sys

path, count, uid, group = sys.argv[1], *map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
os.setgroups([group])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
held, failed = [], 0
for _ in range(count):
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(path)
        held.append(s)
    except OSError:
        failed += 1
poll = select.poll()
for s in held:
    poll.register(s, select.POLLIN)
# What is closed can be read: an answer, then the end. Until there is nothing new for a second.
closed = set()
while True:
    more = {fd for fd, _ in poll.poll(1000)}
    for fd in more:
        poll.unregister(fd)
    closed |= more
    if not more:
        break
print(len(held), len(held) - len(closed), failed, flush=True)
sys.stdin.readline()
