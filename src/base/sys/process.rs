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

/// A capability (capabilities(7)), by its number in linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub enum Capability {
    DacReadSearch = 2,
    SetGid = 6,
    SetUid = 7,
    IpcLock = 14,
    SysPtrace = 19,
    SysAdmin = 21,
}

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h): two words of each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// struct __user_cap_header_struct.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// struct __user_cap_data_struct.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapabilityWords {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up, for **this thread** and those it starts from now on, every capability but these, and gaining any by exec
/// (no_new_privs). What the thread has not, it does not get.
///
/// # Errors
/// What prctl(2) or capset(2) say; some may have been given up then.
pub fn confine(keep: &[Capability]) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    let kept = |number: u32| keep.iter().any(|c| *c as u32 == number);
    for number in (0..64).filter(|n| !kept(*n)) {
        // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory; EINVAL says that the kernel knows fewer.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINVAL) => break,
                // Without CAP_SETPCAP the set cannot be narrowed; no_new_privs alone keeps an exec from using it.
                Some(libc::EPERM) => break,
                _ => return Err(error),
            }
        }
    }
    let mask = keep.iter().fold(0u64, |mask, c| mask | 1 << (*c as u32));
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut words = [CapabilityWords::default(); 2];
    // SAFETY: version 3 reads the header and writes two elements, which `words` has room for; pid 0 is this thread.
    if unsafe { libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for (word, kept) in words.iter_mut().zip([mask as u32, (mask >> 32) as u32]) {
        word.permitted &= kept;
        (word.effective, word.inheritable) = (word.permitted, 0);
    }
    // SAFETY: version 3 reads the header and two elements; it changes the credentials of this thread and no memory.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) } != 0 {
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
    fn a_confined_thread_has_what_was_kept_and_others_are_not_touched() {
        let of_thread = |name: &str| {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
            u64::from_str_radix(&line, 16).unwrap()
        };
        let before = of_thread("CapPrm:");
        let kept = 1 << Capability::SysPtrace as u32 | 1 << Capability::IpcLock as u32;
        std::thread::spawn(move || {
            confine(&[Capability::SysPtrace, Capability::IpcLock]).unwrap();
            let inherited =
                std::thread::spawn(move || [of_thread("CapPrm:"), of_thread("CapEff:"), of_thread("NoNewPrivs:")]);
            assert_eq!(inherited.join().unwrap(), [before & kept, before & kept, 1]);
            confine(&[Capability::SysPtrace]).unwrap();
            confine(&[Capability::SysAdmin]).unwrap();
            assert_eq!(of_thread("CapEff:"), 0, "what was given up does not come back");
        })
        .join()
        .unwrap();
        assert_eq!((of_thread("CapPrm:"), of_thread("NoNewPrivs:")), (before, 0));
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
