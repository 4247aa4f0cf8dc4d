//! A vault on a real store in a folder of its own, people who ask things of it, and the names of what can go wrong.

use pinfold::audit::{Log, Settings, WhenFull};
use pinfold::caller::{Callers, Daemon};
use pinfold::fs::register::Register;
use pinfold::fs::{Fs, FsError};
use pinfold::meter::Whose;
use pinfold::model::{CallerInfo, Doubt, FileId, Gid, InstanceId, Label, Subject, Uid};
use pinfold::seal::Protection;
use pinfold::secret::Secret;
use pinfold::store::Store;
use pinfold::vault::{Caller, Limits, Recovery, UnlockBy, Vault, VaultError, create_store};
use pinfold::wire::{Actor, Fault};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Somebody who asks.
#[derive(Debug, Clone, Copy)]
pub struct Person {
    pub uid: u32,
    pub gid: u32,
    pub groups: &'static [u32],
    pub admin: bool,
    pub tid: u32,
}

pub const ROOT: Person = Person { uid: 0, gid: 0, groups: &[0], admin: true, tid: 100 };
pub const ALICE: Person = Person { uid: 1001, gid: 1001, groups: &[1001, 2000], admin: false, tid: 101 };
pub const BOB: Person = Person { uid: 1002, gid: 1002, groups: &[1002, 2000], admin: false, tid: 102 };
pub const PEOPLE: [Person; 3] = [ROOT, ALICE, BOB];

impl Subject for Person {
    fn uid(&self) -> Uid {
        Uid(self.uid)
    }
    fn gid(&self) -> Gid {
        Gid(self.gid)
    }
    fn in_group(&self, gid: Gid) -> Result<bool, Doubt> {
        Ok(self.groups.contains(&gid.0))
    }
    fn groups(&self) -> Result<Vec<Gid>, Doubt> {
        Ok(self.groups.iter().map(|gid| Gid(*gid)).collect())
    }
    fn is_admin(&self) -> Result<bool, Doubt> {
        Ok(self.admin)
    }
    fn unit(&self) -> Result<Option<String>, Doubt> {
        Ok(None)
    }
    fn exe(&self) -> Result<FileId, Doubt> {
        Ok(FileId { dev: 1, ino: 1 })
    }
    fn label(&self) -> Result<Label, Doubt> {
        Err(Doubt("none".into()))
    }
    fn instance(&self) -> Result<Option<InstanceId>, Doubt> {
        Ok(None)
    }
    /// The kernel, which is not there, has let it pass.
    fn passes_directories(&self) -> Result<bool, Doubt> {
        Ok(false)
    }
}

impl Caller for Person {
    fn who(&self) -> CallerInfo {
        CallerInfo { uid: self.uid, gid: self.gid, pid: self.tid, ..CallerInfo::default() }
    }
}

/// An admin at the control socket: this test, which runs as root.
pub fn actor() -> Actor {
    Actor::new(0, 0, i32::try_from(std::process::id()).unwrap())
}

/// A bound for each of these is small enough to be reached.
pub fn limits(keep_versions: usize, max_secrets: u64) -> Limits {
    Limits {
        max_secret_size: 4096,
        max_secrets,
        max_instances: 8,
        keep_versions,
        allow_reveal: false,
        mountpoint: "/nowhere".into(),
        operator_gid: None,
    }
}

/// A store and what is open over it.
pub struct Rig {
    store: PathBuf,
    copies: u32,
    identity: Secret,
    limits: Limits,
    pub fs: Arc<Fs>,
    // Last: what writes there ends before it.
    folder: TempDir,
}

impl Rig {
    pub fn new(limits: Limits) -> Rig {
        assert!(nix::unistd::geteuid().is_root(), "the model test asks as an admin: run it as root");
        // In memory where there is such a place: what is tested is the order of things, not the disk.
        let shm = Path::new("/dev/shm");
        let place = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("pinfold-model-").tempdir_in(place).unwrap();
        let store = folder.path().join("store");
        let recovery = age::x25519::Identity::generate().to_public().to_string();
        let identity = create_store(&store, &Protection::Plain, &Recovery { recipients: vec![recovery] }).unwrap();
        let identity = Secret::copy_of(&identity.unwrap()).unwrap();
        let fs = open(&store, &folder.path().join("audit-0"), &identity, &limits).unwrap();
        Rig { folder, store, copies: 0, identity, limits, fs }
    }

    pub fn vault(&self) -> &Arc<Vault> {
        self.fs.vault()
    }

    /// Locks, unlocks. Handles are gone.
    pub fn lock(&self) {
        self.vault().lock(&ROOT).unwrap();
        self.fs.forget_all();
    }

    pub fn unlock(&self) -> Result<(), VaultError> {
        self.vault().unlock(&Daemon, &UnlockBy::Identity(&self.identity))
    }

    /// The end of the daemon as it should be, and its start.
    pub fn reopen(self) -> Rig {
        let limits = self.limits.clone();
        self.reopen_with(limits)
    }

    /// The same, with other bounds.
    pub fn reopen_with(self, limits: Limits) -> Rig {
        let Rig { folder, store, copies, identity, fs, .. } = self;
        fs.vault().shutdown();
        drop(Arc::into_inner(fs).expect("nobody else has it"));
        let fs = open(&store, &folder.path().join(format!("audit-{copies}")), &identity, &limits).unwrap();
        Rig { folder, store, copies, identity, limits, fs }
    }

    /// What a daemon finds that starts after this one was killed now.
    pub fn crashed(&mut self) -> Result<(PathBuf, Arc<Fs>), VaultError> {
        self.copies += 1;
        let copy = self.folder.path().join(format!("store-{}", self.copies));
        copy_folder(&self.store, &copy);
        let log = self.folder.path().join(format!("audit-{}", self.copies));
        open(&copy, &log, &self.identity, &self.limits).map(|fs| (copy, fs))
    }

    /// Goes on with what a crash left.
    pub fn go_on_with(&mut self, (store, fs): (PathBuf, Arc<Fs>)) {
        (self.store, self.fs) = (store, fs);
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

fn open(store: &Path, log: &Path, identity: &Secret, limits: &Limits) -> Result<Arc<Fs>, VaultError> {
    let settings =
        Settings { path: log.join("audit.log"), max_size: 8 << 20, when_full: WhenFull::Refuse, space: None };
    let log = Log::open(settings, None).unwrap();
    let store = Store::open(store)?;
    let vault = Vault::new(store, log, Callers::new().unwrap(), limits.clone());
    vault.unlock(&Daemon, &UnlockBy::Identity(identity))?;
    Ok(Arc::new(Fs::new(Arc::new(vault), Register::new().unwrap())))
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// How something can fail, as a caller tells failures apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    Denied,
    NotFound,
    Exists,
    NotADirectory,
    IsADirectory,
    NotEmpty,
    NotPermitted,
    Invalid,
    NoAttribute,
    UnknownAttribute,
    TooBig,
    NoSpace,
    Quota,
    Stale,
    WrongHandle,
    Locked,
    NothingToDo,
    /// An admin's request, refused for one of several reasons.
    Refused(String),
    Other(String),
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Failure {
        match error {
            VaultError::Denied(_) => Failure::Denied,
            VaultError::NotFound => Failure::NotFound,
            VaultError::Exists => Failure::Exists,
            VaultError::NotADirectory => Failure::NotADirectory,
            VaultError::IsADirectory => Failure::IsADirectory,
            VaultError::NotEmpty => Failure::NotEmpty,
            VaultError::NotPermitted(_) => Failure::NotPermitted,
            VaultError::Invalid(_) => Failure::Invalid,
            VaultError::NoAttribute => Failure::NoAttribute,
            VaultError::UnknownAttribute => Failure::UnknownAttribute,
            VaultError::TooBig { .. } => Failure::TooBig,
            VaultError::NoSpace(_) => Failure::NoSpace,
            VaultError::Exhausted(told) if told.whose == Whose::All => Failure::NoSpace,
            VaultError::Exhausted(_) => Failure::Quota,
            VaultError::Locked => Failure::Locked,
            VaultError::NothingToDo(_) => Failure::NothingToDo,
            other => Failure::Other(other.to_string()),
        }
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Failure {
        match error {
            FsError::Vault(error) => error.into(),
            FsError::Stale => Failure::Stale,
            FsError::WrongHandle => Failure::WrongHandle,
            FsError::Unsupported => Failure::Other(error.to_string()),
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        match fault {
            Fault::NotFound(_) => Failure::NotFound,
            Fault::NothingToDo(_) => Failure::NothingToDo,
            Fault::Locked(_) => Failure::Locked,
            Fault::Refused(why) => Failure::Refused(why),
            other => Failure::Other(other.to_string()),
        }
    }
}
