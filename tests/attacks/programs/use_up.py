"""Uses up what a uid may have: use_up.py WHAT PATH NUMBER. Prints how many there were, and the error that ended it."""
import errno, os, socket, sys, threading, time

what, path, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
held = []


def name(error):
    return errno.errorcode.get(error.errno, str(error.errno))


def until_refused(step):
    for n in range(number):
        try:
            step(n)
        except OSError as error:
            return print(n, name(error))
    print(number, "ok")


def commit(n, size=1, at=None):
    fd = os.open(at or f"{path}/{what}-{n}", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(fd, b"x" * size)
    finally:
        os.close(fd)


def changed_directory(n):
    held.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    os.close(os.open(f"{path}/changed-{n}", os.O_WRONLY | os.O_CREAT, 0o600))


def dirty(n):
    held.append(os.open(f"{path}/dirty-{n}", os.O_WRONLY | os.O_CREAT, 0o600))
    os.write(held[-1], b"x")


def at_once():
    """Opens in many threads at the same time, `%` being the thread's number: how many ended how."""
    ended = []
    begin = threading.Barrier(number)

    def one(n):
        begin.wait()
        try:
            os.close(os.open(path.replace("%", str(n)), os.O_RDONLY))
            ended.append("ok")
        except OSError as error:
            ended.append(name(error))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(number)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(" ".join(f"{end}:{ended.count(end)}" for end in sorted(set(ended))))


def fsyncs(seconds):
    """Writes and syncs in many threads until the time is over."""
    until = time.monotonic() + seconds

    def one(n):
        fd = os.open(f"{path}/fsync-{n}", os.O_WRONLY | os.O_CREAT, 0o600)
        while time.monotonic() < until:
            os.pwrite(fd, b"x" * 100, 0)
            os.fsync(fd)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(number)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print("done")


def timed(step):
    begun = time.monotonic()
    for n in range(number):
        step(n)
    print(f"{time.monotonic() - begun:.3f}")


def latencies():
    took = []
    for _ in range(number):
        begun = time.monotonic()
        os.close(os.open(path, os.O_RDONLY))
        took.append(time.monotonic() - begun)
        time.sleep(0.001)
    print(f"{sorted(took)[int(number * 0.99) - 1] * 1000:.1f}")


def credentials():
    """Connects and reads nothing: a place is held where something came, and was refused where the other end is closed."""
    for _ in range(number):
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].connect(path)
    given = [bool(connected.recv(1, socket.MSG_PEEK)) for connected in held]
    print(f"{given.count(True)} held, {given.count(False)} closed")


def removed(n):
    commit(n)
    os.unlink(f"{path}/{what}-{n}")


def hold():
    """Until it is told to go on, if it was asked to."""
    if len(sys.argv) > 4:
        sys.stdout.flush()
        sys.stdin.readline()


match what:
    case "handles":
        until_refused(lambda n: held.append(os.open(path, os.O_RDONLY)))
        hold()
    case "directories":
        until_refused(lambda n: held.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY)))
        hold()
    case "changed-directories":
        until_refused(changed_directory)
    case "dirty":
        until_refused(dirty)
    case "files":
        until_refused(lambda n: os.close(os.open(f"{path}/file-{n}", os.O_WRONLY | os.O_CREAT, 0o600)))
    case "small":
        until_refused(commit)
    case "large":
        until_refused(lambda n: commit(n, 60_000))
    case "removed":
        until_refused(removed)
    case "guesses":
        for n in range(number):
            try:
                os.open(f"{path}/guess-{n}", os.O_WRONLY | os.O_CREAT, 0o600)
            except OSError:
                pass
        print("done")
    case "opens":
        timed(lambda n: os.close(os.open(path, os.O_RDONLY)))
    case "credentials":
        credentials()
    case "chmods":
        timed(lambda n: os.chmod(path, 0o600 if n % 2 else 0o640))
    case "times":
        timed(lambda n: os.utime(path, (n, n)))
    case "attributes":
        timed(lambda n: os.setxattr(path, "user.note", str(n).encode()))
    case "lists":
        timed(lambda n: os.system(f"setfacl -m u:{n + 1}:r {path}"))
    case "commits":
        timed(lambda n: commit(n, at=f"{path}/same"))
    case "at-once":
        at_once()
    case "fsyncs":
        fsyncs(4)
    case "latencies":
        latencies()
