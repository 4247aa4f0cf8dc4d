//! A thread that never answers, in a mounted tree: the kernel sends the request again, as it does to the daemon after one that was
//! killed.
//!
//! Who asks is always a child: a thread of this process that waits for this process could not be ended.

use super::*;
use crate::audit::{Log, Settings, WhenFull};
use crate::caller::{Callers, Daemon};
use crate::fs::register::Register;
use crate::lock::Mutex;
use crate::model::Kind;
use crate::seal::Protection;
use crate::secret::Secret;
use crate::store::Store;
use crate::sys::{connection, mount};
use crate::vault::{Limits, Recovery, UnlockBy, Vault, create_store};
use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

/// The next request that is done waits here, after it was noted and before it is answered: it says so, and goes on when the other
/// end is dropped.
static NEXT: Mutex<Option<(Sender<()>, Receiver<()>)>> = Mutex::new(None);
/// Whose turn it is to have that one: each test that changes something.
static TURN: Mutex<()> = Mutex::new(());
const PATIENCE: Duration = Duration::from_secs(10);

pub(in crate::fs) fn done_and_not_answered() {
    let next = NEXT.lock().take();
    if let Some((arrived, released)) = next {
        arrived.send(()).unwrap();
        let _ = released.recv();
    }
}

/// A store in this folder, open and unlocked.
fn vault(dir: &tempfile::TempDir) -> Arc<Vault> {
    let recovery = age::x25519::Identity::generate().to_public().to_string();
    let recovery = Recovery { recipients: vec![recovery] };
    let mut text = create_store(&dir.path().join("store"), &Protection::Plain, &recovery).unwrap().unwrap();
    let settings =
        Settings { path: dir.path().join("audit.log"), max_size: 1 << 26, when_full: WhenFull::Refuse, space: None };
    let limits = Limits {
        max_secret_size: 1 << 20,
        max_secrets: 1000,
        max_instances: 8,
        keep_versions: 3,
        allow_reveal: false,
        mountpoint: dir.path().join("tree"),
        operator_gid: None,
    };
    let store = Store::open(&dir.path().join("store")).unwrap();
    let log = Log::open(settings, None).unwrap();
    let vault = Arc::new(Vault::new(store, log, Callers::new().unwrap(), limits));
    vault.unlock(&Daemon, &UnlockBy::Identity(&Secret::take(&mut text).unwrap())).unwrap();
    vault
}

struct Tree {
    mounted: Option<Mounted>,
    // Last: what writes there ends before it.
    dir: tempfile::TempDir,
}

impl Tree {
    fn mounted() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let vault = vault(&dir);
        let mountpoint = vault.limits().mountpoint.clone();
        std::fs::create_dir(&mountpoint).unwrap();
        let mounted = Mounted::start(&vault, &mountpoint, Connect::New, None, || {}, || {}).unwrap();
        Tree { dir, mounted: Some(mounted) }
    }

    fn sh(&self, script: &str) -> Child {
        let mut command = Command::new("/bin/bash");
        command.arg("-c").arg(format!("cd {}/tree && {{ {script}; }}", self.dir.path().display()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a script to its end: what it says.
    fn said(&self, child: Child) -> String {
        let (ended, end) = channel();
        std::thread::spawn(move || ended.send(child.wait_with_output()));
        let Ok(out) = end.recv_timeout(PATIENCE) else {
            self.cut();
            panic!("it hangs");
        };
        let out = out.unwrap();
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).trim().to_owned()
    }

    /// A script whose first change is done and noted by a thread that goes on when what is given back is dropped.
    fn held(&self, script: &str) -> (Child, Sender<()>) {
        let ((arrived, arrives), (release, released)) = (channel(), channel::<()>());
        *NEXT.lock() = Some((arrived, released));
        let child = self.sh(script);
        if arrives.recv_timeout(PATIENCE).is_err() {
            self.cut();
            panic!("{script}: it changes nothing: {}", self.said(child));
        }
        (child, release)
    }

    /// A script whose first change is done by a thread that then never answers, and is sent again.
    fn unanswered(&self, script: &str) -> String {
        let (child, release) = self.held(script);
        let (device, _) = self.mounted.as_ref().unwrap().connection();
        connection::resend(device).unwrap();
        let said = self.said(child);
        drop(release);
        said
    }

    fn cut(&self) {
        if let Ok(Some(found)) = mount::mount_at(&self.dir.path().join("tree")) {
            let _ = connection::abort(found.dev);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.cut();
        }
        if let Some(mounted) = self.mounted.take() {
            let _ = mounted.stop();
        }
    }
}

#[test]
fn what_was_done_and_not_answered_is_answered_and_not_done_twice() {
    let _turn = TURN.lock();
    let tree = Tree::mounted();
    let prepared = "mkdir old; echo x > file; echo y > other; ln -s x link; setfattr -n user.a -v 1 file";
    assert_eq!(tree.said(tree.sh(prepared)), "");
    for script in [
        "mkdir new",
        "mkdir -m 700 new/below",
        "ln -s target new/link",
        "set -C; echo created > new/file",
        "exec 3<> new/both; echo both >&3",
        "rmdir old",
        "rm link",
        "mv file new/moved",
        "mv -T other new/moved",
        "setfattr -n user.b -v 2 new/moved",
        "setfattr -x user.b new/moved",
    ] {
        assert_eq!(tree.unanswered(script), "", "{script}");
    }
    let names = "find . -path ./.pinfold -prune -o -path ./containers -prune -o -printf '%P '";
    let all = ["new", "new/below", "new/both", "new/file", "new/link", "new/moved"];
    assert_eq!(tree.said(tree.sh(names)).split(' ').collect::<BTreeSet<_>>(), all.into());
    let content = "cat new/file new/both new/moved; getfattr --only-values -n user.b new/moved";
    assert_eq!(tree.said(tree.sh(content)), "created\nboth\ny\nnew/moved: user.b: No such attribute");
}

#[test]
fn a_commit_that_was_not_answered_is_no_lost_one() {
    let _turn = TURN.lock();
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(&dir);
    let fs = Fs::new(Arc::clone(&vault), Register::new().unwrap());
    let name = Name::parse(b"file").unwrap();
    let new = NewNode { parent: Ino::ROOT, name: &name, kind: Kind::File, mode: 0o600, umask: 0, target: None };
    let mode = crate::fs::OpenMode { read: false, write: true, truncate: false };
    let (attr, opened) = fs.create(&Daemon, 1, new, mode).unwrap();
    fs.write(opened.number(), 0, b"1234", false, 7).unwrap();
    let first = |number| Asked { number, again: false };
    let again = |number| Asked { number, again: true };
    fs.flush_once(first(2), attr.ino, opened.number(), 7).unwrap();
    fs.write(opened.number(), 0, b"5678", false, 7).unwrap();
    // Another daemon, which knows nothing of the handle.
    let next = Fs::new(vault, Register::of(fs.register().fd().try_clone_to_owned().unwrap()).unwrap());
    next.flush_once(again(2), attr.ino, opened.number(), 7).unwrap();
    for unknown in [first(2), again(4)] {
        assert!(matches!(next.flush_once(unknown, attr.ino, opened.number(), 7), Err(FsError::Stale)));
        assert!(matches!(next.fsync_once(unknown, attr.ino, opened.number()), Err(FsError::Stale)));
    }
}

/// A daemon is killed when it is about to make something, and an admin is faster than the next one.
#[test]
fn what_another_put_there_is_not_what_a_request_made() {
    let dir = tempfile::tempdir().unwrap();
    let vault = vault(&dir);
    let name = Name::parse(b"file").unwrap();
    let new = NewNode { parent: Ino::ROOT, name: &name, kind: Kind::File, mode: 0o600, umask: 0, target: None };
    let fs = Fs::new(Arc::clone(&vault), Register::new().unwrap());
    fs.register().executed(2, u64::MAX);
    let made = vault.create(&Daemon, new).unwrap();
    let again = Asked { number: 2, again: true };
    let stranger =
        crate::caller::Control::new(vault.callers(), crate::model::Uid(2001), crate::model::Gid(2001), 1, false);
    assert!(fs.make_once(again, &stranger, new).is_err());
    assert_eq!(fs.make_once(again, &Daemon, new).unwrap().ino, made.ino);
}

/// Between what it did and the note of it a daemon once went: the next one was asked again, and did it a second time.
#[test]
fn who_leaves_the_tree_waits_for_the_note_of_what_was_done() {
    let _turn = TURN.lock();
    for script in [
        "mkdir new",
        "ln -s target link",
        "set -C; : > new",
        "rmdir old",
        "rm file",
        "mv file moved",
        "setfattr -n user.b -v 2 file",
        "setfattr -x user.a file",
        "exec 3<> file; echo z >&3",
    ] {
        let tree = Tree::mounted();
        assert_eq!(tree.said(tree.sh("mkdir old; echo x > file; setfattr -n user.a -v 1 file")), "");
        let (child, release) = tree.held(script);
        let mounted = tree.mounted.as_ref().unwrap();
        let (ended, end) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || ended.send(mounted.freeze(PATIENCE)));
            assert!(end.recv_timeout(Duration::from_millis(100)).is_err(), "{script}: it goes at once");
            drop(release);
            assert_eq!(end.recv_timeout(PATIENCE), Ok(true), "{script}");
        });
        // What comes now is for the next daemon.
        let mut later = tree.sh("mkdir later");
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(later.try_wait().unwrap(), None, "{script}");
        mounted.fs.go_on();
        assert_eq!((tree.said(child), tree.said(later)), Default::default(), "{script}");
    }
}
