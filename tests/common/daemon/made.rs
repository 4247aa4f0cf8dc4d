//! How a daemon under test is made: its folder, its configuration, its store.

use super::{Daemon, Setup, binary, text};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const PASSPHRASE: &str = "correct horse battery staple";

impl Daemon {
    /// A new store that nobody serves yet. It is as `init --passphrase-file` makes it, but for the work of the passphrase
    /// (`unlock::a_store_made_with_a_passphrase_opens_with_that_alone` has the whole of it).
    #[track_caller]
    pub fn initialised(setup: Setup) -> Self {
        let daemon = Self::configuration(setup);
        let keyfile = daemon.file("identity.key");
        daemon.init(&keyfile);
        let identity = std::fs::read(&keyfile).expect("init made it");
        std::fs::remove_file(&keyfile).expect("it is ours");
        let protected = daemon.file("store/identity.age");
        std::fs::write(&protected, sealed(&identity, PASSPHRASE)).expect("the store is ours");
        std::fs::set_permissions(&protected, PermissionsExt::from_mode(0o600)).expect("it is ours");
        daemon
    }

    /// Its folder, with a configuration and a passphrase, and no store.
    #[track_caller]
    fn configuration(setup: Setup) -> Self {
        let binary = setup.binary.clone().unwrap_or_else(|| {
            crate::common::in_the_lab();
            binary()
        });
        let base = setup.base.clone().unwrap_or_else(std::env::temp_dir);
        let home = tempfile::Builder::new().prefix("pinfold-").tempdir_in(base).expect("a temporary folder");
        // Others must be able to walk to the mount in it.
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).expect("the folder is ours");
        let mountpoint = setup.mountpoint.unwrap_or_else(|| home.path().join("secrets"));
        std::fs::create_dir_all(&mountpoint).expect("a mount point");
        let audit_log = setup.audit_log.unwrap_or_else(|| home.path().join("audit.log"));
        let daemon =
            Daemon { home, binary, mountpoint, audit_log, child: None, unlock: setup.unlock, connections: Vec::new() };
        let config = format!(
            "store = {:?}\nmountpoint = {:?}\ncontrol = {:?}\naudit_log = {:?}\n{}\n",
            daemon.file("store"),
            daemon.mountpoint,
            daemon.file("control.sock"),
            daemon.audit_log,
            setup.config
        );
        std::fs::write(daemon.file("pinfold.toml"), config).expect("the configuration");
        std::fs::write(daemon.file("passphrase"), format!("{PASSPHRASE}\n")).expect("the passphrase");
        std::fs::set_permissions(daemon.file("passphrase"), PermissionsExt::from_mode(0o600)).expect("it is ours");
        daemon
    }

    /// `pinfold init`, with the identity in a file.
    #[track_caller]
    fn init(&self, keyfile: &Path) {
        let recovery = self.file("recovery.key");
        self.cli(&["init", "--keyfile", text(keyfile), "--recovery-out", text(&recovery)]).ok();
    }

    /// The host's own binary on a store that a key file opens by itself at each start: no passphrase's work.
    #[track_caller]
    pub fn keyed(config: &str) -> Self {
        Self::keyed_with(Setup { config: config.into(), ..Setup::default() })
    }

    /// The same, set up so.
    #[track_caller]
    pub fn keyed_with(setup: Setup) -> Self {
        let binary = setup.binary.or_else(|| Some(env!("CARGO_BIN_EXE_pinfold").into()));
        let config = format!("{}\n[unlock]\n", setup.config);
        let mut daemon = Self::configuration(Setup { config, unlock: false, binary, ..setup });
        let (file, keyfile) = (daemon.file("pinfold.toml"), daemon.file("identity.key"));
        let mut lines = std::fs::read_to_string(&file).expect("its configuration");
        lines += &format!("keyfile = {keyfile:?}\n");
        std::fs::write(&file, lines).expect("its configuration");
        daemon.init(&keyfile);
        daemon.serve_unlocked();
        daemon
    }
}

/// An age file that this passphrase opens, with little work.
fn sealed(plain: &[u8], passphrase: &str) -> Vec<u8> {
    let mut recipient = age::scrypt::Recipient::new(passphrase.to_owned().into());
    recipient.set_work_factor(8);
    age::encrypt(&recipient, plain).expect("writing to memory does not fail")
}
