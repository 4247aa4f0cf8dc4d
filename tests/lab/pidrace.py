#!/usr/bin/python3
"""The race for a process id: somebody opens what is not his and is killed in the middle; his number goes to a process
of the instance whose it is, while the daemon still looks at the caller. tests/lab_pidrace.rs judges by the audit log.

    pidrace.py PATH ROUNDS DAEMON OWNER_INIT OWNER_CGROUP [THIEF_INIT THIEF_CGROUP]

Nobody whose PATH it is ever opens it here. The thief is a process of the host, or of another instance if one is named
(which has a user namespace, and the host's pid namespace). Prints what was tried, as JSON.
"""
import ctypes, json, mmap, os, random, signal, sys, time

libc = ctypes.CDLL(None, use_errno=True)
CLONE3, CLONE_INTO_CGROUP = 435, 1 << 33
CLONE_NEWPID, CLONE_NEWUSER = 0x20000000, 0x10000000


class Args(ctypes.Structure):
    """struct clone_args of linux/sched.h."""
    _fields_ = [(name, ctypes.c_uint64) for name in (
        "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
        "set_tid", "set_tid_size", "cgroup")]


def clone(cgroup, *numbers):
    """fork(2) into a cgroup, with these numbers, innermost pid namespace first. -errno if it cannot be."""
    wanted = (ctypes.c_int * len(numbers))(*numbers)
    args = Args(flags=CLONE_INTO_CGROUP if cgroup is not None else 0, exit_signal=signal.SIGCHLD,
                cgroup=cgroup if cgroup is not None else 0,
                set_tid=ctypes.addressof(wanted) if numbers else 0, set_tid_size=len(numbers))
    pid = libc.syscall(CLONE3, ctypes.byref(args), ctypes.sizeof(args))
    return pid if pid >= 0 else -ctypes.get_errno()


def setns(fd, kind):
    if libc.setns(fd, kind) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def steal(path, user, begun):
    """In the thief: opens again and again until it is killed."""
    try:
        if user is not None:
            setns(user, CLONE_NEWUSER)
        while True:
            begun[0] = 1
            fd = libc.open(path, os.O_RDONLY)
            if fd >= 0:
                os._exit(42)
    finally:
        os._exit(1)


def main():
    path, rounds, daemon, init, cgroup = sys.argv[1].encode(), *map(int, sys.argv[2:5]), sys.argv[5]
    thief = sys.argv[6:8]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are reaped at once, their numbers free
    own_pids, its_pids = os.open("/proc/self/ns/pid", os.O_RDONLY), os.open(f"/proc/{init}/ns/pid", os.O_RDONLY)
    its_cgroup = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    user = os.open(f"/proc/{thief[0]}/ns/user", os.O_RDONLY) if thief else None
    thief_cgroup = os.open(thief[1], os.O_RDONLY | os.O_DIRECTORY) if thief else None
    begun = mmap.mmap(-1, 1)  # shared with the thief: whether it is at it
    dice = random.Random(4711)
    done = {"rounds": rounds, "reused": 0, "stopped": 0, "late": 0}
    for number in range(rounds):
        begun[0] = 0
        setns(own_pids, CLONE_NEWPID)
        victim = clone(thief_cgroup)
        if victim == 0:
            steal(path, user, begun)
        if victim < 0:
            raise OSError(-victim, "clone3")
        setns(its_pids, CLONE_NEWPID)
        end = time.perf_counter() + 10
        while not begun[0] and time.perf_counter() < end:
            os.sched_yield()
        # From the very beginning of an open to some opens later.
        end = time.perf_counter() + dice.random() * 300e-6
        while time.perf_counter() < end:
            pass
        # Now and then the daemon is held up at this very moment, with or without the request in its hands.
        stopped = number % 10 == 0
        if stopped:
            os.kill(daemon, signal.SIGSTOP)
            done["stopped"] += 1
        os.kill(victim, signal.SIGKILL)
        killed, tries, heir = time.perf_counter(), 0, -1
        while heir < 0:
            # A clone that fails costs more than it takes for the number to be free.
            if libc.kill(victim, 0) != 0:
                heir = clone(its_cgroup, 2 + (number * 7 + tries) % 30000, victim)
                if heir == 0:
                    libc.pause()
                    os._exit(0)
            tries += 1
            os.sched_yield()
            if stopped and time.perf_counter() - killed > 0.002:
                os.kill(daemon, signal.SIGCONT)
                stopped = False
                done["late"] += 1
            if time.perf_counter() - killed > 10:
                raise OSError(-heir, f"the number {victim} does not become free")
        done["reused"] += heir == victim
        if stopped:
            os.kill(daemon, signal.SIGCONT)
        end = time.perf_counter() + dice.random() * 200e-6
        while time.perf_counter() < end:
            pass
        os.kill(heir, signal.SIGKILL)
    print(json.dumps(done))


main()
