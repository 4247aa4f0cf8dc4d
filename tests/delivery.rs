//! Deliveries against what is really there: folders, programs, and an OpenSSH server on loopback with an upload account.
//!
//! Owns its server, its account and its folders, and takes them away. Runs as root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use crate::common;

use common::sshd::{Login, Sshd};
use common::wait_for;
use pinfold::delivery::{
    Cancel, Counts, Delivered, DeliveryError, DeliveryResult, Job, Settings, Target, deliver, deliver_all, fetch_ack,
};
use pinfold::model::{ConsoleName, HostName};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

struct Rig {
    dir: tempfile::TempDir,
    settings: Settings,
}

impl Rig {
    fn new() -> Rig {
        let settings = Settings {
            connect: Duration::from_secs(5),
            transfer: Duration::from_secs(60),
            program: Duration::from_secs(30),
            ..Settings::default()
        };
        Rig { dir: tempfile::tempdir().unwrap(), settings }
    }

    fn at(sshd: &Sshd) -> Rig {
        let mut rig = Rig::new();
        rig.settings.ssh_config = Some(sshd.client_config());
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn job(&self, target: &str, content: &[u8]) -> Job {
        let file = self.path("made.pfb");
        fs::write(&file, content).unwrap();
        Job {
            target: Target::parse(target).unwrap(),
            file,
            console: ConsoleName::parse("console").unwrap(),
            host: HostName::parse("h1").unwrap(),
            serial: 42,
            before: None,
            after: None,
        }
    }

    fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.path(name);
        crate::common::program(&path, &format!("#!/bin/sh\n{script}\n"));
        path
    }

    fn deliver(&self, job: &Job) -> Result<Delivered, DeliveryError> {
        deliver(job, &self.settings, &Cancel::new().unwrap())
    }

    fn ack(&self, from: &str) -> Result<Option<Vec<u8>>, DeliveryError> {
        let (host, console) = (HostName::parse("h1").unwrap(), ConsoleName::parse("console").unwrap());
        fetch_ack(&Target::parse(from).unwrap(), &host, &console, &self.settings, &Cancel::new().unwrap())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn address(sshd: &Sshd, path: &str) -> String {
    format!("sftp://{}@127.0.0.1:{}{path}", sshd.user, sshd.port)
}

#[test]
fn a_folder_gets_whole_files_under_their_names() {
    let rig = Rig::new();
    let inbox = rig.path("in");
    fs::create_dir(&inbox).unwrap();
    // What a broken delivery left, and what somebody else put there to be written through.
    let victim = rig.path("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, inbox.join(".console.part")).unwrap();
    let content = vec![7; 3 << 20];
    let job = rig.job(&format!("dir:{}", inbox.display()), &content);
    assert_eq!(rig.deliver(&job).unwrap().bytes, 3 << 20);
    assert_eq!(names(&inbox), ["42.pfb"]);
    assert_eq!(fs::read(inbox.join("42.pfb")).unwrap(), content);
    assert_eq!(fs::metadata(inbox.join("42.pfb")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_to_string(victim).unwrap(), "untouched");
    rig.deliver(&job).unwrap();
    assert_eq!(names(&inbox), ["42.pfb"], "twice is once");
}

#[test]
fn folders_that_are_none_or_everybodys_are_refused() {
    let rig = Rig::new();
    let open = rig.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(rig.path("file"), "x").unwrap();
    let try_at = |path: &Path| rig.deliver(&rig.job(&format!("dir:{}", path.display()), b"x"));
    let error = try_at(&open).unwrap_err();
    assert!(error.is_lasting() && error.to_string().contains("everybody can replace"), "{error}");
    fs::set_permissions(&open, PermissionsExt::from_mode(0o1777)).unwrap();
    try_at(&open).unwrap();
    assert!(!try_at(&rig.path("missing")).unwrap_err().is_lasting());
    try_at(&rig.path("file")).unwrap_err();
    let tree = try_at(Path::new("/run/secrets/in")).unwrap_err();
    assert!(tree.is_lasting() && tree.to_string().contains("tree of secrets"), "{tree}");
    let mut job = rig.job(&format!("dir:{}", open.display()), b"x");
    symlink(&job.file, rig.path("link")).unwrap();
    job.file = rig.path("link");
    rig.deliver(&job).unwrap_err();
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let rig = Rig::new();
    let inbox = rig.path("in");
    fs::create_dir(&inbox).unwrap();
    let _mounted = Tmpfs::on(&inbox, "1m");
    let error = rig.deliver(&rig.job(&format!("dir:{}", inbox.display()), &vec![1; 4 << 20])).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(names(&inbox).is_empty());
}

struct Tmpfs(PathBuf);

impl Tmpfs {
    fn on(path: &Path, size: &str) -> Tmpfs {
        let options = format!("size={size},mode=0755");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status().unwrap();
        assert!(done.success(), "this test mounts a small disk: run it as root");
        Tmpfs(path.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_program_gets_the_file_and_its_exit_status_counts() {
    let rig = Rig::new();
    let got = rig.path("got");
    let bring = rig.program(
        "bring",
        &format!(
            "cat > {0}; cmp {0} \"$PINFOLD_FILE\" && echo $# $PINFOLD_ACTION $PINFOLD_CONSOLE $PINFOLD_HOST $PINFOLD_SERIAL >> {0}",
            got.display()
        ),
    );
    let job = rig.job(&format!("exec:{}", bring.display()), b"content\n");
    rig.deliver(&job).unwrap();
    assert_eq!(fs::read_to_string(got).unwrap(), "content\n0 deliver console h1 42\n");
    rig.program("bring", "echo the line is dead >&2; exit 7");
    let error = rig.deliver(&job).unwrap_err();
    assert!(error.to_string().ends_with("ended with exit status 7: the line is dead"), "{error}");
    fs::set_permissions(&bring, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(rig.deliver(&job).unwrap_err().is_lasting());
}

#[test]
fn programs_before_and_after_are_run_also_when_it_fails() {
    let rig = Rig::new();
    let (inbox, log) = (rig.path("in"), rig.path("log"));
    fs::create_dir(&inbox).unwrap();
    let note = format!("echo $PINFOLD_ACTION $PINFOLD_HOST $PINFOLD_RESULT >> {}", log.display());
    let mut job = rig.job(&format!("dir:{}", inbox.display()), b"x");
    job.before = Some(rig.program("before", &note));
    job.after = Some(rig.program("after", &note));
    let noted = || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        text
    };
    assert_eq!(rig.deliver(&job).unwrap().warning, None);
    assert_eq!(noted(), "before h1\nafter h1 delivered\n");
    fs::remove_file(inbox.join("42.pfb")).unwrap();
    // What comes before failed: nothing is delivered, and what it began is ended.
    rig.program("before", &format!("{note}; echo no line; exit 1"));
    let error = rig.deliver(&job).unwrap_err();
    assert!(error.to_string().contains("before it ended with exit status 1: no line"), "{error}");
    assert_eq!((noted().as_str(), names(&inbox)), ("before h1\nafter h1 failed\n", vec![]));
    rig.program("before", &note);
    fs::remove_dir(&inbox).unwrap();
    rig.deliver(&job).unwrap_err();
    assert_eq!(noted(), "before h1\nafter h1 failed\n");
    fs::create_dir(&inbox).unwrap();
    rig.program("after", "echo still up; exit 1");
    let delivered = rig.deliver(&job).unwrap();
    assert!(delivered.warning.unwrap().contains("after it ended with exit status 1: still up"));
}

#[test]
fn an_acknowledgement_is_taken_from_where_it_is_and_bounded() {
    let rig = Rig::new();
    let out = rig.path("out");
    fs::create_dir(&out).unwrap();
    let from = format!("dir:{}", out.display());
    let ack = out.join("h1@console.ack");
    assert_eq!(rig.ack(&from).unwrap(), None);
    fs::write(&ack, "signed").unwrap();
    assert_eq!(rig.ack(&from).unwrap().unwrap(), b"signed");
    fs::write(&ack, vec![0; (64 << 10) + 1]).unwrap();
    assert!(matches!(rig.ack(&from), Err(DeliveryError::TooLarge { .. })));
    fs::remove_file(&ack).unwrap();
    symlink("/etc/passwd", &ack).unwrap();
    rig.ack(&from).unwrap_err();
    fs::remove_file(&ack).unwrap();
    nix::unistd::mkfifo(&ack, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    rig.ack(&from).unwrap_err();
    for (script, expected) in [("printf signed", Some(b"signed".to_vec())), ("echo none >&2", None)] {
        let program = rig.program("ack", script);
        assert_eq!(rig.ack(&format!("exec:{}", program.display())).unwrap(), expected);
    }
    let program = rig.program(
        "ack",
        "[ $PINFOLD_ACTION = fetch-ack ] && [ $PINFOLD_HOST$PINFOLD_CONSOLE = h1console ] && head -c 70000 /dev/zero",
    );
    assert!(matches!(rig.ack(&format!("exec:{}", program.display())), Err(DeliveryError::TooLarge { .. })));
}

#[test]
fn sftp_brings_whole_files_to_the_inbox_and_nowhere_else() {
    let sshd = Sshd::start(Login::Upload);
    let rig = Rig::at(&sshd);
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(sshd.inbox().join(".console.part"), "what a broken delivery left, and longer").unwrap();
    std::os::unix::fs::chown(sshd.inbox().join(".console.part"), Some(sshd.uid), None).unwrap();
    let job = rig.job(&address(&sshd, "/inbox"), &content);
    rig.deliver(&job).unwrap_or_else(|e| panic!("{e}\n{}", sshd.log()));
    assert_eq!(names(&sshd.inbox()), ["42.pfb"]);
    assert_eq!(fs::read(sshd.inbox().join("42.pfb")).unwrap(), content);
    assert_eq!(fs::metadata(sshd.inbox().join("42.pfb")).unwrap().uid(), sshd.uid);
    rig.deliver(&job).unwrap();
    assert_eq!(names(&sshd.inbox()), ["42.pfb"], "twice is once");
    rig.deliver(&rig.job(&address(&sshd, "/~/inbox"), &content)).unwrap();
    // Elsewhere it may not write.
    let error = rig.deliver(&rig.job(&address(&sshd, "/"), &content)).unwrap_err();
    assert!(error.to_string().contains("Permission denied"), "{error}");
    let error = rig.deliver(&rig.job(&address(&sshd, "/missing"), &content)).unwrap_err();
    assert!(!error.is_lasting() && error.to_string().contains("No such file"), "{error}");
}

#[test]
fn sftp_fetches_acknowledgements() {
    let sshd = Sshd::start(Login::Upload);
    let rig = Rig::at(&sshd);
    let from = address(&sshd, "/inbox");
    let ack = sshd.inbox().join("h1@console.ack");
    assert_eq!(rig.ack(&from).unwrap(), None);
    fs::write(&ack, "signed").unwrap();
    assert_eq!(rig.ack(&from).unwrap().unwrap(), b"signed");
    fs::set_permissions(&ack, PermissionsExt::from_mode(0o600)).unwrap();
    let error = rig.ack(&from).unwrap_err();
    assert!(error.to_string().contains("Permission denied"), "{error}");
    // A server that sends without end fills no disk, and no memory.
    fs::remove_file(&ack).unwrap();
    fs::File::create(&ack).unwrap().set_len(1 << 33).unwrap();
    let begun = Instant::now();
    assert!(rig.ack(&from).is_err());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn sftp_trusts_nobody_it_does_not_know() {
    let mut sshd = Sshd::start(Login::Upload);
    let rig = Rig::at(&sshd);
    let job = rig.job(&address(&sshd, "/inbox"), b"x");
    let failed = |says: &str| {
        let error = rig.deliver(&job).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(names(&sshd.inbox()).is_empty());
    };
    sshd.trust("other_host", "user");
    failed("Host key verification failed");
    fs::write(sshd.client_config().with_file_name("known_hosts"), "").unwrap();
    failed("Host key verification failed");
    sshd.trust("host", "other_user");
    failed("Permission denied");
    sshd.trust("host", "user");
    sshd.kill();
    let error = rig.deliver(&job).unwrap_err();
    assert!(error.to_string().contains("Connection refused"), "{error}");
    sshd.run();
    rig.deliver(&job).unwrap();
}

#[test]
fn the_server_of_these_tests_lets_its_shell_account_in_by_key_and_password() {
    let sshd = Sshd::start(Login::Shell("open sesame"));
    let ssh = |options: &[&str], askpass: &Path| {
        let out = Command::new("ssh")
            .arg("-F")
            .arg(sshd.client_config())
            .args(options)
            .args(["-p", &sshd.port.to_string(), &format!("{}@127.0.0.1", sshd.user), "id -un"])
            .env("SSH_ASKPASS", askpass)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let rig = Rig::new();
    let right = rig.program("right", "echo open sesame");
    let wrong = rig.program("wrong", "echo sesame");
    let user = format!("{}\n", sshd.user);
    assert_eq!(ssh(&["-oBatchMode=yes"], &right), user, "{}", sshd.log());
    let password = ["-oPreferredAuthentications=password", "-oNumberOfPasswordPrompts=1"];
    assert_eq!(ssh(&password, &right), user, "{}", sshd.log());
    assert_eq!(ssh(&password, &wrong), "");
}

#[test]
fn sftp_waits_for_no_server_that_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::new();
    let config = rig.path("ssh_config");
    fs::write(&config, "Host *\n  IdentityAgent none\n").unwrap();
    rig.settings.ssh_config = Some(config);
    let target = format!("sftp://up@127.0.0.1:{}/in", silent.local_addr().unwrap().port());
    let job = rig.job(&target, b"x");
    let within = |seconds: u64, rig: &Rig| {
        let begun = Instant::now();
        let error = rig.deliver(&job).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(seconds), "{:?}: {error}", begun.elapsed());
        error
    };
    // ssh's own bound, and the one around it.
    rig.settings.connect = Duration::from_secs(1);
    let error = within(10, &rig);
    assert!(matches!(error, DeliveryError::Failed { .. }), "{error}");
    (rig.settings.connect, rig.settings.transfer) = (Duration::from_secs(600), Duration::from_secs(1));
    let error = within(10, &rig);
    assert!(matches!(error, DeliveryError::TimedOut { .. }), "{error}");
}

#[test]
fn sftp_never_shows_half_a_file_under_its_name() {
    let mut sshd = Sshd::start(Login::Upload);
    let mut rig = Rig::at(&sshd);
    // A disk that is full.
    {
        let _mounted = Tmpfs::on(&sshd.inbox(), "1m");
        std::os::unix::fs::chown(sshd.inbox(), Some(sshd.uid), None).unwrap();
        rig.deliver(&rig.job(&address(&sshd, "/inbox"), &vec![1; 4 << 20])).unwrap_err();
        assert_eq!(names(&sshd.inbox()), [".console.part"]);
    }
    // Large enough to be in the middle of.
    let job = rig.job(&address(&sshd, "/inbox"), b"");
    fs::File::create(&job.file).unwrap().set_len(1 << 30).unwrap();
    let part = sshd.inbox().join(".console.part");
    let begun = |part: &Path| {
        wait_for("a part of the file", Duration::from_secs(30), || {
            fs::metadata(part).ok().filter(|m| m.len() > 1 << 20)
        });
    };
    // Whoever sends it changes his mind.
    let cancel = Cancel::new().unwrap();
    let outcome = std::thread::scope(|scope| {
        let sending = scope.spawn(|| deliver(&job, &rig.settings, &cancel));
        begun(&part);
        cancel.cancel();
        sending.join().unwrap()
    });
    assert!(matches!(outcome, Err(DeliveryError::Cancelled)), "{outcome:?}");
    assert_eq!(names(&sshd.inbox()), [".console.part"]);
    // It takes too long.
    fs::remove_file(&part).unwrap();
    rig.settings.transfer = Duration::from_millis(700);
    assert!(matches!(rig.deliver(&job), Err(DeliveryError::TimedOut { .. })));
    assert!(!sshd.inbox().join("42.pfb").exists());
    rig.settings.transfer = Duration::from_secs(60);
    // The server dies.
    let _ = fs::remove_file(&part);
    let outcome = std::thread::scope(|scope| {
        let sending = scope.spawn(|| rig.deliver(&job));
        begun(&part);
        sshd.kill();
        sending.join().unwrap()
    });
    outcome.unwrap_err();
    assert_eq!(names(&sshd.inbox()), [".console.part"]);
    sshd.run();
    fs::write(&job.file, "whole").unwrap();
    rig.deliver(&job).unwrap();
    assert_eq!(names(&sshd.inbox()), ["42.pfb"]);
    assert_eq!(fs::read_to_string(sshd.inbox().join("42.pfb")).unwrap(), "whole");
}

#[test]
fn many_are_delivered_some_at_once_and_each_failure_is_its_own() {
    let rig = Rig::new();
    let jobs: Vec<Job> = (0..40)
        .map(|n| {
            let inbox = rig.path(&format!("in{n}"));
            if n % 4 != 0 {
                fs::create_dir(&inbox).unwrap();
            }
            rig.job(&format!("dir:{}", inbox.display()), b"x")
        })
        .collect();
    let heard = Mutex::new(Vec::new());
    let each = |counts: Counts, _: &Job, _: &DeliveryResult| heard.lock().unwrap().push(counts);
    let cancel = Cancel::new().unwrap();
    let outcomes = deliver_all(&jobs, 4, &rig.settings, &cancel, &each);
    let failed: Vec<usize> = (0..40).filter(|n| outcomes[*n].is_err()).collect();
    assert_eq!(failed, (0..40).step_by(4).collect::<Vec<_>>());
    let heard = heard.into_inner().unwrap();
    assert_eq!(heard.iter().map(|c| c.delivered + c.failed).collect::<Vec<_>>(), (1..=40).collect::<Vec<_>>());
    assert_eq!(*heard.last().unwrap(), Counts { total: 40, delivered: 30, failed: 10 });
    // At once, not one after the other.
    let slow = rig.program("slow", "sleep 1");
    let jobs: Vec<Job> = (0..4).map(|_| rig.job(&format!("exec:{}", slow.display()), b"x")).collect();
    let begun = Instant::now();
    assert!(deliver_all(&jobs, 4, &rig.settings, &cancel, &|_, _, _| ()).iter().all(Result::is_ok));
    assert!(begun.elapsed() < Duration::from_millis(3500), "{:?}", begun.elapsed());
    cancel.cancel();
    let outcomes = deliver_all(&jobs, 2, &rig.settings, &cancel, &|_, _, _| ());
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(DeliveryError::Cancelled))));
    assert!(deliver_all(&[], 0, &rig.settings, &cancel, &|_, _, _| ()).is_empty());
}
