//! What the package installs, under a real systemd: its units, its helpers, and that it goes without a trace.
//!
//! Owns one installation for each test, in the paths of the package itself. Removing it is part of what is tested.

use crate::common;

use common::package::{PATIENCE, Package, TREE, await_state, state};
use common::services::{DirectoryServer, LDAPS};
use common::{Out, User, daemon, sh, wait_for};
use std::path::Path;
use std::time::Duration;

/// As nobody: root has no exemption, and what a service reads is seldom root's.
fn read(path: &str) -> Out {
    sh(&format!("setpriv --reuid=2001 --regid=2001 --clear-groups cat {path}"))
}

/// Every path that could be the package's doing.
fn traces() -> String {
    sh("find / -xdev \\( -path /proc -o -path /sys -o -path /target -o -path /src -o -path /tmp -o -path /var/log/journal \\) -prune \
        -o -iname '*pinfold*' -print | sort; getent group pinfold; systemctl list-unit-files --no-legend 'pinfold*' || true")
    .quiet()
}

#[test]
fn what_is_installed_works_and_goes_without_a_trace() {
    let listed = sh(&format!("dpkg-deb -c {}", Package::file())).quiet();
    for wanted in [
        "./usr/bin/pinfold",
        "./usr/libexec/pinfold/pinfold-oci-hook",
        "./usr/share/containers/oci/hooks.d/pinfold-attach.json",
        "./usr/sbin/mount.pinfold",
        "./usr/share/man/man1/pinfold.1",
        "./usr/share/man/man5/pinfold.toml.5",
        "./usr/share/man/man8/pinfold-mount.8",
        "./usr/share/man/man8/mount.pinfold.8",
        "./usr/share/bash-completion/completions/pinfold",
        "./usr/share/zsh/vendor-completions/_pinfold",
        "./usr/share/fish/vendor_completions.d/pinfold.fish",
        "./usr/lib/sysusers.d/pinfold.conf",
        "./usr/lib/tmpfiles.d/pinfold.conf",
        "./etc/pinfold/pinfold.toml",
    ] {
        assert!(listed.contains(wanted), "{wanted} is not in the package:\n{listed}");
    }
    let before = traces();
    let package = Package::install();
    assert_eq!(state("pinfold"), "inactive", "nothing starts before there is a store");
    assert_eq!(
        sh("systemctl is-enabled pinfold pinfold-ready.target pinfold-credentials.socket").text().lines().count(),
        3
    );
    let verified = sh(
        "systemd-analyze verify --man=no pinfold.service pinfold-ready.target pinfold-credentials.socket pinfold-release.service",
    );
    assert_eq!(verified.quiet(), "");
    sh("pinfold check-config && bash -n /usr/share/bash-completion/completions/pinfold").ok();
    sh("stat -c %a:%G /run/pinfold /var/log/pinfold; getent group pinfold").ok();
    // Without a store it fails once, not two hundred times.
    sh("systemctl start pinfold").refused("");
    assert_eq!(sh("systemctl show -P NRestarts pinfold").quiet().trim(), "0");

    package.init();
    sh("systemctl reset-failed; systemctl start pinfold").ok();
    package.unlock();
    sh(&format!("echo 1234 > {TREE}/pin; chown 2001 {TREE}/pin")).ok();
    assert_eq!(read(&format!("{TREE}/pin")).quiet(), "1234\n");
    // What renews certificates looks at those of the tree, from within what confines its unit.
    sh("pinfold cert selfsign web --days 1").ok();
    assert_eq!(sh("systemd-analyze verify --man=no pinfold-renew.service pinfold-renew.timer").quiet(), "");
    sh("systemctl enable --now pinfold-renew.timer").ok();
    sh("systemctl start pinfold-renew.service").ok();
    assert_eq!(sh("systemctl show -P Result pinfold-renew.service").quiet().trim(), "success");
    let report = sh("systemd-analyze security --no-pager pinfold.service | tail -n 1").text();
    eprintln!("systemd-analyze security: {}", report.trim());

    // The threads that answer have six capabilities left, and no way to more.
    // One that served a connection may end while we look.
    let threads = sh("for t in /proc/$(systemctl show -P MainPID pinfold)/task/*; do \
        { comm=$(cat $t/comm) && status=$(sed -n 's/^CapEff:\\t//p; s/^NoNewPrivs:\\t//p' $t/status); } 2>/dev/null && \
        echo $comm $status; done; true");
    let threads = threads.quiet();
    let answering: Vec<&str> = threads.lines().filter(|t| t.starts_with("fuse") || t.starts_with("control")).collect();
    assert!(answering.len() >= 3, "{threads}");
    assert!(answering.iter().all(|t| t.contains("00000000002840c4") && t.contains(" 1")), "{threads}");

    // A new version of the package, under four readers: the tree does not go away.
    sh(&format!(
        "cd /tmp && rm -rf deb && dpkg-deb -R {} deb && sed -i 's/^Version: .*/Version: 99.0/' deb/DEBIAN/control && \
         dpkg-deb -Znone -b deb new.deb >/dev/null && rm -rf deb",
        Package::file()
    ))
    .ok();
    sh(&format!(
        "rm -rf /tmp/readers && mkdir -m 777 /tmp/readers && systemd-run -q --unit=readers --uid=2001 sh -c \
         'for i in 1 2 3 4; do \
            while [ ! -e /tmp/readers/stop ]; do cat {TREE}/pin 2>>/tmp/readers/failed >>/tmp/readers/read.$i; done & \
          done; wait'"
    ))
    .ok();
    let pid = sh("systemctl show -P MainPID pinfold").quiet();
    sh("dpkg -i /tmp/new.deb && rm /tmp/new.deb").ok();
    wait_for("the upgraded daemon", PATIENCE, || {
        let now = sh("systemctl show -P MainPID pinfold").quiet();
        (now != pid && now.trim() != "0").then_some(())
    });
    assert_eq!(read(&format!("{TREE}/pin")).quiet(), "1234\n", "unlocked still: nobody was asked");
    sh("touch /tmp/readers/stop").ok();
    await_state("readers", "inactive");
    assert_eq!(sh("cat /tmp/readers/failed; sort -u /tmp/readers/read.*").quiet(), "1234\n", "no read failed");
    let reads = sh("cat /tmp/readers/read.* | wc -l; rm -r /tmp/readers").quiet();
    assert!(reads.trim().parse::<u32>().is_ok_and(|n| n > 100), "only {reads} reads");

    sh("dpkg --remove pinfold").ok();
    assert_eq!(daemon::connection(Path::new(TREE)), None, "a removal unmounts");
    assert!(Path::new("/etc/pinfold/pinfold.toml").exists(), "a removal keeps the configuration");
    sh("dpkg --purge pinfold").ok();
    assert!(Path::new("/var/lib/pinfold/identity.age").exists(), "no store is removed without being asked");
    sh("rm -r /var/lib/pinfold /var/log/pinfold /root/passphrase /root/recovery.key").ok();
    assert_eq!(traces(), before);
    assert!(!Path::new(TREE).exists(), "nor is the closed folder left");

    // Asked, it does remove it.
    let again = Package::install();
    again.init();
    sh("PINFOLD_PURGE=store dpkg --purge pinfold && rm /root/passphrase /root/recovery.key").ok();
    assert_eq!(traces(), before);
    drop((package, again));
}

#[test]
fn a_service_starts_after_the_unlock_and_not_before() {
    let mut package = Package::install();
    package.init();
    sh("systemctl start pinfold").ok();
    // It would fail open: without its pin it runs on, as 389-DS does.
    package.unit(
        "opens.service",
        &format!(
            "[Unit]\nRequires=pinfold-ready.target\nAfter=pinfold-ready.target\n[Service]\n\
             ExecStart=/bin/sh -c 'cat {TREE}/pin >/run/opens.saw || echo open >/run/opens.saw; exec sleep infinity'\n"
        ),
    );
    let _ = std::fs::remove_file("/run/opens.saw");
    sh("systemctl start --no-block opens").ok();
    await_state("pinfold-ready.service", "activating");
    std::thread::sleep(Duration::from_secs(1)); // nothing is to happen, and nothing tells that it does not
    assert_eq!((state("opens"), state("pinfold-ready.target")), ("inactive".into(), "inactive".into()));
    package.unlock();
    sh(&format!("echo 1234 > {TREE}/pin")).ok();
    await_state("opens", "active");
    assert_eq!(state("pinfold-ready.target"), "active");
    let pid = || sh("systemctl show -P MainPID opens").quiet();
    let first = pid();

    // Neither a restart nor a kill of the daemon takes the target down, nor what requires it.
    let holder = sh("systemctl show -P MainPID pinfold-ready").quiet();
    for verb in ["restart", "kill --signal=KILL --kill-whom=main"] {
        let before = sh("systemctl show -P MainPID pinfold").quiet();
        sh(&format!("systemctl {verb} pinfold")).ok();
        wait_for("the next daemon", PATIENCE, || {
            let now = sh("systemctl show -P MainPID pinfold").quiet();
            (now != before && now.trim() != "0" && sh("pinfold status").code == 0).then_some(())
        });
        assert_eq!(state("pinfold-ready.target"), "active", "{verb}");
    }
    assert_eq!(sh("systemctl show -P MainPID pinfold-ready").quiet(), holder);

    // A lock takes the target down and leaves who runs alone; a start waits again.
    sh("pinfold lock").ok();
    await_state("pinfold-ready.target", "inactive");
    assert_eq!((state("opens").as_str(), pid()), ("active", first));
    sh("systemctl stop opens; systemctl start --no-block opens; sleep 1").ok();
    assert_eq!(state("opens"), "inactive");
    package.unlock();
    await_state("opens", "active");
    await_state("pinfold-ready.target", "active");
    let _ = std::fs::remove_file("/run/opens.saw");
}

#[test]
fn mount_mounts_it() {
    let package = Package::install();
    package.init();
    // The tree of the service.
    sh(&format!("mount -t pinfold pinfold {TREE}")).ok();
    assert!(daemon::connection(Path::new(TREE)).is_some());
    assert_eq!(state("pinfold"), "active");
    sh(&format!("mount -t pinfold pinfold {TREE}")).refused("already");
    sh("systemctl stop pinfold").ok();
    assert_eq!(daemon::connection(Path::new(TREE)), None);
    // By its line in fstab, as systemd does it.
    sh(&format!(
        "mkdir -p {TREE}; echo 'pinfold {TREE} pinfold nofail,x-systemd.requires-mounts-for=/var/lib/pinfold 0 0' >>/etc/fstab; systemctl daemon-reload"
    ))
    .ok();
    sh("systemctl start run-secrets.mount").ok();
    assert!(daemon::connection(Path::new(TREE)).is_some());
    sh("systemctl stop pinfold; sed -i /pinfold/d /etc/fstab; systemctl daemon-reload").ok();
    // Another tree, by another configuration: a daemon of its own.
    sh("mkdir -p /tmp/other/mnt && cd /tmp/other && printf '%s\\n' 'store = \"/tmp/other/store\"' 'mountpoint = \"/tmp/other/mnt\"' \
        'control = \"/tmp/other/control.sock\"' 'audit_log = \"/tmp/other/audit.log\"' >c.toml && \
        pinfold --config c.toml init --keyfile k --recovery-out r && \
        mount -t pinfold -o config=/tmp/other/c.toml,nosuid pinfold /tmp/other/mnt && \
        pinfold --config c.toml unlock --keyfile k")
    .ok();
    assert!(daemon::connection(Path::new("/tmp/other/mnt")).is_some());
    sh("echo 1 >/tmp/other/mnt/x && umount /tmp/other/mnt").ok();
    wait_for("the daemon to end with its mount", PATIENCE, || {
        (sh("pgrep -f 'pinfold --config /tmp/other/c.toml'").code != 0).then_some(())
    });
    sh("chattr -i /tmp/other/mnt; rm -r /tmp/other").ok();
    for (options, says) in [("ro", "read-write"), ("config=x", "absolute"), ("bogus", "unknown option")] {
        sh(&format!("mount -t pinfold -o {options} pinfold {TREE}")).refused(says);
    }
}

#[test]
fn a_389_directory_server_has_tls_after_one_answer_and_restarts_without_a_prompt() {
    let package = Package::install();
    package.init();
    DirectoryServer::secrets(Path::new("/run/plain/pin.txt"));
    // Enrolled by an admin, then as after a boot: locked, with nobody at a console.
    sh("systemctl start pinfold").ok();
    package.unlock();
    sh(&format!(
        "mkdir -m 711 {TREE}/dirsrv; install -o dirsrv -g dirsrv -m 400 /run/plain/pin.txt {TREE}/dirsrv/pin.txt; rm /run/plain/pin.txt"
    ))
    .ok();
    let server = DirectoryServer::configure(Path::new(TREE));
    let drop_in = "/run/systemd/system/dirsrv@lab.service.d";
    sh(&format!(
        "systemctl stop pinfold; mkdir -p {drop_in}; \
         printf '[Unit]\\nRequires=pinfold-ready.target\\nAfter=pinfold-ready.target\\n' >{drop_in}/pinfold.conf; systemctl daemon-reload"
    ))
    .ok();

    // It waits for the tree, and one answer to one question is enough.
    sh(&format!("systemctl start --no-block {}", server.unit.name())).ok();
    let questions = || sh("cat /run/systemd/ask-password/ask.* 2>/dev/null").text();
    let socket = wait_for("the question", PATIENCE, || {
        questions().lines().find_map(|line| line.strip_prefix("Socket=").map(str::to_owned))
    });
    assert!(questions().contains("Passphrase for the secrets in") && questions().matches("[Ask]").count() == 1);
    assert_eq!(state(server.unit.name()), "inactive", "it does not start without its pin");
    sh(&format!("printf horse | /lib/systemd/systemd-reply-password 1 {socket}")).ok();
    await_state(server.unit.name(), "active");
    let tls = |when: &str| {
        assert_eq!(server.bind(LDAPS).quiet(), "dn: cn=directory manager\n", "{when}");
        let shown =
            sh("openssl s_client -connect lab.example:3636 -CAfile /etc/dirsrv/slapd-lab/ca.crt </dev/null 2>&1")
                .text();
        assert!(shown.contains("Verify return code: 0"), "{when}: {shown}");
        assert_eq!(questions(), "", "{when}: nobody is asked");
    };
    tls("after the answer");

    for verb in ["restart", "kill --signal=KILL --kill-whom=main", "restart"] {
        let before = sh("systemctl show -P MainPID pinfold").quiet();
        sh(&format!("systemctl {verb} pinfold")).ok();
        wait_for("the next daemon", PATIENCE, || {
            let now = sh("systemctl show -P MainPID pinfold").quiet();
            (now != before && now.trim() != "0").then_some(())
        });
        tls(&format!("the running server, pinfold {verb}"));
        sh(&format!("systemctl restart {}", server.unit.name())).ok();
        tls(&format!("a restarted server, pinfold {verb}"));
    }
    let opens = sh("pinfold log -n 1000 --json").text();
    let theirs =
        |line: &&str| line.contains("dirsrv/pin.txt") && line.contains("ns-slapd") && line.contains("\"allowed\"");
    let dirsrv = format!("\"uid\":{}", User::named("dirsrv").uid);
    let opens = opens.lines().filter(theirs).filter(|line| line.replace(' ', "").contains(&dirsrv)).count();
    assert_eq!(opens, 4, "once for each start of the server");
    drop(server);
    sh(&format!("rm -r {drop_in}; systemctl daemon-reload")).ok();
}

const SOCKET: &str = "/run/pinfold/credentials.sock";

/// A unit that keeps what it was given.
fn taker(name: &str) -> String {
    format!(
        "[Service]\nType=oneshot\nLoadCredential=key:{SOCKET}\n\
         ExecStart=/bin/sh -c 'cat $CREDENTIALS_DIRECTORY/key >/run/{name}.saw'\n"
    )
}

/// Connects as systemd does, from an address of its choice, and says how much came and what it begins with.
fn forge(before: &str, address: &str) -> Out {
    let script = format!(
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind(b'\\x00' + b'{address}'); s.connect('{SOCKET}')\n\
         n, first = 0, b''\n\
         while True:\n    d = s.recv(65536)\n    if not d: break\n    first = first or d[:64]; n += len(d)\n\
         print(n, first.strip(b'\\0').decode())"
    );
    std::fs::write("/run/forge.py", script).expect("a script of ours");
    sh(&format!("{before} python3 /run/forge.py"))
}

#[test]
fn a_unit_gets_its_credential_and_no_other_does() {
    let mut package = Package::serving();
    sh(&format!(
        "mkdir -p {TREE}/credentials/taker.service {TREE}/credentials/other.service; \
         printf top-secret >{TREE}/credentials/taker.service/key; printf not-root >{TREE}/credentials/other.service/key; \
         chown 2001 {TREE}/credentials/other.service/key"
    ))
    .ok();
    for name in ["taker", "other", "third"] {
        package.unit(&format!("{name}.service"), &taker(name));
    }
    sh("systemctl start taker").ok();
    assert_eq!(sh("cat /run/taker.saw").quiet(), "top-secret");
    let log = || sh("pinfold log -n 50 --json").text();
    let lines = log();
    let line = lines.lines().find(|l| l.contains("credentials/taker.service/key") && l.contains("\"open\""));
    let line = line.unwrap_or_else(|| panic!("the open is in the log:\n{lines}"));
    assert!(line.contains("taker.service\"") && line.contains("allowed"), "{line}");

    // What is not root's to read, and what is not there: the unit fails, it does not start with nothing.
    for name in ["other", "third"] {
        sh(&format!("systemctl start {name}")).refused("");
        assert_eq!(sh(&format!("systemctl show -P ExecMainStatus {name}")).quiet().trim(), "243", "{name}");
        assert!(!Path::new(&format!("/run/{name}.saw")).exists(), "{name} ran");
    }

    // Anybody can bind to any address: from another cgroup, as root in another unit, in a pid or user namespace.
    let address = "1a2b3c4d5e6f7081/unit/taker.service/key";
    for before in [
        "",
        "systemd-run -q --pipe --wait --unit=liar.service",
        "unshare --pid --fork",
        "unshare --user --map-root-user",
    ] {
        let out = forge(before, address);
        assert!(!out.text().contains("top-secret"), "{before}: {}", out.text());
        let came: usize = out.ok().text().split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        assert!(came > 1 << 20, "{before}: a refusal is more than systemd takes, not {came} bytes");
    }
    let denied = wait_for("the refusals", PATIENCE, || {
        let lines = log();
        let denied = lines.lines().filter(|l| l.contains("denied") && l.contains("the peer")).count();
        (denied >= 2).then_some(lines)
    });
    assert!(denied.contains("it is in lab-job.service") && denied.contains("it is in liar.service"), "{denied}");
    forge("", "1/unit/../x");
    sh(&format!("stat -c %a:%U {SOCKET}")).ok();
    forge("setpriv --reuid=2001 --regid=2001 --clear-groups", address).refused("PermissionError");

    // Locked: it waits for the unlock, also over a restart of the daemon.
    sh("pinfold lock; rm /run/taker.saw; systemctl start --no-block taker").ok();
    await_state("taker", "activating");
    sh("systemctl kill --signal=KILL --kill-whom=main pinfold").ok();
    wait_for("the next daemon", PATIENCE, || (sh("pinfold status").code == 0).then_some(()));
    assert!(!Path::new("/run/taker.saw").exists());
    package.unlock();
    wait_for("the credential", PATIENCE, || (sh("cat /run/taker.saw").text() == "top-secret").then_some(()));
    let _ = sh("rm -f /run/taker.saw /run/forge.py");
}

#[test]
fn a_changed_secret_reloads_its_unit_and_wakes_watchers() {
    let mut package = Package::install();
    sh("sed -i 's/^#allow = .*/allow = [\"told.service\"]/' /etc/pinfold/pinfold.toml && pinfold check-config | grep told").ok();
    package.init();
    sh("systemctl start pinfold").ok();
    package.unlock();
    package.unit(
        "told.service",
        "[Service]\nExecStart=sleep infinity\nExecReload=/bin/sh -c 'echo reloaded >>/run/told.saw'\n",
    );
    package.unit(
        "spared.service",
        "[Service]\nExecStart=sleep infinity\nExecReload=/bin/sh -c 'echo x >>/run/spared.saw'\n",
    );
    sh("rm -f /run/told.saw /run/spared.saw; systemctl start told spared").ok();
    let reloads = || std::fs::read_to_string("/run/told.saw").map_or(0, |t| t.lines().count());
    sh(&format!(
        "cd {TREE}; echo 1 >pin; echo 1 >cert; echo 1 >other; setfattr -n user.pinfold.on-change -v reload:told.service pin cert; \
         setfattr -n user.pinfold.on-change -v reload:spared.service other"
    ))
    .ok();
    sh(&format!("setfattr -n user.pinfold.on-change -v stop:told.service {TREE}/pin")).refused("Invalid argument");
    sh(&format!("setfattr -n user.pinfold.on-change -v reload:told {TREE}/pin")).refused("Invalid argument");

    // Two together are one; so is a content that is written and taken back.
    sh(&format!("cd {TREE}; echo 2 >pin; echo 2 >cert; echo 2 >other")).ok();
    wait_for("the reload", PATIENCE, || (reloads() == 1).then_some(()));
    sh(&format!("cd {TREE}; echo 2 >pin; echo 3 >cert; echo 2 >cert; sleep 2")).ok();
    assert_eq!(reloads(), 1, "nothing has changed");
    // By a name renamed into place, as most tools write.
    sh(&format!("cd {TREE}; echo 4 >new; mv new pin")).ok();
    wait_for("the reload after a rename", PATIENCE, || (reloads() == 2).then_some(()));
    assert_eq!(
        sh(&format!("getfattr --only-values -n user.pinfold.on-change {TREE}/pin")).text(),
        "reload:told.service"
    );
    // And by what did not come through the mount, of which watchers hear too, on the tree and on a bind mount of it.
    sh(&format!("mkdir -p /tmp/bound && mount --bind {TREE} /tmp/bound")).ok();
    let watch = |path: &str, file: &str| {
        sh(&format!("touch {file}; inotifywait -q -t 30 -e close_write -o {file} -d {path}")).ok();
    };
    watch(&format!("{TREE}/pin"), "/tmp/watch1");
    watch("/tmp/bound/pin", "/tmp/watch2");
    wait_for("both to watch", PATIENCE, || {
        let set = sh("for p in $(pgrep -x inotifywait); do grep -hs '^inotify wd' /proc/$p/fdinfo/*; done").text();
        (set.lines().count() == 2).then_some(())
    });
    sh("pinfold rollback pin 1").ok();
    wait_for("the reload after a rollback", PATIENCE, || (reloads() == 3).then_some(()));
    for file in ["/tmp/watch1", "/tmp/watch2"] {
        wait_for("the watchers", PATIENCE, || {
            std::fs::read_to_string(file).is_ok_and(|t| t.contains("CLOSE_WRITE")).then_some(())
        });
    }
    let versions = sh("pinfold history pin --json").text();
    assert!(!versions.replace(' ', "").contains("\"number\":6"), "a poke writes nothing: {versions}");
    let _ = sh("pkill -x inotifywait; umount /tmp/bound; rm -rf /tmp/bound /tmp/watch1 /tmp/watch2");
    assert!(!Path::new("/run/spared.saw").exists(), "a unit that the configuration does not list is left alone");
    let _ = sh("rm -f /run/told.saw");
}
