//! The request that must not be answered by looking everywhere: a FLUSH out of execve(2). A mount with as much of the
//! FUSE protocol (linux/fuse.h) as one open and close need.

use super::place::NsId;
use super::{Callers, Marks, Process};
use crate::model::{Gid, IdMaps, Subject, Uid};
use crate::sys::mount;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_600;

fn words<T: Copy, const N: usize>(to_bytes: impl Fn(T) -> [u8; N], values: &[T]) -> Vec<u8> {
    values.iter().flat_map(|v| to_bytes(*v)).collect()
}

/// struct fuse_attr.
fn attr(ino: u64, mode: u32) -> Vec<u8> {
    let mut out = words(u64::to_ne_bytes, &[ino, 0, 0, 0, 0, 0]);
    out.extend(words(u32::to_ne_bytes, &[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]));
    out
}

/// Answers until `stop`; a FLUSH, with the thread that sent it, only after `flush` has returned. It does not wait for the
/// mount to go: whoever makes a mount namespace meanwhile (other tests do) has a copy of it, for as long as that lives.
fn serve(mut device: File, stop: &AtomicBool, flush: impl Fn(u32)) {
    let mut request = vec![0u8; 1 << 20];
    while !stop.load(Ordering::Relaxed) {
        let mut waiting = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::from(50u8)) == Ok(0) {
            continue;
        }
        let Ok(len) = device.read(&mut request) else { break };
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        assert!(len >= 40);
        let (errno, body) = match word(4) {
            2 | 36 | 42 => continue, // FORGET, INTERRUPT, BATCH_FORGET have no answer
            26 => {
                let mut init = words(u32::to_ne_bytes, &[7, 31, 65536, 0, 0, 65536, 1]);
                init.resize(64, 0);
                (0, init)
            }
            1 => {
                let mut entry = words(u64::to_ne_bytes, &[2, 0, 100, 100, 0]);
                entry.extend(attr(2, FILE));
                (0, entry)
            }
            3 => {
                let (ino, mode) = if word(16) == 1 { (1, FOLDER) } else { (2, FILE) };
                let mut answer = words(u64::to_ne_bytes, &[100, 0]);
                answer.extend(attr(ino, mode));
                (0, answer)
            }
            14 => (0, words(u64::to_ne_bytes, &[5, 0])),
            18 => (0, Vec::new()),
            25 => {
                flush(word(32));
                (0, Vec::new())
            }
            _ => (-libc::ENOSYS, Vec::new()),
        };
        let mut answer = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        answer.extend(errno.to_ne_bytes());
        answer.extend(&request[8..16]);
        answer.extend(body);
        let _ = device.write_all(&answer);
    }
}

/// Everything that may be asked of it then.
fn ask(process: &Process) {
    let who = process.who();
    assert_ne!(who.pid, 0);
    assert_eq!(process.pid(), who.pid);
    assert_eq!((who.exe, process.start(), process.current_call()), (None, who.start, None));
    assert!(process.exe().is_err() && process.is_admin().is_err());
    assert_eq!(process.in_group(Gid(4_000_000)), Ok(false));
    assert!(process.unit().is_ok() && process.instance().is_ok());
}

/// Of nothing, in this boot.
fn no_marks() -> Marks {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    let ns = NsId { dev: 0, ino: 0 };
    let maps = IdMaps::identity();
    Marks { pid: 0, start: 0, boot, cgroup: None, user_ns: ns, pid_ns: ns, mnt_ns: ns, maps }
}

#[test]
fn looking_at_the_caller_of_a_flush_out_of_exec_does_not_hang() {
    for callers in [Callers::new().unwrap(), Callers::new().unwrap().without_pidfds()] {
        let dir = tempfile::tempdir().unwrap();
        let device = mount::open_fuse_device().unwrap();
        mount::mount_fuse(dir.path(), device.as_fd(), "flush-test").unwrap();
        let (told, asked) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let server = std::thread::spawn(move || {
            serve(File::from(device), &stopped, |tid| {
                // In a thread of its own: if it hangs, the answer below ends the exec, and so the hanging.
                let process = callers.identify_in_flush(Uid(0), Gid(0), tid);
                let (done, ended) = mpsc::channel();
                let asker = std::thread::spawn(move || {
                    ask(&process);
                    let _ = done.send(());
                });
                let in_time = ended.recv_timeout(Duration::from_secs(5)).is_ok();
                // Taking hold of it needs all that must not be read: it gives up.
                let held = super::hold(tid).map(|_| ()).unwrap_err();
                assert!(held.0.contains("in the middle of its exec"), "{held}");
                // Of one that was attached before this says nothing: it may well be the same.
                let marks = Marks { pid: tid, ..no_marks() };
                assert!(super::hold_again(&marks, Duration::from_millis(100)).unwrap().is_none());
                let _ = told.send((in_time, asker));
            });
        });
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "caller::flush_test::child_that_execs", "--ignored", "--nocapture"])
            .env("PINFOLD_TEST_FILE", dir.path().join("file"))
            .spawn()
            .unwrap();
        let answer = asked.recv_timeout(Duration::from_secs(30));
        let status = child.wait().unwrap();
        mount::unmount_detach(dir.path()).unwrap();
        let (in_time, asker) = answer.expect("the exec sends a FLUSH");
        assert!(asker.join().is_ok(), "an answer was wrong");
        assert!(in_time, "a look at the caller waited for the exec");
        assert!(status.success());
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap();
    }
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child_that_execs() {
    let path = std::env::var_os("PINFOLD_TEST_FILE").unwrap();
    // Closed by the exec: std opens with O_CLOEXEC.
    let _open = File::options().write(true).open(Path::new(&path)).unwrap();
    panic!("{}", Command::new("true").exec());
}
