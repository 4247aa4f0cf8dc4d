//! The `pinfold` program itself against a control socket with a fake core: what it prints, how it ends, what it asks.
//!
//! Owns no store and mounts nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};
use pinfold::config::Config;
use pinfold::control::{Peer, Server};
use pinfold::model::{SecretPath, Timestamp};
use pinfold::secret::Secret;
use pinfold::wire::*;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// A core that keeps one secret and answers by the name of the path.
#[derive(Default)]
struct Fake {
    kept: Mutex<Option<Put>>,
    unlocked: Mutex<bool>,
    entries: usize,
    denied: Mutex<Vec<u32>>,
}

fn fault(path: &SecretPath) -> Option<Fault> {
    let says = |s: &str| format!("{path}: {s}");
    match path.to_string().as_str() {
        "refused" => Some(Fault::Refused(says("the certificate does not parse"))),
        "locked" => Some(Fault::Locked("the store is locked".into())),
        "missing" => Some(Fault::NotFound(says("there is no such secret"))),
        "damaged" => Some(Fault::Damaged(says("its digest does not match"))),
        "same" => Some(Fault::NothingToDo(says("that is the current version"))),
        "failed\u{1b}[2J" => Some(Fault::Failed(says("no space"))),
        _ => None,
    }
}

fn answer<T>(path: &SecretPath, value: T) -> Result<T, Fault> {
    fault(path).map_or(Ok(value), Err)
}

impl Admin for Fake {
    fn enter(&self, _: &Actor) -> Result<(), Fault> {
        Ok(())
    }
    fn permit(&self, actor: &Actor, right: Right, _: &str) -> Result<(), Fault> {
        right.permits(actor.uid == 0, actor.proven)
    }
    fn prove(&self, _: &Actor, with: UnlockWith) -> Result<(), Fault> {
        match with {
            UnlockWith::Passphrase(p) if p.expose() == b"open sesame" => Ok(()),
            _ => Err(Fault::Refused("that does not open the store".into())),
        }
    }
    fn backup(&self, _: &Actor, out: &mut dyn Write) -> Result<BackupReport, Fault> {
        out.write_all(&[7; 500_000]).map_err(|e| Fault::Failed(e.to_string()))?;
        Ok(BackupReport { generation: 9, nodes: 2, blobs: 1, bytes: 500_000 })
    }
    fn denied(&self, actor: &Actor, _: &str) {
        self.denied.lock().unwrap().push(actor.uid);
    }
}

impl Serve<GetStatus> for Fake {
    fn serve(&self, _: &Actor, _: GetStatus) -> Result<Status, Fault> {
        Ok(Status { version: "9.9".into(), pid: 42, locked: !*self.unlocked.lock().unwrap(), ..Status::default() })
    }
}

impl Serve<Unlock> for Fake {
    fn serve(&self, _: &Actor, asked: Unlock) -> Result<Done, Fault> {
        match UnlockWith::one_of(asked.passphrase, asked.identity, asked.recovery)? {
            UnlockWith::Passphrase(p) if p.expose() == b"open sesame" => *self.unlocked.lock().unwrap() = true,
            _ => return Err(Fault::Refused("that does not open the store".into())),
        }
        Ok(Done {})
    }
}

impl Serve<Lock> for Fake {
    fn serve(&self, _: &Actor, _: Lock) -> Result<Done, Fault> {
        *self.unlocked.lock().unwrap() = false;
        Ok(Done {})
    }
}

impl Serve<List> for Fake {
    fn serve(&self, _: &Actor, list: List) -> Result<Listing, Fault> {
        let entry = |n: usize| Entry {
            path: SecretPath::parse(&format!("d/{n}\n")).unwrap(),
            kind: NodeKind::File,
            size: 10_u64.pow((n % 5) as u32),
            mode: 0o640,
            uid: 0,
            gid: 0,
            mtime: Timestamp { secs: 1_700_000_000, nanos: 0 },
            version: Some(n as u64),
            acl: n == 1,
            conditions: false,
            target: None,
            scope: "host".into(),
        };
        answer(&list.path, (0..self.entries).map(entry).collect()).map(|entries| Listing { entries })
    }
}

impl Serve<Put> for Fake {
    fn serve(&self, _: &Actor, put: Put) -> Result<Committed, Fault> {
        answer(&put.path, 7).inspect(|_| *self.kept.lock().unwrap() = Some(put)).map(|version| Committed { version })
    }
}

impl Serve<Reveal> for Fake {
    fn serve(&self, _: &Actor, reveal: Reveal) -> Result<Revealed, Fault> {
        answer(&reveal.path, ())?;
        let kept = self.kept.lock().unwrap();
        let put = kept.as_ref().ok_or(Fault::NotFound("nothing is kept".into()))?;
        Ok(Revealed { content: Secret::copy_of(put.content.expose())? })
    }
}

impl Serve<Remove> for Fake {
    fn serve(&self, _: &Actor, remove: Remove) -> Result<Removed, Fault> {
        answer(&remove.path, Removed { nodes: 1, purged: 0 })
    }
}

impl Serve<GetHistory> for Fake {
    fn serve(&self, _: &Actor, asked: GetHistory) -> Result<History, Fault> {
        let time = Timestamp { secs: 1_700_000_000, nanos: 0 };
        let versions = answer(
            &asked.path,
            vec![VersionInfo { number: 3, time, size: 9, digest: "ab".repeat(32), uid: Some(0), current: true }],
        )?;
        Ok(History { versions })
    }
}

impl Serve<Rollback> for Fake {
    fn serve(&self, _: &Actor, rollback: Rollback) -> Result<Committed, Fault> {
        answer(&rollback.path, 8).map(|version| Committed { version })
    }
}

impl Serve<Who> for Fake {
    fn serve(&self, _: &Actor, who: Who) -> Result<WhoReply, Fault> {
        let rule = |who: &str, rule: &str, allowed| Rule { who: who.into(), rule: rule.into(), allowed };
        let rules = vec![rule("uid 0", "owner", true), rule("everybody else", "other", false)];
        answer(&who.path, WhoReply { rules, recent: Vec::new() })
    }
}

impl Serve<LogAnchor> for Fake {
    fn serve(&self, _: &Actor, _: LogAnchor) -> Result<LogPosition, Fault> {
        Ok(LogPosition { head: "00".repeat(32), count: 0 })
    }
}

impl Serve<LogRotate> for Fake {
    fn serve(&self, _: &Actor, _: LogRotate) -> Result<Rotated, Fault> {
        Ok(Rotated { rotated: "/x/audit.log.1".into() })
    }
}

impl Serve<RecoveryAdd> for Fake {
    fn serve(&self, _: &Actor, asked: RecoveryAdd) -> Result<Resealed, Fault> {
        let recipient = &asked.recipient;
        match recipient.starts_with("age1") {
            true => Ok(Resealed { blobs: 5 }),
            false => Err(Fault::Usage("that is no age recipient".into())),
        }
    }
}

impl Serve<RecoveryRemove> for Fake {
    fn serve(&self, _: &Actor, _: RecoveryRemove) -> Result<Resealed, Fault> {
        Err(Fault::Refused("it is the last one".into()))
    }
}

impl Serve<RecoveryList> for Fake {
    fn serve(&self, _: &Actor, _: RecoveryList) -> Result<Recipients, Fault> {
        Ok(Recipients { recipients: vec!["age1abc".into()] })
    }
}

impl Serve<RecoveryEscrow> for Fake {
    fn serve(&self, _: &Actor, _: RecoveryEscrow) -> Result<Escrowed, Fault> {
        Ok(Escrowed { escrow: b"age-encryption.org/v1\n".to_vec() })
    }
}

impl Serve<Fsck> for Fake {
    fn serve(&self, _: &Actor, _: Fsck) -> Result<FsckReport, Fault> {
        let problem = Problem { what: "svc/pin".into(), problem: "its digest does not match".into() };
        Ok(FsckReport { problems: vec![problem], ..FsckReport::default() })
    }
}

impl Serve<Extract> for Fake {
    fn serve(&self, _: &Actor, extract: Extract) -> Result<Extracted, Fault> {
        answer(&extract.path, b"age-encryption.org/v1\n\xff".to_vec()).map(|blob| Extracted { blob })
    }
}

impl Serve<ScopeAdd> for Fake {
    fn serve(&self, _: &Actor, add: ScopeAdd) -> Result<Done, Fault> {
        match add.name.as_str() {
            "taken" => Err(Fault::Refused("the scope 'taken' is declared already".into())),
            _ => Ok(Done {}),
        }
    }
}

impl Serve<ScopeList> for Fake {
    fn serve(&self, _: &Actor, _: ScopeList) -> Result<ScopeListing, Fault> {
        let made = Timestamp { secs: 1_700_000_000, nanos: 0 };
        let (name, key) = ("web".into(), "alive".into());
        Ok(ScopeListing {
            scopes: vec![ScopeEntry { name, write: true, uid_map: UidMap::Auto, key, secrets: 2, instances: 1, made }],
        })
    }
}

impl Serve<ScopeRemove> for Fake {
    fn serve(&self, _: &Actor, remove: ScopeRemove) -> Result<Removed, Fault> {
        match remove.purge {
            Some(true) => Ok(Removed { nodes: 3, purged: 4 }),
            _ => Err(Fault::Refused("2 nodes are in it; --purge removes them for good".into())),
        }
    }
}

impl Serve<Attach> for Fake {
    fn serve(&self, _: &Actor, attach: Attach) -> Result<Attached, Fault> {
        match attach.scope.as_str() {
            "web" => Ok(Attached { id: attach.id.unwrap_or_else(|| format!("web-{}", attach.pid)) }),
            other => Err(Fault::NotFound(format!("the scope '{other}' is not declared"))),
        }
    }
}

impl Serve<Detach> for Fake {
    fn serve(&self, _: &Actor, asked: Detach) -> Result<Done, Fault> {
        match asked.id.as_str() {
            "web-1" => Ok(Done {}),
            _ => Err(Fault::NotFound("no such instance is attached".into())),
        }
    }
}

impl Serve<IdentityAdd> for Fake {
    fn serve(&self, _: &Actor, _: IdentityAdd) -> Result<Done, Fault> {
        Ok(Done {})
    }
}

impl Serve<IdentityRemove> for Fake {
    fn serve(&self, _: &Actor, _: IdentityRemove) -> Result<Done, Fault> {
        Err(Fault::Refused("it is the last one".into()))
    }
}

impl Serve<IdentityList> for Fake {
    fn serve(&self, _: &Actor, _: IdentityList) -> Result<Identities, Fault> {
        Ok(Identities { protectors: vec![ProtectorInfo { name: "main".into(), opened_by: "passphrase".into() }] })
    }
}

impl Serve<Rekey> for Fake {
    fn serve(&self, _: &Actor, _: Rekey) -> Result<Rekeyed, Fault> {
        Ok(Rekeyed::default())
    }
}

pinfold::serves!(
    Fake: stream Prove, stream Backup, one GetStatus, one Unlock, one Lock, parts List, one Put, secret Reveal, one Remove, one GetHistory, one Rollback, one Who, one LogAnchor, one LogRotate, one RecoveryAdd, one RecoveryRemove, one RecoveryList, one RecoveryEscrow, one Fsck, one Extract, one ScopeAdd, one ScopeList, one ScopeRemove, one Attach, one Detach, one IdentityAdd, one IdentityRemove, one IdentityList, one Rekey);

struct Rig {
    fake: Arc<Fake>,
    _server: Option<Server>,
    // Last: what writes there ends before it.
    dir: tempfile::TempDir,
}

impl Rig {
    fn new(fake: Fake) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { control: dir.path().join("run/control.sock"), ..Config::default() };
        let text = format!(
            "control = {:?}\nmountpoint = {:?}\naudit_log = {:?}\n",
            config.control,
            dir.path().join("mnt"),
            dir.path().join("log/audit.log")
        );
        let file = dir.path().join("pinfold.toml");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        let fake = Arc::new(fake);
        // As if whoever runs the tests were root.
        let root =
            |s: &std::os::unix::net::UnixStream| Peer::of(s).map(|p| Peer { actor: Actor { uid: 0, ..p.actor }, ..p });
        let mut server = Server::bind_with(&config, fake.clone(), Box::new(root)).unwrap();
        server.run().unwrap();
        Rig { dir, fake, _server: Some(server) }
    }

    /// A file with this content; its path.
    fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinfold"));
        command.arg("--config").arg(self.dir.path().join("pinfold.toml")).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn feed(&self, args: &[&str], stdin: &[u8]) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        // A command that refuses does not read to the end.
        let _ = pipe.write_all(stdin);
        drop(pipe);
        child.wait_with_output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Ended with this code, and every line on stderr has the form of errors.
#[track_caller]
fn ended(output: &Output, code: i32) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}{}", String::from_utf8_lossy(&output.stdout));
    for line in stderr.lines() {
        let form = ["pinfold: error: ", "pinfold: hint: ", "pinfold: warning: "].iter().any(|p| line.starts_with(p));
        assert!(form && !line.ends_with('.') && !line.chars().any(char::is_control), "{line:?}");
    }
    assert_eq!(code != 0, stderr.contains("pinfold: error: "), "{stderr}");
}

#[test]
fn a_secret_goes_in_by_stdin_and_comes_out_as_it_was() {
    let rig = Rig::new(Fake::default());
    let content: Vec<u8> = (0..1_048_576u32).map(|n| (n * 31) as u8).collect();
    let mount = rig.dir.path().join("mnt/svc/pin");
    let put = rig.feed(&["put", mount.to_str().unwrap(), "-o", "root", "-g", "0", "-m", "0640", "--json"], &content);
    ended(&put, 0);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&put.stdout).unwrap()["version"], 7);
    {
        let kept = rig.fake.kept.lock().unwrap();
        let put = kept.as_ref().unwrap();
        assert_eq!(
            (put.path.to_string().as_str(), put.uid, put.gid, put.mode),
            ("svc/pin", Some(0), Some(0), Some(0o640))
        );
    }
    let cat = rig.run(&["cat", "--reveal", "svc/pin"]);
    ended(&cat, 0);
    assert!(cat.stdout == content);
    ended(&rig.feed(&["put", "a"], &vec![0; 1_048_577]), 3);
    ended(&rig.feed(&["put", "a"], b""), 2);
    ended(&rig.feed(&["put", "a", "--allow-empty"], b""), 0);
    let json = rig.run(&["cat", "--reveal", "a", "--json"]);
    assert_eq!(text(&json.stdout), "{\"path\":\"a\",\"content\":\"\"}\n");
    ended(&rig.run(&["cat", "a"]), 2);
}

#[test]
fn each_kind_of_failure_has_its_code() {
    let rig = Rig::new(Fake::default());
    let (proof, wrong) = (rig.file("proof", "open sesame\n"), rig.file("wrong", "close sesame\n"));
    for (args, code) in [
        (&["history", "svc/pin"][..], 0),
        (&["history", "failed\u{1b}[2J"], 1),
        (&["history", "../x"], 2),
        (&["history"], 2),
        (&["history", "refused"], 3),
        (&["history", "locked"], 4),
        (&["history", "damaged"], 5),
        (&["history", "missing"], 6),
        (&["rollback", "same", "3"], 8),
        (&["rollback", "svc/pin", "3"], 0),
        (&["rm", "svc/pin", "missing"], 6),
        (&["rm", "/"], 2),
        (&["put", "a", "-o", "no-such-user"], 2),
        (&["who", "svc/pin"], 0),
        (&["recovery", "add", "x", "--passphrase-file", &proof], 2),
        (&["recovery", "add", "age1x", "--passphrase-file", &proof], 0),
        (&["recovery", "add", "age1x", "--passphrase-file", &wrong], 3),
        (&["recovery", "rm", "age1x", "--passphrase-file", &proof], 3),
        (&["recovery", "rm", "age1x"], 2),
        (&["recovery", "add", "age1x", "--only", "--passphrase-file", &proof], 0),
        (&["recovery", "escrow"], 0),
        (&["log", "rotate"], 0),
        (&["log"], 0),
        (&["log", "--verify"], 6),
        (&["fsck"], 5),
        (&["restore", "/nonexistent"], 3),
        (&["check-config"], 0),
        (&["--help"], 0),
        (&["nonsense"], 2),
        (&["unlock"], 2),
    ] {
        ended(&rig.run(args), code);
    }
    let locked = text(&rig.run(&["history", "locked"]).stderr);
    assert_eq!(locked, "pinfold: error: the store is locked\npinfold: hint: pinfold unlock\n");
}

#[test]
fn without_a_daemon_the_code_is_seven() {
    let mut rig = Rig::new(Fake::default());
    rig._server = None;
    for args in [&["status"][..], &["ls"], &["cat", "--reveal", "a"], &["unlock"], &["log", "rotate"]] {
        let output = rig.run(args);
        ended(&output, 7);
        assert!(text(&output.stderr).contains("pinfold: hint: start the daemon"));
    }
}

#[test]
fn a_wrong_configuration_names_the_line() {
    let rig = Rig::new(Fake::default());
    let file = rig.dir.path().join("pinfold.toml");
    std::fs::write(&file, "# x\nkeep_versions = 500\n").unwrap();
    let output = rig.run(&["check-config"]);
    ended(&output, 2);
    let first = format!("pinfold: error: {}:2:17: must be 1 to 100: keep_versions = 500\n", file.display());
    assert!(text(&output.stderr).starts_with(&first), "{}", text(&output.stderr));
    std::fs::write(&file, "operator_group = \"no-such-group\"\n").unwrap();
    ended(&rig.run(&["check-config"]), 2);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    ended(&rig.run(&["check-config"]), 3);
    std::fs::remove_file(&file).unwrap();
    ended(&rig.run(&["check-config"]), 2);
}

#[test]
fn listings_are_aligned_and_escaped_or_json() {
    let rig = Rig::new(Fake { entries: 3, ..Fake::default() });
    let long = text(&rig.run(&["ls", "-l", "d"]).stdout);
    assert_eq!(
        long,
        "-rw-r-----   root  root    1  2023-11-14T22:13:20Z  v0  0\\n\n\
         -rw-r-----+  root  root   10  2023-11-14T22:13:20Z  v1  1\\n\n\
         -rw-r-----   root  root  100  2023-11-14T22:13:20Z  v2  2\\n\n"
    );
    assert_eq!(text(&rig.run(&["ls", "-R"]).stdout), "d/0\\n\nd/1\\n\nd/2\\n\n");
    let json: serde_json::Value = serde_json::from_slice(&rig.run(&["ls", "--json", "d"]).stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 3);
    assert_eq!((&json[1]["path"], &json[1]["owner"], &json[1]["acl"]), (&"d/1\n".into(), &"root".into(), &true.into()));
    for args in [&["status"][..], &["history", "x"], &["who", "x"], &["recovery", "ls"], &["check-config"]] {
        let output = rig.run(&[args, &["--json"]].concat());
        ended(&output, 0);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let rig = Rig::new(Fake { entries: 20_000, ..Fake::default() });
    let mut child = rig.command(&["ls", "-l"]).spawn().unwrap();
    drop(child.stdout.take());
    ended(&child.wait_with_output().unwrap(), 0);
}

#[test]
fn backups_and_sealed_files_are_written_whole() {
    let rig = Rig::new(Fake::default());
    let file = rig.dir.path().join("b.tar");
    let name = file.to_str().unwrap();
    ended(&rig.run(&["backup", name]), 0);
    assert_eq!(std::fs::read(&file).unwrap(), vec![7; 500_000]);
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    ended(&rig.run(&["backup", name]), 3);
    ended(&rig.run(&["backup", name, "--force"]), 0);
    assert_eq!(rig.run(&["backup", "-"]).stdout.len(), 500_000);
    let proof = rig.file("proof", "open sesame\n");
    let extract = |path: &str| rig.run(&["fsck", "--extract", path, "--passphrase-file", &proof]);
    assert_eq!(extract("svc/pin").stdout, b"age-encryption.org/v1\n\xff");
    ended(&extract("missing"), 6);
    ended(&rig.run(&["fsck", "--extract", "svc/pin"]), 2);
    // What proves any other call proves this one.
    let (prove, wrong) = (format!("--prove={proof}"), format!("--prove={}", rig.file("wrong", "no\n")));
    assert_eq!(rig.run(&[&prove, "fsck", "--extract", "svc/pin"]).stdout, b"age-encryption.org/v1\n\xff");
    ended(&rig.run(&[&wrong, "fsck", "--extract", "svc/pin"]), 3);
    ended(&rig.run(&[&prove, "fsck", "--extract", "svc/pin", "--passphrase-file", &proof]), 2);
    ended(&rig.run(&[&prove, "recovery", "add", "age1x"]), 0);
    ended(&rig.run(&[&prove, "recovery", "rm", "age1x"]), 3);
}

#[test]
fn passphrases_come_from_files_and_stdin() {
    let rig = Rig::new(Fake::default());
    ended(&rig.feed(&["unlock", "--passphrase-file", "-"], b"wrong\n"), 3);
    ended(&rig.feed(&["unlock", "--passphrase-file", "-"], b"open sesame\n"), 0);
    ended(&rig.run(&["unlock"]), 8);
    ended(&rig.run(&["lock"]), 0);
    let file = rig.dir.path().join("p");
    std::fs::write(&file, "open sesame").unwrap();
    ended(&rig.run(&["unlock", "--passphrase-file", file.to_str().unwrap()]), 0);
}

/// The program as another user, who may lock little memory, with these supplementary groups.
fn as_nobody(config: &std::path::Path, groups: &str, args: &[&str]) -> Output {
    let mut command = Command::new("prlimit");
    command.args([
        "--memlock=262144",
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        groups,
        env!("CARGO_BIN_EXE_pinfold"),
    ]);
    command.arg("--config").arg(config).args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn real_strangers_are_refused_and_real_members_are_not() {
    assert!(nix::unistd::geteuid().is_root(), "this test changes its uid: run it as root");
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let file = dir.path().join("pinfold.toml");
    let control = dir.path().join("run/control.sock");
    for (group, line) in [(None, ""), (Some("adm".to_owned()), "operator_group = \"adm\"\n")] {
        std::fs::write(&file, format!("control = {control:?}\n{line}")).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        let config = Config { control: control.clone(), operator_group: group, ..Config::default() };
        let gid = config.operator_gid().unwrap();
        let fake = Arc::new(Fake::default());
        let mut server = Server::bind(&config, fake.clone()).unwrap();
        server.run().unwrap();
        // Nothing but the mode keeps him out.
        ended(&as_nobody(&file, "--clear-groups", &["status"]), 3);
        assert!(fake.denied.lock().unwrap().is_empty());
        if let Some(gid) = gid {
            assert_eq!(std::fs::metadata(&control).unwrap().mode() & 0o777, 0o660);
            ended(&as_nobody(&file, &format!("--groups={gid}"), &["status"]), 0);
        }
        // Without the modes, it is the daemon that does.
        std::fs::set_permissions(control.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&control, PermissionsExt::from_mode(0o666)).unwrap();
        let refused = as_nobody(&file, "--clear-groups", &["status"]);
        ended(&refused, 3);
        assert!(text(&refused.stderr).contains("you may not use"), "{}", text(&refused.stderr));
        assert_eq!(*fake.denied.lock().unwrap(), [65534]);
        server.stop();
        std::fs::remove_dir(control.parent().unwrap()).unwrap();
    }
}

/// The program on a terminal of its own.
struct Terminal {
    master: File,
    slave: OwnedFd,
    child: std::process::Child,
    seen: String,
}

impl Terminal {
    fn start(rig: &Rig, args: &[&str]) -> Terminal {
        let pty = openpty(None, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        // setsid(1) makes the terminal the program's own, so that /dev/tty is this one.
        let child = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_pinfold"), "--config"])
            .arg(rig.dir.path().join("pinfold.toml"))
            .args(args)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Terminal { master: File::from(pty.master), slave: pty.slave, child, seen: String::new() }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
    }

    /// Reads until this is shown.
    fn until(&mut self, what: &str) {
        while !self.seen.contains(what) {
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, 20_000u16), Ok(1), "{what:?} does not come, only {:?}", self.seen);
            let mut piece = [0; 256];
            let n = self.master.read(&mut piece).unwrap();
            self.seen += std::str::from_utf8(&piece[..n]).unwrap();
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }
}

#[test]
fn a_passphrase_that_is_typed_is_not_shown() {
    let rig = Rig::new(Fake::default());
    let mut terminal = Terminal::start(&rig, &["unlock"]);
    terminal.until("Passphrase: ");
    assert!(!terminal.echoes());
    terminal.press(b"open sesamx\x7fe\r");
    terminal.until("\n");
    assert!(terminal.child.wait().unwrap().success());
    assert!(terminal.echoes(), "the terminal is as it was");
    assert!(!terminal.seen.contains("sesam"), "{:?}", terminal.seen);
    assert!(*rig.fake.unlocked.lock().unwrap());
}

#[test]
fn an_interrupted_question_leaves_the_terminal_as_it_was() {
    let rig = Rig::new(Fake::default());
    let mut terminal = Terminal::start(&rig, &["unlock"]);
    terminal.until("Passphrase: ");
    terminal.press(b"half\x03");
    assert!(!terminal.child.wait().unwrap().success());
    assert!(terminal.echoes());
    assert!(!*rig.fake.unlocked.lock().unwrap());
}

#[test]
fn a_wrong_passphrase_is_asked_for_again_three_times_in_all() {
    let rig = Rig::new(Fake::default());
    let mut terminal = Terminal::start(&rig, &["unlock"]);
    terminal.until("Passphrase: ");
    for _ in 0..2 {
        terminal.press(b"wrong\r");
        terminal.until("Once more, the passphrase: ");
        terminal.seen.clear();
    }
    terminal.press(b"wrong\r");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(3));
    assert!(terminal.echoes());
}

#[test]
fn the_terminal_gives_way_to_whoever_is_faster() {
    let rig = Rig::new(Fake::default());
    let folder = rig.dir.path().join("unlock.d");
    std::fs::create_dir(&folder).unwrap();
    let program = folder.join("slow");
    crate::common::program(&program, "#!/bin/sh\nsleep 1\nprintf 'open sesame'\n");
    for path in [rig.dir.path(), &folder] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut config = File::options().append(true).open(rig.dir.path().join("pinfold.toml")).unwrap();
    writeln!(config, "[unlock]\nprograms = [{folder:?}]").unwrap();
    let mut terminal = Terminal::start(&rig, &["unlock"]);
    terminal.until("Passphrase: ");
    terminal.press(b"half a word");
    assert!(terminal.child.wait().unwrap().success());
    assert!(terminal.echoes(), "the terminal is as it was");
    assert!(*rig.fake.unlocked.lock().unwrap());
}

#[test]
fn what_opens_the_identity_is_listed_added_and_removed() {
    let rig = Rig::new(Fake::default());
    assert_eq!(text(&rig.run(&["identity", "ls"]).stdout), "main                    passphrase\n");
    ended(&rig.run(&["identity", "rm", "main"]), 3);
    let file = rig.dir.path().join("p");
    std::fs::write(&file, "open sesame").unwrap();
    let file = file.to_str().unwrap();
    ended(&rig.feed(&["passwd", "--old-passphrase-file", file, "--passphrase-file", "-"], b"new\n"), 0);
    ended(&rig.run(&["passwd", "--old-passphrase-file", "-", "--passphrase-file", "-"]), 2);
    ended(&rig.run(&["identity", "add", "x", "--old-passphrase-file", file, "--recipient", "age1x"]), 0);
    // A program that cannot encrypt leaves nothing behind.
    let out = rig.dir.path().join("x.age");
    for (recipient, code) in [("age1nosuch1dehkymmy0yxwa3ln", 1), ("age1nonsense", 2)] {
        let args = ["identity", "add", "x", "--old-passphrase-file", file, "--plugin", recipient, "--out"];
        let output = rig.run(&[&args[..], &[out.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(!out.exists());
    }
    ended(&rig.run(&["rekey", "--old-passphrase-file", file, "--new-passphrase-file", file]), 0);
    let key = rig.dir.path().join("identity.key");
    ended(&rig.run(&["rekey", "--old-passphrase-file", file, "--new-keyfile", key.to_str().unwrap()]), 0);
    assert!(std::fs::read_to_string(&key).unwrap().contains("AGE-SECRET-KEY-1"));
    assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    assert!(!rig.dir.path().join("identity.key.new").exists());
}
