//! What somebody was about when the kernel asked for attributes: a mere stat, or something it then refused.

use crate::access::Operation;
use crate::caller::{Process, SystemCall};
use std::time::Duration;

/// How often, and after what pause, a caller is looked at that is still on its way to sleep: on another processor the
/// request may be taken before the one who made it waits for the answer.
const LOOKS: u32 = 25;
const PAUSE: Duration = Duration::from_micros(20);

/// What the caller wants of the node; `None` if he only looks. Of one that cannot be seen to be in any system call, a
/// read is supposed: better a refusal too many on record than one missing.
pub(super) fn wants(caller: &Process) -> Option<Operation> {
    for _ in 0..LOOKS {
        match caller.current_call() {
            Some(call) => return wanted(&call),
            None => std::thread::sleep(PAUSE),
        }
    }
    Some(Operation::Read)
}

/// What the caller of this system call wants of the node; `None` if he only looks. Numbers of x86-64 (asm/unistd_64.h).
/// Of a call that is not listed, a read is supposed.
fn wanted(call: &SystemCall) -> Option<Operation> {
    match call.number {
        // stat, fstat, lstat, newfstatat, statx; lseek to the end.
        4 | 5 | 6 | 262 | 332 | 8 => None,
        // open, openat: by their flags.
        2 => Some(by_flags(call.arguments[1])),
        257 => Some(by_flags(call.arguments[2])),
        // creat, truncate.
        85 | 76 => Some(Operation::Write),
        // chmod, fchmod, chown, fchown, lchown, fchownat, fchmodat; utime, utimes, futimesat, utimensat; setxattr and its
        // kin; removexattr and its kin.
        90..=94 | 260 | 268 | 132 | 235 | 261 | 280 | 188..=190 | 197..=199 => Some(Operation::ChangeMeta),
        _ => Some(Operation::Read),
    }
}

fn by_flags(flags: u64) -> Operation {
    let flags = flags as libc::c_int;
    let only_writes = flags & libc::O_ACCMODE == libc::O_WRONLY;
    if only_writes { Operation::Write } else { Operation::Read }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_are_told_apart_by_their_flags_and_stats_are_nothing() {
        let call = |number, arguments| SystemCall { number, arguments };
        assert_eq!(wanted(&call(332, [0; 6])), None);
        assert_eq!(wanted(&call(257, [0, 0, libc::O_RDONLY as u64, 0, 0, 0])), Some(Operation::Read));
        let write = (libc::O_WRONLY | libc::O_TRUNC | libc::O_CREAT) as u64;
        assert_eq!(wanted(&call(257, [0, 0, write, 0, 0, 0])), Some(Operation::Write));
        assert_eq!(wanted(&call(2, [0, write, 0, 0, 0, 0])), Some(Operation::Write));
        assert_eq!(wanted(&call(59, [0; 6])), Some(Operation::Read), "execve");
    }
}
