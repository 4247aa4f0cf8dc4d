//! The real binary as an admin drives it: init, mount, unlock, and files copied in.

use crate::guard::{Folder, Interrupt, Kept, Mounted};
use crate::worker::{Act, Job, PER_FOLDER, Worker};
use crate::{Result, failed, machine};
use pinfold::config::Config;
use pinfold::control::client::Client;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// As many as can be configured: a uid other than root may have a share of it only.
const MAX_SECRETS: usize = 1_000_000;
/// How many threads fill a store.
const FILLERS: usize = 4;
/// How long a daemon may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store with its daemon, mounted.
pub struct Pinfold {
    /// The folder `bench` in the tree: what is measured.
    pub bench: PathBuf,
    binary: PathBuf,
    folder: PathBuf,
    mountpoint: PathBuf,
    daemon: Option<(Kept, Mounted)>,
}

/// What a start took.
pub struct Started {
    /// From the start of the process to its READY, locked.
    pub ready: Duration,
    /// From the start of `pinfold unlock` to the first answer about a name.
    pub serving: Duration,
}

/// `PINFOLD_BIN`, or the binary that cargo built for this benchmark.
pub fn binary() -> PathBuf {
    std::env::var_os("PINFOLD_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_pinfold")), PathBuf::from)
}

impl Pinfold {
    /// Makes a store, starts its daemon and unlocks it. `more` goes into its configuration.
    pub fn new(folder: &Folder, name: &str, binary: &Path, more: &str) -> Result<Self> {
        let home = folder.make(&format!("{name}.home"))?;
        fs::set_permissions(&home, Permissions::from_mode(0o700))?;
        let mountpoint = folder.make(name)?;
        let mut this =
            Pinfold { bench: mountpoint.join("bench"), binary: binary.into(), folder: home, mountpoint, daemon: None };
        let config = format!(
            "store = {:?}\nmountpoint = {:?}\ncontrol = {:?}\naudit_log = {:?}\nmax_secrets = {MAX_SECRETS}\n{more}",
            this.folder.join("store"),
            this.mountpoint,
            this.folder.join("control.sock"),
            this.folder.join("audit/audit.log"),
        );
        fs::write(this.folder.join("pinfold.toml"), config)?;
        let (key, recovery) = (this.folder.join("identity.key"), this.folder.join("recovery.key"));
        this.command(&["init", "--keyfile", &key.to_string_lossy(), "--recovery-out", &recovery.to_string_lossy()])?;
        this.start(None)?;
        DirBuilder::new().mode(0o755).create(&this.bench)?;
        fs::set_permissions(&this.bench, Permissions::from_mode(0o755))?;
        Ok(this)
    }

    /// Starts the daemon and unlocks it; a `probe` in the tree tells when it serves.
    pub fn start(&mut self, probe: Option<(&mut Worker, &Path)>) -> Result<Started> {
        let socket = self.folder.join("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket)?;
        notify.set_read_timeout(Some(PATIENCE))?;
        let log = File::options().create(true).append(true).open(self.folder.join("daemon.log"))?;
        let begun = Instant::now();
        let child = Command::new(&self.binary)
            .arg("--config")
            .arg(self.folder.join("pinfold.toml"))
            .arg("mount")
            .env("NOTIFY_SOCKET", &socket)
            .env_remove("PINFOLD_LOG")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|e| crate::Failed(format!("{}: {e}", self.binary.display())))?;
        let mut daemon = Kept(child);
        let mounted = Mounted(self.mountpoint.clone());
        let mut message = [0; 4096];
        loop {
            let Ok(n) = notify.recv(&mut message) else { return failed(self.complaint("it did not become ready")) };
            if message[..n].split(|b| *b == b'\n').any(|line| line == b"READY=1") {
                break;
            }
            if daemon.0.try_wait()?.is_some() {
                return failed(self.complaint("it ended"));
            }
        }
        let ready = begun.elapsed();
        self.daemon = Some((daemon, mounted));
        let key = self.folder.join("identity.key");
        let begun = Instant::now();
        self.command(&["unlock", "--keyfile", &key.to_string_lossy()])?;
        if let Some((worker, path)) = probe {
            // Names are unknown until it is unlocked: whoever asks waits.
            let path = path.to_string_lossy().into_owned();
            let opened = worker.run(&Job {
                act: Act::Open,
                path,
                threads: 1,
                samples: 1,
                warm: 0,
                size: 64,
                first: 0,
                many: 1,
                stride: 1,
            });
            if let Err(e) = opened {
                let log = self.folder.join("audit/audit.log");
                // A refusal is written a moment later.
                std::thread::sleep(Duration::from_secs(1));
                let said = pinfold::audit::recent(&log, "bench/small-0", 1)?;
                let reason = said.first().map(|r| format!("{:?}", (&r.op, r.decision, &r.reason, &r.exe)));
                return failed(self.complaint(&format!("{e}; its audit log: {reason:?}")));
            }
        }
        Ok(Started { ready, serving: begun.elapsed() })
    }

    /// Ends the daemon; SIGTERM has to do.
    pub fn stop(&mut self) -> Result<()> {
        let Some((mut daemon, _mounted)) = self.daemon.take() else { return Ok(()) };
        if daemon.end() { Ok(()) } else { failed(self.complaint("it did not end after SIGTERM")) }
    }

    /// Its process.
    pub fn process(&self) -> Option<&Kept> {
        self.daemon.as_ref().map(|(daemon, _)| daemon)
    }

    /// Its resident memory in MiB, now and at its highest.
    pub fn resident(&self) -> (f64, f64) {
        self.daemon.as_ref().map_or((f64::NAN, f64::NAN), |(daemon, _)| machine::resident(daemon.0.id()))
    }

    /// A secret of that many bytes for `owner`, 0600.
    pub fn put(&self, name: &str, size: usize, owner: u32) -> Result<()> {
        let path = self.bench.join(name);
        let mut file = File::create(&path)?;
        file.write_all(&vec![b'x'; size])?;
        chown(&path, Some(owner), Some(owner))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// Copies secrets of 64 bytes in, by a process of their owner: `filled()` are their names. Returns how many a second.
    pub fn fill(&self, total: usize, worker: &mut Worker, interrupt: &Interrupt) -> Result<f64> {
        for folder in 0..total.div_ceil(PER_FOLDER) {
            let path = self.mountpoint.join(format!("fill-{folder}"));
            fs::create_dir(&path)?;
            // The folder stays root's: a uid's share counts folders too.
            fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        }
        let begun = Instant::now();
        let mut done = 0;
        while done < total {
            interrupt.check()?;
            // Four at a time, as far as that comes out even.
            let threads = if (total - done) < FILLERS { 1 } else { FILLERS };
            let these = (total - done).min(4 * PER_FOLDER) / threads;
            worker.run(&Job {
                act: Act::Enrol,
                path: self.filled(),
                many: total,
                stride: 1,
                threads,
                samples: these,
                warm: 0,
                size: 64,
                first: done / threads,
            })?;
            done += these * threads;
            eprintln!("openbench:   {done} of {total}, {:.0}/s", done as f64 / begun.elapsed().as_secs_f64());
        }
        Ok(total as f64 / begun.elapsed().as_secs_f64())
    }

    /// What [`Pinfold::fill`] calls its secrets, as a worker understands it.
    pub fn filled(&self) -> String {
        format!("{}/fill-{{f}}/{{k}}", self.mountpoint.display())
    }

    /// A connection to the daemon.
    pub fn client(&self) -> Result<Client> {
        let config = Config::load(Some(&self.folder.join("pinfold.toml"))).map_err(|e| crate::Failed(e.to_string()))?;
        Client::connect(&config).map_err(|e| crate::Failed(e.to_string()).into())
    }

    /// The folder of a scope.
    pub fn scope(&self, name: &str) -> PathBuf {
        self.mountpoint.join("containers").join(name)
    }

    /// `pinfold ARG…`
    pub fn command(&self, args: &[&str]) -> Result<()> {
        let config = self.folder.join("pinfold.toml");
        let out = Command::new(&self.binary).arg("--config").arg(config).args(args).stdin(Stdio::null()).output()?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        failed(self.complaint(&format!("pinfold {}: {}: {said}", args[0], out.status)))
    }

    fn complaint(&self, what: &str) -> String {
        let log = fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(10).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        format!("pinfold: {what}\n{}", last.join("\n"))
    }
}

impl Drop for Pinfold {
    /// The daemon makes the folder under its mount immutable; it is ours to remove.
    fn drop(&mut self) {
        if let Some((mut daemon, mounted)) = self.daemon.take() {
            daemon.end();
            drop(mounted);
        }
        let _ = pinfold::sys::mount::set_immutable(&self.mountpoint, false);
    }
}
