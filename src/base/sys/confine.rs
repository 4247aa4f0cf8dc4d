//! A process that reads what a stranger sent: it keeps the descriptors it has, and can get nothing else.
//!
//! Owns the limits, the Landlock ruleset and the list of system calls. It starts no process ([`super::apart`] does, as another
//! user and in a pid namespace of its own), and takes away for good.

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope as LandlockScope};
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::io;

/// What the kernel could do of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// Files, sockets and signals are out of reach.
    pub landlock: bool,
    /// Any system call but a few ends the process.
    pub seccomp: bool,
}

/// Bounds of what it may use up.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of address space.
    pub memory: u64,
    /// Seconds of processor time.
    pub cpu: u64,
}

/// Gives up everything but reading from and writing to the descriptors this process has: no files, no sockets, no processes,
/// no more memory than that. For the calling thread and those it starts; to be called while there is one.
///
/// Where the kernel has no Landlock or no seccomp the rest still holds, and the answer says so.
///
/// # Errors
/// What setrlimit(2) or prctl(2) say; the process is not to go on then.
pub fn to_what_is_open(bounds: Bounds) -> io::Result<Confined> {
    nix::sys::prctl::set_no_new_privs()?;
    nix::sys::prctl::set_dumpable(false)?;
    let landlock = no_access();
    for (resource, limit) in [
        (Resource::RLIMIT_AS, bounds.memory),
        (Resource::RLIMIT_CPU, bounds.cpu),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_NOFILE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    let seccomp = few_calls().is_some_and(|filter| seccompiler::apply_filter(&filter).is_ok());
    Ok(Confined { landlock, seccomp })
}

/// A ruleset that handles everything this kernel knows, with no rule that allows any of it.
fn no_access() -> bool {
    let abi = ABI::V6;
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|r| r.handle_access(AccessNet::from_all(abi)))
        .and_then(|r| r.scope(LandlockScope::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(|r| r.restrict_self());
    ruleset.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

/// Reading, writing to the three standard descriptors, memory that cannot be executed, and ending. Anything else kills.
fn few_calls() -> Option<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).ok()?;
    let is = |arg, op, value| SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value).ok();
    let only = |conditions: Vec<Option<SeccompCondition>>| {
        Some(vec![SeccompRule::new(conditions.into_iter().collect::<Option<Vec<_>>>()?).ok()?])
    };
    let executable = || is(2, SeccompCmpOp::MaskedEq(u64::from(libc::PROT_EXEC.cast_unsigned())), 0);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = [
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_close,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_brk,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
    .into_iter()
    .map(|call| (call, Vec::new()))
    .collect();
    rules.insert(libc::SYS_write, only(vec![is(0, SeccompCmpOp::Le, 2)])?);
    rules.insert(libc::SYS_mprotect, only(vec![executable()])?);
    // What closes a descriptor in a build with assertions looks at it first.
    rules.insert(libc::SYS_fcntl, only(vec![is(1, SeccompCmpOp::Eq, u64::from(libc::F_GETFD.cast_unsigned()))])?);
    // Memory of no file.
    let anonymous = is(4, SeccompCmpOp::Eq, u64::from(u32::MAX));
    rules.insert(libc::SYS_mmap, only(vec![executable(), anonymous])?);
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch).ok()?;
    BpfProgram::try_from(filter).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const BOUNDS: Bounds = Bounds { memory: 1 << 30, cpu: 20 };

    /// Runs one of the ignored tests below in a process of its own: what it does cannot be undone.
    fn in_child(name: &str, what: &str) -> std::process::Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("sys::confine::tests::{name}"), "--ignored", "--nocapture", "--test-threads=1"])
            .env("PINFOLD_TRY", what)
            .output()
            .unwrap()
    }

    /// In the order in which they are tried; each is what a parser that was taken over would want.
    const ATTEMPTS: [&str; 7] = ["open", "socket", "fork", "exec", "keyctl", "execmem", "kill"];

    fn attempt(what: &str) -> io::Result<()> {
        match what {
            "open" => std::fs::File::open("/etc/passwd").map(drop),
            "socket" => std::net::UdpSocket::bind("127.0.0.1:0").map(drop),
            "exec" | "fork" => Command::new("/bin/true").status().map(drop),
            "keyctl" => crate::sys::keyctl::join_anonymous_session(),
            "execmem" => {
                let len = std::num::NonZeroUsize::new(4096).unwrap();
                let prot = nix::sys::mman::ProtFlags::PROT_EXEC;
                let flags = nix::sys::mman::MapFlags::MAP_PRIVATE;
                // SAFETY: a new mapping at an address of the kernel's choice touches no memory; it is never used.
                unsafe { nix::sys::mman::mmap_anonymous(None, len, prot, flags) }.map(drop).map_err(Into::into)
            }
            "kill" => nix::sys::signal::kill(nix::unistd::getppid(), None).map_err(Into::into),
            _ => unreachable!(),
        }
    }

    #[test]
    fn a_confined_process_is_killed_for_whatever_it_tries() {
        for what in ATTEMPTS {
            let tried = in_child("tries", what);
            let out = String::from_utf8_lossy(&tried.stdout);
            assert!(out.contains("before: Ok(())"), "{what} works unconfined, or nothing is shown: {out}");
            assert!(out.contains("landlock: true, seccomp: true"), "{what}: {out}");
            assert!(!out.contains("after:"), "{what}: {out}");
            assert_eq!(tried.status.signal(), Some(libc::SIGSYS), "{what}: {out}");
        }
    }

    #[test]
    #[ignore = "run by the test above, in a process of its own"]
    fn tries() {
        let what = std::env::var("PINFOLD_TRY").unwrap();
        println!("before: {:?}", attempt(&what));
        println!("{:?}", to_what_is_open(BOUNDS).unwrap());
        println!("after: {:?}", attempt(&what));
    }

    #[test]
    fn without_a_filter_landlock_and_the_limits_hold_alone() {
        let tried = in_child("tries_without_a_filter", "");
        let out = String::from_utf8_lossy(&tried.stdout);
        assert!(tried.status.success(), "{out}");
        assert!(out.contains("open: Some(13)"), "Landlock refuses: {out}");
    }

    #[test]
    #[ignore = "run by the test above, in a process of its own"]
    fn tries_without_a_filter() {
        assert!(no_access());
        println!("open: {:?}", attempt("open").unwrap_err().raw_os_error());
    }

    #[test]
    fn memory_is_bounded() {
        let tried = in_child("takes_memory", "");
        let out = String::from_utf8_lossy(&tried.stdout);
        assert!(out.contains("less: true") && out.contains("more: false"), "{out}");
    }

    #[test]
    #[ignore = "run by the test above, in a process of its own"]
    fn takes_memory() {
        to_what_is_open(BOUNDS).unwrap();
        let takes = |bytes: usize| Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
        println!("less: {}\nmore: {}", takes(64 << 20), takes(1 << 30));
    }
}
