//! What pinfold is compared with: the bare FUSE filesystem, tmpfs, gocryptfs, and the disk's own filesystem.
//!
//! Each gives a folder `bench` with the same files, one level below its root, as pinfold's is.

use crate::guard::{Folder, Kept, Mounted};
use crate::{Result, failed};
use nix::mount::{MsFlags, mount};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One of them, mounted as long as this is kept.
pub struct Other {
    pub bench: PathBuf,
    // In this order: the mount first, then its daemon, which ends by itself once it is unmounted.
    _mounted: Option<Mounted>,
    pub daemon: Option<Kept>,
}

/// A file all of them have: its name and size.
pub type Sample = (String, usize);

/// The bare FUSE filesystem, a process of this program.
pub fn bare(folder: &Folder, program: &Path, files: &[Sample], owner: u32) -> Result<Other> {
    let root = folder.make("bare")?;
    let mut command = Command::new(program);
    command.arg("--bare").arg(&root).arg(owner.to_string());
    command.args(files.iter().map(|(name, size)| format!("{name}={size}")));
    let daemon = Kept(command.process_group_of_its_own().stdin(Stdio::null()).spawn()?);
    let other = Other { bench: root.join("bench"), _mounted: Some(Mounted(root.clone())), daemon: Some(daemon) };
    wait_for("the bare filesystem did not mount", || Ok(pinfold::sys::mount::mount_at(&root)?.is_some()))?;
    Ok(other)
}

/// A tmpfs.
pub fn tmpfs(folder: &Folder, files: &[Sample], owner: u32) -> Result<Other> {
    let root = folder.make("tmpfs")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), &root, Some("tmpfs"), flags, Some("mode=0755"))?;
    let other = Other { bench: root.join("bench"), _mounted: Some(Mounted(root)), daemon: None };
    fill(&other.bench, files, owner)?;
    Ok(other)
}

/// gocryptfs as it comes, but for all users.
pub fn gocryptfs(folder: &Folder, files: &[Sample], owner: u32) -> Result<Other> {
    let cipher = folder.make("gocryptfs.cipher")?;
    let root = folder.make("gocryptfs")?;
    let password = folder.path().join("gocryptfs.password");
    fs::write(&password, "benchmark")?;
    let command = || {
        let mut command = Command::new("gocryptfs");
        command.arg("-q").arg("-passfile").arg(&password).stdin(Stdio::null()).process_group_of_its_own();
        command
    };
    let made = command().args(["-init", "-scryptn", "10"]).arg(&cipher).status().map_err(|e| {
        crate::Failed(format!("gocryptfs: {e}: install it (apt-get install gocryptfs fuse3), it is compared with"))
    })?;
    if !made.success() {
        return failed(format!("gocryptfs -init: {made}"));
    }
    // It touches its own mount before it serves: whoever makes a folder there meanwhile holds the lock that it waits
    // for, both for ever. It says when it is through.
    let ready = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, ready.clone())?;
    let notify = std::process::id().to_string();
    let mut daemon = command();
    daemon.args(["-fg", "-allow_other", "-notifypid", &notify]).arg(&cipher).arg(&root);
    let daemon = Kept(daemon.spawn()?);
    let other = Other { bench: root.join("bench"), _mounted: Some(Mounted(root.clone())), daemon: Some(daemon) };
    wait_for("gocryptfs did not mount (it needs the package fuse3)", || Ok(ready.load(Ordering::Relaxed)))?;
    fs::set_permissions(&root, Permissions::from_mode(0o755))?;
    fill(&other.bench, files, owner)?;
    Ok(other)
}

/// A folder of the filesystem that the stores are on.
pub fn disk(folder: &Folder, files: &[Sample], owner: u32) -> Result<Other> {
    let root = folder.make("disk")?;
    let other = Other { bench: root.join("bench"), _mounted: None, daemon: None };
    fill(&other.bench, files, owner)?;
    Ok(other)
}

fn fill(bench: &Path, files: &[Sample], owner: u32) -> Result<()> {
    fs::create_dir(bench)?;
    for (name, size) in files {
        let path = bench.join(name);
        fs::write(&path, vec![b'x'; *size])?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        chown(&path, Some(owner), Some(owner))?;
    }
    Ok(())
}

fn wait_for(otherwise: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done()? {
        if Instant::now() > deadline {
            return failed(otherwise);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// So that Ctrl-C reaches the benchmark alone, which then ends its children in order.
trait Apart {
    fn process_group_of_its_own(&mut self) -> &mut Self;
}

impl Apart for Command {
    fn process_group_of_its_own(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}
