//! What the daemon does to its own process: hardening, and wiping memory it only borrows.
//!
//! Owns nothing that outlives the call. It never touches another process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use std::io::{self, IoSlice};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// What is written over secrets.
static ZEROES: [u8; 16 << 10] = [0; 16 << 10];
/// Vectors per call: IOV_MAX is 1024.
const VECTORS: usize = 256;

/// Makes this process unreadable: no core dump, no ptrace by its own uid, nothing in swap, no file readable by others
/// through umask. Root with CAP_SYS_PTRACE still can (threat model).
///
/// Pages are locked as they are touched (MCL_ONFAULT): fuser's 16 MiB buffers, one a thread, would all be taken at once
/// otherwise. Call it before the first secret, and again in no thread: it is for the whole process.
///
/// # Errors
/// The first call that failed: mlockall(2) does where RLIMIT_MEMLOCK is low and CAP_IPC_LOCK is missing.
pub fn harden() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    umask(Mode::from_bits_truncate(0o077));
    // SAFETY: mlockall takes flags only; it changes no content and no address of any mapping.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The descriptors this process was started with under the protocol of sd_listen_fds(3), with their names. They close on exec, and
/// the variables that told of them are gone. To be called once, before there are threads: afterwards there are none.
pub fn inherited() -> Vec<(String, OwnedFd)> {
    // SAFETY: the daemon calls this before it starts a thread, so nobody reads the environment meanwhile.
    let listed = unsafe { sd_notify::listen_fds_with_names_and_unset_env() };
    let Ok(listed) = listed else { return Vec::new() };
    listed
        // SAFETY: LISTEN_PID says that these descriptors were passed to this process for it to own, and the variables are
        // gone, so nobody takes them twice.
        .map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) }))
        .collect()
}

/// Takes as many descriptors as the limit may be raised to: each attached container is held by up to three, and the
/// soft limit is 1024 for the sake of select(2).
///
/// # Errors
/// As setrlimit(2); the limit stays what it was.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Overwrites bytes with zeroes although they are only borrowed: the data of a WRITE lies in fuser's receive buffer,
/// which hands out `&[u8]` and would keep the plaintext until another large request came.
///
/// The kernel does it, asked by process_vm_writev(2) for this very process, or, where a sandbox refuses that call,
/// through `/proc/self/mem`. No `&mut` and no raw write exists in the program, so no exclusive access is claimed. But the
/// compiler may assume that borrowed bytes do not change: **the caller must not read `bytes` again** after this, nor
/// let anybody else; whoever did would see either the old bytes or zeroes. The owner may overwrite it as ever.
///
/// # Errors
/// The bytes may still be there, or a part of them. EFAULT for memory that is mapped read-only (a literal): it is left
/// alone, though `/proc/self/mem` would force its way.
pub fn wipe(bytes: &[u8]) -> io::Result<()> {
    match wipe_by_syscall(bytes) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => wipe_by_file(bytes),
        done => done,
    }
}

fn wipe_by_syscall(bytes: &[u8]) -> io::Result<()> {
    let me = nix::unistd::getpid();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let local: Vec<IoSlice<'_>> =
            rest.chunks(ZEROES.len()).take(VECTORS).map(|c| IoSlice::new(&ZEROES[..c.len()])).collect();
        let len = local.iter().map(|v| v.len()).sum();
        // Our own address space needs no ptrace permission, so this works undumpable.
        match process_vm_writev(me, &local, &[RemoteIoVec { base: rest.as_ptr().addr(), len }])? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => at += n,
        }
    }
    Ok(())
}

fn wipe_by_file(bytes: &[u8]) -> io::Result<()> {
    let mem = std::fs::OpenOptions::new().write(true).open("/proc/self/mem")?;
    let mut at = bytes.as_ptr().addr() as u64;
    for chunk in bytes.chunks(ZEROES.len()) {
        mem.write_all_at(&ZEROES[..chunk.len()], at)?;
        at += chunk.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Fills a buffer, lends it to `wipe`, and looks at it through its owner.
    fn wiped_by(wipe: impl Fn(&[u8]) -> io::Result<()>) {
        for len in [1usize, 63, 4096, 100_001, 5 << 20] {
            let mut owned = vec![0xa5u8; len + 2];
            wipe(std::hint::black_box(&owned[1..=len])).unwrap();
            // The owner's pointer is fresh here, as fuser's is when it reads the next request.
            let seen: &mut [u8] = std::hint::black_box(&mut owned);
            assert!(seen[1..=len].iter().all(|b| *b == 0), "{len} bytes");
            assert_eq!((seen[0], seen[len + 1]), (0xa5, 0xa5), "the neighbours stay");
        }
    }

    #[test]
    fn borrowed_bytes_are_overwritten_both_ways() {
        wiped_by(wipe);
        wiped_by(wipe_by_syscall);
        wiped_by(wipe_by_file);
        wipe(&[]).unwrap();
        static LITERAL: &[u8] = b"a constant of the program";
        assert_eq!(wipe(LITERAL).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(std::hint::black_box(LITERAL)[0], b'a');
    }

    #[test]
    fn a_hardened_process_cannot_be_dumped_and_still_wipes() {
        // For the whole process, so in a process of its own: this binary again, with the test below alone.
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::process::tests::hardened_child", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && out.contains("1 passed"), "{out}{}", String::from_utf8_lossy(&child.stderr));
    }

    #[test]
    #[ignore = "run by the test above, in a process of its own"]
    fn hardened_child() {
        harden().unwrap();
        raise_descriptor_limit().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        assert_eq!(nix::sys::resource::getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert_eq!(umask(Mode::from_bits_truncate(0o077)).bits(), 0o077);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let locked = status.lines().find_map(|l| l.strip_prefix("VmLck:")).unwrap().trim();
        assert_ne!(locked, "0 kB", "mlockall locked nothing");
        wiped_by(wipe_by_syscall);
    }
}
