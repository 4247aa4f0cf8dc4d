//! What somebody was about when the kernel asked for attributes: a mere stat, or something it then refused.
//!
//! Nothing says which: it is read off the caller's system call. Its number is shown without the table that it counts by, and
//! a 64-bit process can make calls by the numbers of i386 (`int $0x80`), so both are looked up, and what either would be
//! refused counts. What is in no table, or cannot be seen, counts as everything.

use crate::access::Operation::{
    self, ChangeEntries, ChangeMeta, List, Read, ReadAttribute, Search, Touch, Write as Change,
};
use crate::caller::{Process, SystemCall};
use crate::vault::Attempt;
use libc::c_int;
use std::borrow::Cow;
use std::time::Duration;

/// How often, and after what pause, a caller is looked at that is still on its way to sleep: on another processor the
/// request may be taken before the one who made it waits for the answer.
const LOOKS: u32 = 25;
const PAUSE: Duration = Duration::from_micros(20);

/// In the number of a call of the x32 table (asm/unistd_x32.h), which has the numbers of x86-64 otherwise.
const X32: u32 = 0x4000_0000;
/// No process has anything mapped below (vm.mmap_min_addr): a smaller number is a descriptor, not a path's address.
const FIRST_PAGE: u64 = 4096;

/// What the caller may be about; nothing if he only looks. Better a refusal too many on record than one missing.
pub(super) fn attempts(caller: &Process) -> Vec<Attempt> {
    seen(caller).map_or_else(|| vec![anything("a call that could not be seen".into())], |call| of(&call))
}

/// Whether the caller himself asks for an attribute, and not the kernel before it decides something else.
pub(super) fn asks_for_attributes(caller: &Process) -> bool {
    attempts(caller).iter().any(|attempt| attempt.file.contains(&ReadAttribute))
}

fn seen(caller: &Process) -> Option<SystemCall> {
    for _ in 0..LOOKS {
        match caller.current_call() {
            Some(call) => return Some(call),
            None => std::thread::sleep(PAUSE),
        }
    }
    None
}

/// What the caller of this system call may be about.
fn of(call: &SystemCall) -> Vec<Attempt> {
    if call.pc == 0 {
        return vec![anything("io_uring".into())];
    }
    let arguments = &call.arguments;
    let wide = x86_64(call.number & !X32);
    let narrow = i386(call.number).filter(|kind| !kind.begins_with_path() || arguments[0] >= FIRST_PAGE);
    if wide.is_none() && narrow.is_none() {
        return vec![anything(format!("call {}", call.number).into())];
    }
    let mut all = Vec::new();
    for kind in wide.into_iter().chain(narrow) {
        for attempt in kind.attempts(arguments) {
            if !all.contains(&attempt) {
                all.push(attempt);
            }
        }
    }
    all
}

/// A system call, as far as it matters what the kernel asks of a mode for it. The number is that of an argument.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// stat and its kin; lseek.
    Looks,
    /// open, with these flags.
    Opens { flags: usize },
    /// access, with this mode.
    Asks { mode: usize },
    /// utime and its kin, with these times: none for now.
    Touches { times: usize },
    /// unlinkat, with these flags.
    Unlinks { flags: usize },
    /// Anything else: its name, what it asks of a file, and of a directory.
    Other(&'static str, &'static [Operation], &'static [Operation]),
    /// The same, with a path's address for its first argument.
    ByPath(&'static str, &'static [Operation], &'static [Operation]),
    /// open, with these flags and a path's address for its first argument.
    OpensPath { flags: usize },
}

fn anything(call: Cow<'static, str>) -> Attempt {
    Attempt { call, file: &[Read, Change, ReadAttribute], directory: ALL_DIRECTORY }
}

impl Kind {
    fn begins_with_path(self) -> bool {
        matches!(self, Kind::ByPath(..) | Kind::OpensPath { .. })
    }

    fn attempts(self, arguments: &[u64; 6]) -> Vec<Attempt> {
        let one = |call: &'static str, file, directory| vec![Attempt { call: call.into(), file, directory }];
        match self {
            Kind::Looks => Vec::new(),
            Kind::Opens { flags } | Kind::OpensPath { flags } => opens(arguments[flags] as c_int),
            Kind::Asks { mode } => asks(arguments[mode]),
            Kind::Touches { times } if arguments[times] == 0 => one("utimes", &[Touch], &[Search, Touch]),
            Kind::Touches { .. } => one("utimes", &[ChangeMeta], &[Search, ChangeMeta]),
            Kind::Unlinks { flags } if arguments[flags] as c_int & libc::AT_REMOVEDIR != 0 => {
                one("rmdir", &[], ENTRIES)
            }
            Kind::Unlinks { .. } => one("unlink", &[], ENTRIES),
            Kind::Other(call, file, directory) | Kind::ByPath(call, file, directory) => one(call, file, directory),
        }
    }
}

fn opens(flags: c_int) -> Vec<Attempt> {
    if flags & libc::O_PATH != 0 {
        return vec![Attempt { call: "open O_PATH".into(), file: &[], directory: &[Search] }];
    }
    // A directory is not opened for writing, only walked through: open(2) asks nothing of its mode before EISDIR.
    let (call, file, directory): (_, &[Operation], &[Operation]) = match flags & libc::O_ACCMODE {
        libc::O_RDONLY if flags & libc::O_TRUNC != 0 => ("open O_TRUNC", &[Read, Change], &[Search]),
        libc::O_RDONLY => ("open O_RDONLY", &[Read], &[Search, List]),
        libc::O_WRONLY => ("open O_WRONLY", &[Change], &[Search]),
        _ => ("open O_RDWR", &[Read, Change], &[Search]),
    };
    let makes = if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        Some("open O_TMPFILE")
    } else if flags & libc::O_CREAT != 0 {
        Some("open O_CREAT")
    } else {
        None
    };
    match makes {
        None => vec![Attempt { call: call.into(), file, directory }],
        Some(makes) => vec![
            Attempt { call: call.into(), file, directory: &[] },
            Attempt { call: makes.into(), file: &[], directory: ENTRIES },
        ],
    }
}

fn asks(mode: u64) -> Vec<Attempt> {
    let (file, directory): (&[Operation], &[Operation]) = match (mode & 4 != 0, mode & 2 != 0) {
        (true, true) => (&[Read, Change], &[Search, List, ChangeEntries]),
        (true, false) => (&[Read], &[Search, List]),
        (false, true) => (&[Change], ENTRIES),
        (false, false) => (&[], WALK),
    };
    vec![Attempt { call: "access".into(), file, directory }]
}

const WALK: &[Operation] = &[Search];
const ENTRIES: &[Operation] = &[ChangeEntries];
const META: &[Operation] = &[ChangeMeta];
const META_DIRECTORY: &[Operation] = &[Search, ChangeMeta];
const CONTENT: &[Operation] = &[Change];
const BOTH: &[Operation] = &[Read, Change];
const ALL_DIRECTORY: &[Operation] = &[Search, List, ChangeEntries];

/// By the numbers of x86-64 (asm/unistd_64.h); from 403 on all tables have the same. Those that name no path are left out.
fn x86_64(number: u32) -> Option<Kind> {
    use Kind::{Asks, Looks, Opens, Other, Touches, Unlinks};
    Some(match number {
        4..=6 | 8 | 262 | 332 => Looks,
        2 => Opens { flags: 1 },
        257 | 304 => Opens { flags: 2 },
        21 => Asks { mode: 1 },
        269 => Asks { mode: 2 },
        59 | 322 => Other("execve", &[Read], WALK),
        76 | 77 => Other("truncate", CONTENT, WALK),
        80 | 81 => Other("chdir", &[], WALK),
        82 | 264 | 316 => Other("rename", &[], ENTRIES),
        83 | 258 => Other("mkdir", &[], ENTRIES),
        84 => Other("rmdir", &[], ENTRIES),
        85 => Other("creat", CONTENT, ENTRIES),
        86 | 265 => Other("link", BOTH, ENTRIES),
        87 => Other("unlink", &[], ENTRIES),
        263 => Unlinks { flags: 2 },
        88 | 266 => Other("symlink", &[], ENTRIES),
        89 | 267 => Other("readlink", &[], WALK),
        // A refused chmod is never asked about; on its way it can be.
        90 | 91 | 268 => Other("chmod", META, WALK),
        92..=94 | 260 => Other("chown", META, META_DIRECTORY),
        132 | 235 => Touches { times: 1 },
        261 | 280 => Touches { times: 2 },
        133 | 259 => Other("mknod", &[], ENTRIES),
        137 | 138 => Other("statfs", &[], WALK),
        161 => Other("chroot", &[], WALK),
        188..=190 => Other("setxattr", META, META_DIRECTORY),
        191..=193 => Other("getxattr", &[ReadAttribute], &[Search, ReadAttribute]),
        194..=196 => Other("listxattr", &[], WALK),
        197..=199 => Other("removexattr", META, META_DIRECTORY),
        254 | 301 => Other("inotify_add_watch", &[Read], &[Search, List]),
        303 => Other("name_to_handle_at", &[], WALK),
        _ => return common(number),
    })
}

/// By the numbers of i386 (asm/unistd_32.h).
fn i386(number: u32) -> Option<Kind> {
    use Kind::{Asks, ByPath, Looks, Opens, OpensPath, Other, Touches, Unlinks};
    Some(match number {
        18 | 28 | 84 | 106..=108 | 195..=197 | 300 | 383 | 19 | 140 => Looks,
        5 => OpensPath { flags: 1 },
        295 | 342 => Opens { flags: 2 },
        8 => ByPath("creat", CONTENT, ENTRIES),
        9 => ByPath("link", BOTH, ENTRIES),
        303 => Other("link", BOTH, ENTRIES),
        10 => ByPath("unlink", &[], ENTRIES),
        301 => Unlinks { flags: 2 },
        11 => ByPath("execve", &[Read], WALK),
        358 => Other("execve", &[Read], WALK),
        12 => ByPath("chdir", &[], WALK),
        133 => Other("chdir", &[], WALK),
        14 => ByPath("mknod", &[], ENTRIES),
        297 => Other("mknod", &[], ENTRIES),
        15 => ByPath("chmod", META, WALK),
        94 | 306 => Other("chmod", META, WALK),
        16 | 182 | 198 | 212 => ByPath("chown", META, META_DIRECTORY),
        95 | 207 | 298 => Other("chown", META, META_DIRECTORY),
        30 | 271 => Touches { times: 1 },
        299 | 320 | 412 => Touches { times: 2 },
        33 => Asks { mode: 1 },
        307 => Asks { mode: 2 },
        38 => ByPath("rename", &[], ENTRIES),
        302 | 353 => Other("rename", &[], ENTRIES),
        39 => ByPath("mkdir", &[], ENTRIES),
        296 => Other("mkdir", &[], ENTRIES),
        40 => ByPath("rmdir", &[], ENTRIES),
        61 => ByPath("chroot", &[], WALK),
        83 => ByPath("symlink", &[], ENTRIES),
        304 => Other("symlink", &[], ENTRIES),
        85 => ByPath("readlink", &[], WALK),
        305 => Other("readlink", &[], WALK),
        86 => ByPath("uselib", &[Read], WALK),
        92 | 193 => ByPath("truncate", CONTENT, WALK),
        93 | 194 => Other("truncate", CONTENT, WALK),
        99 | 268 => ByPath("statfs", &[], WALK),
        100 | 269 => Other("statfs", &[], WALK),
        226 | 227 => ByPath("setxattr", META, META_DIRECTORY),
        228 => Other("setxattr", META, META_DIRECTORY),
        229 | 230 => ByPath("getxattr", &[ReadAttribute], &[Search, ReadAttribute]),
        231 => Other("getxattr", &[ReadAttribute], &[Search, ReadAttribute]),
        232 | 233 => ByPath("listxattr", &[], WALK),
        234 => Other("listxattr", &[], WALK),
        235 | 236 => ByPath("removexattr", META, META_DIRECTORY),
        237 => Other("removexattr", META, META_DIRECTORY),
        292 | 339 => Other("inotify_add_watch", &[Read], &[Search, List]),
        341 => Other("name_to_handle_at", &[], WALK),
        _ => return common(number),
    })
}

/// The numbers that all tables share.
fn common(number: u32) -> Option<Kind> {
    use Kind::{Asks, Other};
    Some(match number {
        // Its flags are in memory of the caller's.
        437 => Other("openat2", BOTH, ALL_DIRECTORY),
        439 => Asks { mode: 2 },
        452 => Other("chmod", META, WALK),
        463 => Other("setxattr", META, META_DIRECTORY),
        464 => Other("getxattr", &[ReadAttribute], &[Search, ReadAttribute]),
        465 => Other("listxattr", &[], WALK),
        466 => Other("removexattr", META, META_DIRECTORY),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(number: u32, arguments: [u64; 6]) -> Vec<Attempt> {
        of(&SystemCall { number, arguments, pc: 0x40_1000 })
    }

    fn calls(number: u32, arguments: [u64; 6]) -> Vec<String> {
        made(number, arguments).into_iter().map(|attempt| attempt.call.into_owned()).collect()
    }

    const PATH: u64 = 0x7f00_0000;

    #[test]
    fn opens_are_told_apart_by_their_flags_and_stats_are_nothing() {
        let open = |flags: c_int| made(257, [0, PATH, flags as u64, 0, 0, 0]);
        assert!(made(332, [0; 6]).is_empty());
        assert_eq!(open(libc::O_RDONLY)[0].file, [Read]);
        assert_eq!(open(libc::O_RDWR)[0].file, [Read, Change]);
        assert_eq!(open(libc::O_RDONLY | libc::O_TRUNC)[0].file, [Read, Change]);
        let made = open(libc::O_WRONLY | libc::O_TRUNC | libc::O_CREAT);
        assert_eq!((made[0].file, made[0].directory), ([Change].as_slice(), [].as_slice()));
        assert_eq!((&*made[1].call, made[1].directory), ("open O_CREAT", [ChangeEntries].as_slice()));
        assert_eq!(calls(257, [0, PATH, libc::O_TMPFILE as u64 | 2, 0, 0, 0]), ["open O_RDWR", "open O_TMPFILE"]);
    }

    #[test]
    fn what_may_be_of_either_table_counts_as_both() {
        // An address first: fstat takes none, so it is i386's open.
        assert_eq!(calls(5, [PATH, 2, 0, 0, 0, 0]), ["open O_RDWR"]);
        // A descriptor first: i386's open takes none, so it is fstat.
        assert!(calls(5, [3, PATH, 0, 0, 0, 0]).is_empty());
        assert!(calls(8, [3, 0, 2, 0, 0, 0]).is_empty(), "lseek");
        assert_eq!(calls(8, [PATH, 0o600, 0, 0, 0, 0]), ["creat"]);
        assert_eq!(calls(10, [PATH, 0, 0, 0, 0, 0]), ["unlink"]);
        assert_eq!(calls(83, [PATH, PATH, 0, 0, 0, 0]), ["mkdir", "symlink"]);
        assert_eq!(calls(263, [0, PATH, libc::AT_REMOVEDIR as u64, 0, 0, 0]), ["rmdir"]);
        assert_eq!(calls(87 | X32, [PATH, 0, 0, 0, 0, 0]), ["unlink"]);
        assert!(calls(4, [PATH; 6]).is_empty(), "stat; i386's write names no path");
    }

    #[test]
    fn what_is_not_known_counts_as_everything() {
        assert_eq!(made(426, [0; 6]), [anything("call 426".into())]);
        let worker = SystemCall { number: 4, arguments: [PATH; 6], pc: 0 };
        assert_eq!(of(&worker), [anything("io_uring".into())], "what it shows is another thread's call");
    }
}
