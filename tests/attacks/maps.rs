//! What is mapped: the kernel keeps one set of pages for each number that it knows a file by, and no two versions may meet in it.
//!
//! The attack's program is `programs/maps.py`. Readers are two of the uids that every system has.

use crate::common;

use common::console::{Console, HOST, NAME, Sent};
use common::{Daemon, Held, ROOT, Setup, User, sh};

const OWNER: &str = "www-data";
const OTHER: &str = "daemon";
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/programs/maps.py");

fn daemon() -> Daemon {
    Daemon::with(Setup { binary: Some(env!("CARGO_BIN_EXE_pinfold").into()), ..Setup::default() })
}

/// The attack's program, as this user.
fn program(user: User) -> Held {
    Held::start(user, &format!("exec /usr/bin/python3 {PROGRAM}"))
}

/// The same with a file open, and perhaps mapped.
#[track_caller]
fn reader(user: &str, path: &str, maps: Option<&str>) -> Held {
    let mut reader = program(User::named(user));
    assert_eq!(reader.ask(&format!("open {path} ro")), "ok", "{user} opens {path}");
    if let Some(kind) = maps {
        assert_eq!(reader.ask(&format!("map {kind}")), "ok", "{user} maps {path} {kind}");
    }
    reader
}

/// The first version, readable by both.
fn first(path: &str) {
    sh(&format!("echo version-1 > {path} && chown {OWNER} {path} && chmod 644 {path}")).ok();
}

/// The ways in which a second version comes, which only the owner may read.
const WAYS: [&str; 5] = ["cp", "mv", "put", "rollback", "import"];

struct Site {
    daemon: Daemon,
    console: Console,
    serial: u64,
}

impl Site {
    fn new() -> Self {
        let daemon = daemon();
        let mut console = Console::new();
        let joined = daemon.json(&["join", NAME, "--signer", &console.signer(), "--host", HOST, "--json"]);
        console.knows(joined["line"].as_str().expect("the policy's line"));
        Site { daemon, console, serial: 0 }
    }

    fn import(&mut self, at: &str, content: &str, mode: u16) {
        self.serial += 1;
        let bundle = self.console.seal(self.serial, &[Sent(at, content, OWNER, mode)], &[]);
        let file = self.daemon.file("sent.pfb");
        std::fs::write(&file, bundle).expect("the folder is ours");
        self.daemon.cli(&["import", &file.display().to_string()]).ok();
    }

    /// Brings the first version, as it has to be for that way.
    fn begin(&mut self, way: &str, at: &str) {
        let path = self.daemon.path(at);
        match way {
            "import" => self.import(at, "version-1\n", 0o644),
            "rollback" => {
                sh(&format!("echo version-2 > {path}")).ok();
                first(&path);
            }
            _ => first(&path),
        }
    }

    fn commit(&mut self, way: &str, at: &str) {
        let path = self.daemon.path(at);
        let temporary = self.daemon.file("new").display().to_string();
        if way != "import" {
            sh(&format!("chmod 600 {path} && echo version-2 > {temporary}")).ok();
        }
        match way {
            "cp" => drop(sh(&format!("cp {temporary} {path}")).ok()),
            "mv" => drop(sh(&format!("install -o {OWNER} -m 600 {temporary} {path}.new && mv {path}.new {path}")).ok()),
            "put" => drop(
                sh(&format!(
                    "{} --config {} put {at} < {temporary}",
                    env!("CARGO_BIN_EXE_pinfold"),
                    self.daemon.file("pinfold.toml").display()
                ))
                .ok(),
            ),
            "rollback" => drop(self.daemon.cli(&["rollback", at, "1"]).ok()),
            "import" => self.import(at, "version-2\n", 0o600),
            _ => unreachable!(),
        }
    }
}

#[test]
fn two_versions_never_meet_in_the_pages_of_two_readers() {
    let mut site = Site::new();
    sh(&format!("mkdir {}", site.daemon.path("x"))).ok();
    for way in WAYS {
        for kind in ["private", "shared"] {
            let at = format!("x/{way}-{kind}");
            let case = format!("{way}, {kind}");
            let path = site.daemon.path(&at);
            site.begin(way, &at);
            let mut owner = reader(OWNER, &path, Some(kind));
            // Mapped, and not one page of it there.
            let mut other = reader(OTHER, &path, Some(kind));
            assert_eq!(owner.ask("look"), "version-1", "{case}");
            let ino = owner.ask("ino");
            site.commit(way, &at);
            let mut next = reader(OWNER, &path, Some(kind));
            assert_eq!(next.ask("look"), "version-2", "{case}: who opens it now has the new version");
            assert_eq!(other.ask("look"), "version-1", "{case}: who may not read the new version does not see it");
            assert_eq!(next.ask("look"), "version-2", "{case}: what was read stays what it was");
            assert_eq!(owner.ask("look"), "version-1", "{case}: what was mapped stays what it was");
            // Once more, with new maps of the old handles, and past the maps through the pages.
            assert_eq!(
                (other.ask(&format!("map {kind}")), other.ask("look")),
                ("ok".into(), "version-1".into()),
                "{case}"
            );
            assert_eq!(
                (other.ask("send"), next.ask("send"), owner.ask("send")),
                ("version-1".into(), "version-2".into(), "version-1".into()),
                "{case}"
            );
            assert_eq!((next.ask("look"), owner.ask("look")), ("version-2".into(), "version-1".into()), "{case}");
            assert_eq!(other.ask(&format!("fresh {path}")), "EACCES", "{case}: a new open");
            assert_eq!(owner.ask(&format!("fresh {path}")), "version-2", "{case}: a new open");
            if way != "mv" {
                assert_eq!(
                    (next.ask("ino"), owner.ask("ino")),
                    (ino.clone(), ino),
                    "{case}: it is one file for stat(2)"
                );
            }
        }
    }
    site.daemon.cli(&["log", "--verify"]).ok();
}

#[test]
fn what_can_be_written_is_never_mapped_and_shows_no_reader_what_is_not_committed() {
    let daemon = daemon();
    let path = daemon.path("f");
    first(&path);
    let mut early = reader(OTHER, &path, Some("shared"));
    let mut writer = program(User::named(OWNER));
    assert_eq!(writer.ask(&format!("open {path} rw")), "ok");
    let mut late = reader(OTHER, &path, Some("private"));
    for map in ["map private", "map shared", "map shared rw"] {
        assert_eq!(writer.ask(map), "ENODEV", "{map}");
    }
    assert_eq!((early.ask("look"), late.ask("look")), ("version-1".into(), "version-1".into()));
    assert_eq!((writer.ask("write version-2"), writer.ask("read")), ("ok".into(), "version-2".into()));
    // Through pages it cannot be read either: they would be another's to see.
    assert_eq!(writer.ask("send"), "EINVAL");
    assert_eq!(
        (early.ask("look"), late.ask("look"), late.ask("send")),
        ("version-1".into(), "version-1".into(), "version-1".into())
    );
    assert_eq!(writer.ask("sync"), "ok");
    assert_eq!(
        (early.ask("look"), late.ask("look"), writer.ask("read")),
        ("version-1".into(), "version-1".into(), "version-2".into())
    );
    let mut next = reader(OTHER, &path, Some("shared"));
    assert_eq!((next.ask("look"), late.ask("look")), ("version-2".into(), "version-1".into()));
    for map in ["map private", "map shared rw"] {
        assert_eq!(writer.ask(map), "ENODEV", "{map}, after the commit");
    }
    // Writers of one secret meet at one lock, whatever was committed between.
    assert_eq!(writer.ask("lock"), "ok");
    let mut second = program(User::named(OWNER));
    assert_eq!(second.ask(&format!("open {path} rw")), "ok");
    assert_eq!(second.ask("lock"), "EAGAIN");
}

#[test]
fn a_page_that_is_held_in_a_pipe_shows_in_no_later_version() {
    let daemon = daemon();
    let path = daemon.path("f");
    first(&path);
    let mut other = reader(OTHER, &path, None);
    // The kernel has the page from the first version and cannot drop it; no handle of that is open any more.
    assert_eq!((other.ask("keep"), other.ask("close")), ("ok".into(), "ok".into()));
    sh(&format!("chmod 600 {path} && echo version-2 > {path}")).ok();
    for kind in ["private", "shared"] {
        let mut next = reader(OWNER, &path, Some(kind));
        assert_eq!((next.ask("look"), next.ask("send")), ("version-2".into(), "version-2".into()), "{kind}");
    }
}

#[test]
fn attributes_and_rights_are_those_of_the_secret_whatever_version_is_open() {
    let daemon = daemon();
    let path = daemon.path("f");
    first(&path);
    let mut old = reader(OWNER, &path, Some("private"));
    sh(&format!("echo version-2 > {path}")).ok();
    let mut new = reader(OWNER, &path, Some("private"));
    let mut awaits = |mode: &str| {
        for reader in [&mut old, &mut new] {
            common::wait_for("the mode", std::time::Duration::from_secs(10), || {
                (reader.ask("mode") == mode).then_some(())
            });
        }
    };
    awaits("0o644");
    sh(&format!("chmod 600 {path}")).ok();
    awaits("0o600");
    assert_eq!(old.ask("chmod 640"), "ok", "through a handle of the first version");
    let mut awaits = |mode: &str| {
        for reader in [&mut old, &mut new] {
            common::wait_for("the mode", std::time::Duration::from_secs(10), || {
                (reader.ask("mode") == mode).then_some(())
            });
        }
    };
    awaits("0o640");
    assert_eq!(sh(&format!("stat -c %a {path}")).text(), "640\n");
    sh(&format!("chmod 600 {path} && chown root {path}")).ok();
    assert_eq!(old.ask("again"), "EACCES", "an old handle is no way past the new owner");
    let other = User::named(OTHER);
    other.sh(&format!("cat {path}")).refused("Permission denied");
}

#[test]
fn watchers_hear_of_versions_also_where_an_older_one_is_mapped() {
    let daemon = daemon();
    let path = daemon.path("f");
    first(&path);
    let mut watcher = program(ROOT);
    assert_eq!(watcher.ask(&format!("watch {path}")), "ok");
    let mut readers = Vec::new();
    let put = |content: &str| {
        let (binary, config) = (env!("CARGO_BIN_EXE_pinfold"), daemon.file("pinfold.toml"));
        sh(&format!("echo {content} | {binary} --config {} put f", config.display())).ok();
    };
    for n in 2..6 {
        readers.push(reader(OWNER, &path, Some("private")));
        assert_eq!(readers.last_mut().expect("it was pushed").ask("look"), format!("version-{}", n - 1));
        if n % 2 == 0 {
            put(&format!("version-{n}"));
        } else {
            sh(&format!("echo version-{n} > {path}")).ok();
        }
        assert_eq!(watcher.ask("heard"), "a change", "version {n}");
    }
}

#[test]
fn a_file_that_is_mounted_by_itself_follows_as_long_as_no_other_version_is_mapped() {
    let daemon = daemon();
    let (path, bound) = (daemon.path("f"), daemon.file("bound").display().to_string());
    first(&path);
    let script = format!(
        "touch {bound}; exec unshare -m bash -c 'mount --bind {path} {bound}; while read -r line; do eval \"$line\"; done'"
    );
    let mut inside = Held::start(ROOT, &script);
    sh(&format!("setfacl -m u:root:r {path}")).ok();
    let cat = format!("cat {bound} 2>&1 | sed 's/.*: //'");
    assert_eq!(inside.ask(&cat), "version-1");
    let mut open = reader(OWNER, &path, None);
    sh(&format!("echo version-2 > {path}")).ok();
    assert_eq!(inside.ask(&cat), "version-2", "another has the first version open");
    assert_eq!((open.ask("read"), open.ask("again")), ("version-1".into(), "version-2".into()));
    drop(open);
    sh(&format!("echo version-3 > {path}")).ok();
    assert_eq!(inside.ask(&cat), "version-3");
}

#[test]
fn who_opened_to_write_reads_nothing() {
    let daemon = daemon();
    let path = daemon.path("f");
    sh(&format!("echo version-1 > {path} && chown {OWNER} {path} && chmod 602 {path}")).ok();
    let mut writer = program(User::named(OTHER));
    assert_eq!(writer.ask(&format!("open {path} wo")), "ok");
    assert_eq!((writer.ask("read"), writer.ask("again")), ("EBADF".into(), "EACCES".into()));
    assert_eq!((writer.ask("map private"), writer.ask("map shared")), ("EACCES".into(), "EACCES".into()));
    assert_eq!(writer.ask("send"), "EBADF");
}

#[test]
fn a_handle_for_both_shows_nothing_that_came_after_its_right_was_taken() {
    let daemon = daemon();
    let path = daemon.path("f");
    sh(&format!("echo version-1 > {path} && chown {OWNER} {path} && chmod 606 {path}")).ok();
    let mut other = program(User::named(OTHER));
    assert_eq!((other.ask(&format!("open {path} rw")), other.ask("read")), ("ok".into(), "version-1".into()));
    sh(&format!("chmod 600 {path} && echo version-2 > {path}")).ok();
    assert_eq!((other.ask("read"), other.ask("send")), ("EACCES".into(), "EINVAL".into()));
    assert_eq!((other.ask("map private"), other.ask("map shared")), ("ENODEV".into(), "ENODEV".into()));
}
