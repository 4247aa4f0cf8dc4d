//! Containers as podman makes them, with both runtimes: each reads its own secrets and nobody else's, sees its own ids,
//! and is cut off when its key goes. No stand-in: real hooks, real namespaces, real cgroups.

use crate::common;

use common::containers::{Container, Podman, RUNTIMES, Spec, can_make};
use common::{BOB, Daemon, Held, ROOT, User, attempt, sh, wait_for};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Two ranges of host ids.
const WEB_IDS: u32 = 100_000;
const DB_IDS: u32 = 200_000;
/// What is said of somebody who is in no container, or in another one.
const OUTSIDE: &str = "not inside an attached instance";

/// Two scopes with equal file names: of root inside, and of uid 999 inside.
#[track_caller]
fn two_scopes() -> Daemon {
    let daemon = Daemon::start();
    for scope in ["web", "db"] {
        daemon.cli(&["scope", "add", scope]).ok();
        put(&daemon, &format!("containers/{scope}/pin"), "0", &format!("the pin of {scope}"));
        put(&daemon, &format!("containers/{scope}/app"), "999", &format!("the app's of {scope}"));
    }
    daemon
}

#[track_caller]
fn put(daemon: &Daemon, path: &str, owner: &str, content: &str) {
    daemon.cli_with(&["put", path, "-o", owner, "-g", owner, "-m", "0600"], content.as_bytes()).ok();
}

#[track_caller]
fn instances(daemon: &Daemon) -> Vec<Value> {
    daemon.json(&["instances", "--json"]).as_array().expect("a list").clone()
}

#[track_caller]
fn instance(daemon: &Daemon, id: &str) -> Value {
    instances(daemon).into_iter().find(|i| i["id"] == id).unwrap_or_else(|| panic!("'{id}' is not attached"))
}

/// The last line that the log has.
#[track_caller]
fn now(daemon: &Daemon) -> u64 {
    daemon.audit().last().and_then(|event| event["seq"].as_u64()).expect("each line has a number")
}

/// The log has it after that line that somebody was refused this, for this reason.
#[track_caller]
fn await_refusal(daemon: &Daemon, since: u64, path: &str, reason: &str) -> Value {
    daemon.await_audit(&format!("refusal of {path} after line {since}: {reason}"), |event| {
        event["decision"] == "denied"
            && event["seq"].as_u64().is_some_and(|seq| seq > since)
            && event["path"] == path
            && event["reason"].as_str().is_some_and(|r| r.contains(reason))
    })
}

/// A shell that opened the pin, waits, reads what is left of it, and waits again.
#[track_caller]
fn reader(container: &Container<'_>) -> Held {
    let mut held = container.held(
        "exec 3</run/secrets/pin; dd bs=1 count=3 <&3 2>/dev/null; echo; read x; cat <&3 && echo; echo done; read x",
    );
    assert_eq!(held.line(), "the");
    held
}

#[test]
fn each_reads_its_own_and_not_the_others_whatever_their_user_namespaces() {
    let daemon = two_scopes();
    for runtime in RUNTIMES {
        let podman = Podman::new(&daemon, runtime);
        for (web_ids, db_ids) in
            [(None, None), (Some(WEB_IDS), None), (None, Some(DB_IDS)), (Some(WEB_IDS), Some(DB_IDS))]
        {
            if !can_make(runtime, web_ids) || !can_make(runtime, db_ids) {
                continue; // runc makes all four
            }
            let web = Spec::of(&daemon, "web", "web", web_ids).mount(&daemon, "db", "/other", "ro");
            let web = podman.start(&web);
            let db = podman.start(&Spec::of(&daemon, "db", "db", db_ids).mount(&daemon, "web", "/other", "ro"));
            for (container, own, other, ids) in [(&web, "web", "db", web_ids), (&db, "db", "web", db_ids)] {
                let what = format!("{runtime}, {own} of web {web_ids:?} and db {db_ids:?}");
                let known = instance(&daemon, &container.id);
                assert_eq!(known["scope"], own, "{what}");
                assert_eq!(known["pid"], container.pid, "{what}");
                assert_eq!(known["cgroup"], container.cgroup().as_str(), "{what}");
                assert_eq!(container.sh("cat /run/secrets/pin").ok().text(), format!("the pin of {own}"), "{what}");
                let uid = ids.unwrap_or(0);
                let seen = daemon.await_open(&format!("containers/{own}/pin"), uid);
                assert_eq!(seen["container"], container.id.as_str(), "{what}");
                // The other's, mounted by hand: same uid, same name.
                let before = now(&daemon);
                container.sh("cat /other/pin").refused("Permission denied");
                let reason = if web_ids == db_ids { OUTSIDE } else { "" };
                let event = await_refusal(&daemon, before, &format!("containers/{other}/pin"), reason);
                assert_eq!(event["container"], container.id.as_str(), "{what}");
                // Ids are as inside; root inside has no exemption.
                assert_eq!(
                    container.sh("stat -c '%u:%g' /run/secrets/pin /run/secrets/app").ok().text(),
                    "0:0\n999:999\n"
                );
                let app = container.sh_as(999, "cat /run/secrets/app").ok().text();
                assert_eq!(app, format!("the app's of {own}"), "{what}");
                container.sh("cat /run/secrets/app").refused("Permission denied");
                container.sh_as(999, "cat /run/secrets/pin").refused("Permission denied");
                // Nothing can be changed, by the mount and by the scope.
                container.sh("echo x >/run/secrets/pin").refused("Read-only file system");
            }
            // The host does not read them either, root or not.
            for (scope, ids) in [("web", web_ids), ("db", db_ids)] {
                let path = format!("containers/{scope}/pin");
                let cat = format!("cat {}", daemon.path(&path));
                // Where its ids are the host's, root owns it, and is not inside; elsewhere it is another's.
                let reason = if ids.is_none() { OUTSIDE } else { "not allowed: other" };
                let root = attempt(ROOT, &cat).refused("Permission denied");
                assert_eq!(root.out.text(), "");
                root.denied(&daemon, "open", &path, reason);
                // Others do not come so far: the folder above is root's.
                for user in [BOB, User { uid: WEB_IDS, gid: WEB_IDS, groups: &[] }] {
                    assert_eq!(attempt(user, &cat).refused("Permission denied").out.text(), "");
                }
                // Unless they may walk anywhere: the owner, outside.
                let owner = ids.unwrap_or(0);
                let walks = "--inh-caps +dac_read_search --ambient-caps +dac_read_search";
                let script = format!("setpriv --reuid={owner} --regid={owner} --clear-groups {walks} {cat}");
                let before = now(&daemon);
                sh(&script).refused("Permission denied");
                assert_eq!(await_refusal(&daemon, before, &path, OUTSIDE)["uid"], owner);
            }
            let (first, second) = (web.id.clone(), db.id.clone());
            web.remove();
            db.remove();
            assert!(!instances(&daemon).iter().any(|i| i["id"] == first.as_str() || i["id"] == second.as_str()));
        }
    }
}

#[test]
fn what_its_processes_do_keeps_them_in_it() {
    let daemon = two_scopes();
    let podman = Podman::new(&daemon, "runc");
    for ids in [None, Some(WEB_IDS)] {
        let web = podman.start(&Spec::of(&daemon, "web", "web", ids));
        // An open descriptor, through fork, exec and another uid.
        let out = web.sh("exec 3</run/secrets/pin; (dd bs=1 count=3 <&3 2>/dev/null); \
             su app -c 'exec dd bs=1 count=5 <&3 2>/dev/null'; exec cat <&3");
        assert_eq!(out.ok().text(), "the pin of web");
        // And opening anew, as a child, after exec, as another uid.
        assert_eq!(web.sh("(cat /run/secrets/pin); exec cat /run/secrets/pin").ok().text(), "the pin of web".repeat(2));
        assert_eq!(web.sh("su app -c 'cat /run/secrets/app'").ok().text(), "the app's of web");
        // Deeper: namespaces and a cgroup made from inside its own.
        if ids.is_some() {
            let deeper = web.sh("unshare -U -p -f -r sh -c 'cat /run/secrets/pin'");
            assert_eq!(deeper.ok().text(), "the pin of web");
        }
        let nested = format!("/sys/fs/cgroup{}/deeper", web.cgroup());
        sh(&format!("mkdir {nested}")).quiet();
        let inside =
            format!("sh -c 'echo 0 >{nested}/cgroup.procs && exec nsenter -t {} -a cat /run/secrets/pin'", web.pid);
        assert_eq!(sh(&inside).ok().text(), "the pin of web", "a nested cgroup is the container's");
        web.remove();
    }
}

#[test]
fn who_is_only_partly_in_it_is_denied() {
    let daemon = two_scopes();
    let podman = Podman::new(&daemon, "runc");
    for ids in [None, Some(WEB_IDS)] {
        let web = podman.start(&Spec::of(&daemon, "web", "web", ids));
        let path = "containers/web/pin";
        // All its namespaces, from a cgroup of the host.
        let before = now(&daemon);
        let out = sh(&format!("exec nsenter -t {} -a cat /run/secrets/pin", web.pid)).refused("Permission denied");
        assert_eq!(out.text(), "");
        await_refusal(&daemon, before, path, "not in its cgroup");
        sh(&format!("exec nsenter -t {} -m cat /run/secrets/pin", web.pid)).refused("Permission denied");
        // Through a door that root may always use.
        sh(&format!("cat /proc/{}/root/run/secrets/pin", web.pid)).refused("Permission denied");
        // Its cgroup, from the namespaces of the host.
        let procs = format!("/sys/fs/cgroup{}/cgroup.procs", web.cgroup());
        // As the owner, and past the folder above, so that nothing else stands in his way.
        let owner = ids.unwrap_or(0);
        let walks = "--inh-caps +dac_read_search --ambient-caps +dac_read_search";
        let as_owner = format!("setpriv --reuid={owner} --regid={owner} --clear-groups {walks}");
        let moved = format!("echo 0 >{procs} && exec {as_owner} cat {}", daemon.path(path));
        let before = now(&daemon);
        sh(&moved).refused("Permission denied");
        await_refusal(&daemon, before, path, "it is in the cgroup of the instance");
        // Its cgroup and its pid namespace, not its user namespace.
        if let Some(uid) = ids {
            let enter = format!("exec nsenter -t {} -p -m -S {uid} -G {uid}", web.pid);
            let half = format!("echo 0 >{procs} && {enter} cat /run/secrets/pin");
            let before = now(&daemon);
            sh(&half).refused("Permission denied");
            await_refusal(&daemon, before, path, "not in its user namespace");
        }
        // Not attached at all, with the subtree mounted by hand.
        let stranger = podman.start(&Spec::unattached(&daemon, "stranger", "web", ids));
        stranger.sh("cat /run/secrets/pin").refused("Permission denied");
        assert_eq!(web.sh("cat /run/secrets/pin").ok().text(), "the pin of web", "and it goes on itself");
        // The attached one's namespaces, joined by one that is not attached.
        stranger.remove();
        let joined = if ids.is_none() {
            Spec::unattached(&daemon, "stranger", "web", None).with(&["--pid=container:web"])
        } else {
            // /proc of a pid namespace can be mounted in its own user namespace only.
            Spec::unattached(&daemon, "stranger", "web", None).with(&["--pid=container:web", "--userns=container:web"])
        };
        let joined = podman.start(&joined);
        let before = now(&daemon);
        joined.sh("cat /run/secrets/pin").refused("Permission denied");
        await_refusal(&daemon, before, path, "it is in the pid namespace");
        joined.remove();
        web.remove();
    }
}

#[test]
fn a_failure_to_attach_is_the_failure_to_start() {
    let mut daemon = two_scopes();
    for runtime in RUNTIMES {
        let podman = Podman::new(&daemon, runtime);
        let refused = |spec: &Spec, why: &str| {
            let out = podman.try_run(spec, "echo ran >/tmp/ran; sleep 100000");
            assert_ne!(out.code, 0, "{runtime}: it started without its secrets ({why})");
            // runc quotes its hooks; crun throws away what they say, so they say it in the system's log, too.
            assert!(runtime == "crun" || out.stderr.contains(why), "{runtime}: {why} is not in: {}", out.stderr);
            let logged = || sh("journalctl --no-pager -o cat -t pinfold-oci-hook").text().contains(why).then_some(());
            wait_for(&format!("{why} in the journal"), Duration::from_secs(10), logged);
            let ran = sh(&format!("ls {}", podman_root(&podman, spec.name, "tmp"))).ok().text();
            assert_eq!(ran, "", "{runtime}: its program ran");
            podman.remove(spec.name);
        };
        let undeclared = Spec { scope: Some("nowhere"), ..Spec::of(&daemon, "lost", "web", Some(WEB_IDS)) };
        refused(&undeclared, "nowhere");
        if can_make(runtime, None) {
            let bare = Spec::of(&daemon, "bare", "web", None).with(&["--pid=host"]);
            refused(&bare, "host's own pid and user namespaces");
        }
        daemon.lock();
        refused(
            &Spec { mounts: Vec::new(), ..Spec::of(&daemon, "early", "web", Some(WEB_IDS)) },
            "the store is locked",
        );
        daemon.unlock();
        assert!(instances(&daemon).is_empty());
    }
    daemon.stop();
    let podman = Podman::new(&daemon, "runc");
    let spec = Spec { mounts: Vec::new(), ..Spec::of(&daemon, "alone", "web", None) };
    podman.try_run(&spec, "sleep 100000").refused("no daemon answers");
    podman.remove("alone");
    daemon.serve();
}

/// A folder of a container's root, as the lab sees it.
fn podman_root(podman: &Podman, name: &str, folder: &str) -> String {
    podman.root_of(name).join(folder).display().to_string()
}

#[test]
fn ids_are_as_inside_also_when_the_mapping_changes_from_start_to_start() {
    let daemon = two_scopes();
    let podman = Podman::new(&daemon, "runc");
    for ids in [Some(WEB_IDS), Some(300_000), None, Some(WEB_IDS)] {
        let web = podman.start(&Spec::of(&daemon, "web", "web", ids));
        let seen = web.sh("stat -c '%u:%g %n' /run/secrets/pin /run/secrets/app && cat /run/secrets/pin").ok().text();
        assert_eq!(seen, "0:0 /run/secrets/pin\n999:999 /run/secrets/app\nthe pin of web", "{ids:?}");
        assert_eq!(web.sh_as(999, "cat /run/secrets/app").ok().text(), "the app's of web", "{ids:?}");
        // The host sees what they mean there.
        let first = ids.unwrap_or(0);
        let host = sh(&format!("stat -c %u {}", daemon.path("containers/web/app"))).ok().text();
        assert_eq!(host.trim(), (first + 999).to_string(), "{ids:?}");
        // A second one counts the same, or is refused.
        let second = podman.start(&Spec::of(&daemon, "second", "web", ids));
        assert_eq!(second.sh("cat /run/secrets/pin").ok().text(), "the pin of web");
        second.remove();
        let other = if ids == Some(DB_IDS) { None } else { Some(DB_IDS) };
        let out = podman.try_run(&Spec::of(&daemon, "third", "web", other), "sleep 100000");
        assert_ne!(out.code, 0, "two instances of one scope count differently");
        assert!(out.stderr.contains("map"), "{}", out.stderr);
        podman.remove("third");
        web.remove();
    }
}

#[test]
fn what_ends_a_key_ends_the_reading_and_nothing_else() {
    let daemon = two_scopes();
    let podman = Podman::new(&daemon, "runc");
    let says = "Key has been revoked";
    for what in ["revoke", "detach"] {
        let web = podman.start(&Spec::of(&daemon, "web", "web", Some(WEB_IDS)));
        let twin = podman.start(&Spec::of(&daemon, "twin", "web", Some(WEB_IDS)));
        let (mut cut, mut on) = (reader(&web), reader(&twin));
        if what == "revoke" {
            let serial = instance(&daemon, &web.id)["key_serial"].as_i64().expect("it has a key");
            sh(&format!("keyctl revoke {serial}")).quiet();
        } else {
            daemon.cli(&["detach", &web.id]).ok();
        }
        cut.go_on();
        let said = cut.line();
        assert!(said.contains(says), "{what}: {said}");
        assert_eq!(cut.line(), "done", "{what}: the reader itself goes on");
        web.sh("cat /run/secrets/pin").refused(says);
        assert_eq!(web.sh("echo fine >/tmp/own && cat /tmp/own").ok().text(), "fine\n", "{what}: its other files");
        on.go_on();
        assert_eq!(on.line(), " pin of web", "{what}: another instance of the scope goes on");
        assert_eq!(twin.sh("cat /run/secrets/pin").ok().text(), "the pin of web");
        drop((cut, on));
        twin.remove();
        web.remove();
    }
    // Its time is over.
    let web = podman.start(&Spec::unattached(&daemon, "web", "web", Some(WEB_IDS)));
    daemon.cli(&["attach", "web", "--pid", &web.pid.to_string(), "--id", "timed", "--timeout", "3s"]).ok();
    let mut cut = reader(&web);
    let mut last = String::new();
    wait_for("the end of its time", Duration::from_secs(15), || {
        last = web.sh("cat /run/secrets/pin").stderr;
        last.contains("Key has expired").then_some(())
    });
    cut.go_on();
    let said = cut.line();
    assert!(said.contains("Key has expired"), "{said}");
    assert_eq!(web.sh("echo fine").ok().text(), "fine\n");
}

#[test]
fn a_key_with_the_containers_id_is_in_its_users_keyring() {
    let daemon = two_scopes();
    // A number that is nobody else's group.
    put(&daemon, "containers/web/own", "4321", "their own");
    let publish = ["publish", "containers/web/own", "--to", "4321", "--container", "web", "--as", "389ds"];
    daemon.cli(&[&publish[..], &["--instance", "lab"]].concat()).ok();
    let podman = Podman::new(&daemon, "runc");
    for ids in [None, Some(WEB_IDS)] {
        let web = podman.start(&Spec::of(&daemon, "web", "web", ids));
        let search = format!("keyctl search @u user \"Internal (Software) Token:lab:{}:password\"", web.id);
        // As that uid, in the user namespace that the container has: a busybox has no keyctl.
        let inside = |uid: u32, script: &str| match ids {
            None => sh(&format!("exec setpriv --reuid={uid} --regid={uid} --clear-groups sh -c '{script}'")),
            Some(_) => sh(&format!("exec nsenter -t {} -U -S {uid} -G {uid} sh -c '{script}'", web.pid)),
        };
        let pipe = format!("keyctl pipe $({search})");
        assert_eq!(inside(4321, &pipe).ok().text(), "their own", "{ids:?}");
        assert_ne!(inside(4322, &search).code, 0, "{ids:?}: another uid");
        if ids.is_some() {
            let host = sh(&format!("setpriv --reuid=4321 --regid=4321 --clear-groups sh -c '{search}'"));
            assert_ne!(host.code, 0, "the host's uid of that number");
        }
        daemon.cli(&["detach", &web.id]).ok();
        wait_for("the key to go", Duration::from_secs(5), || (inside(4321, &search).code != 0).then_some(()));
        web.remove();
    }
}

#[test]
fn an_instance_whose_init_has_gone_is_detached_within_a_second() {
    let daemon = two_scopes();
    let podman = Podman::new(&daemon, "crun");
    // Attached by hand: no poststop hook says so.
    let web = podman.start(&Spec::unattached(&daemon, "web", "web", Some(WEB_IDS)));
    daemon.cli(&["attach", "web", "--pid", &web.pid.to_string(), "--id", "by-hand"]).ok();
    let serial = instance(&daemon, "by-hand")["key_serial"].as_i64().expect("it has a key");
    assert_eq!(web.sh("cat /run/secrets/pin").ok().text(), "the pin of web");
    let began = Instant::now();
    sh(&format!("kill -KILL {}", web.pid)).quiet();
    wait_for("its end", Duration::from_secs(1), || {
        (!std::path::Path::new(&format!("/proc/{}", web.pid)).exists()).then_some(())
    });
    while instances(&daemon).iter().any(|i| i["id"] == "by-hand") {
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", instances(&daemon));
    }
    let keys = std::fs::read_to_string("/proc/keys").expect("they are listed");
    let key = format!("{serial:08x} ");
    let left = keys.lines().find(|line| line.starts_with(&key) && !line[9..16].contains(['R', 'D', 'i']));
    assert_eq!(left, None, "its key is alive");
}

#[test]
fn the_others_key_is_out_of_reach() {
    let daemon = two_scopes();
    for runtime in RUNTIMES {
        let podman = Podman::new(&daemon, runtime);
        let victim = podman.start(&Spec::of(&daemon, "victim", "db", Some(DB_IDS)));
        let known = instance(&daemon, &victim.id);
        let serial = known["key_serial"].as_i64().expect("it has a key");
        let description = format!("pinfold:db:{}", victim.id);
        let session = sh("keyctl describe @s").text();
        // With podman's filter and without it, with the same uid as the daemon and with another.
        for ids in [None, Some(WEB_IDS)] {
            if !can_make(runtime, ids) {
                continue;
            }
            for options in [&["--security-opt", "seccomp=unconfined"][..], &[]] {
                let thief = podman.start(&Spec::of(&daemon, "thief", "web", ids).with(options));
                for (what, script) in [
                    ("by serial", format!("keyctl print {serial}")),
                    ("by serial, raw", format!("keyctl pipe {serial}")),
                    ("into a ring of one's own", format!("keyctl link {serial} @p && keyctl print {serial}")),
                    (
                        "by making oneself a reader",
                        format!("keyctl setperm {serial} 0x3f3f3f3f && keyctl print {serial}"),
                    ),
                    ("by owning it", format!("keyctl chown {serial} 0 && keyctl print {serial}")),
                    ("in @u", format!("keyctl search @u user {description}")),
                    ("in @us", format!("keyctl search @us user {description}")),
                    ("in @s", format!("keyctl search @s user {description}")),
                    ("by the session's name", format!("keyctl session _ses keyctl search @s user {description}")),
                    ("by our name", format!("keyctl session pinfold keyctl search @s user {description}")),
                ] {
                    let out = thief.sh(&script);
                    assert_ne!(out.code, 0, "{runtime} {ids:?} {options:?} {what}: {}", out.text());
                    assert!(!out.text().contains("the pin"), "{what}");
                }
                thief.remove();
            }
        }
        assert_eq!(victim.sh("cat /run/secrets/pin").ok().text(), "the pin of db", "nobody has spoilt it ({session})");
        victim.remove();
    }
}

#[test]
fn inside_only_what_write_allows_can_be_changed() {
    let daemon = two_scopes();
    daemon.cli(&["scope", "add", "writer", "--write"]).ok();
    put(&daemon, "containers/writer/pin", "0", "the pin of writer");
    let podman = Podman::new(&daemon, "runc");
    for ids in [None, Some(WEB_IDS)] {
        // Mounted rw by hand: what refuses is pinfold.
        let web = podman.start(&Spec::of(&daemon, "web", "web", ids).mount(&daemon, "web", "/run/secrets", "rw"));
        for change in [
            "echo x >pin",
            "echo x >new",
            "mkdir new",
            "ln -s pin new",
            "mv pin moved",
            "rm -f pin",
            "chmod 644 pin",
            "chown 999 pin",
            "touch pin",
            "mknod new p",
        ] {
            let out = web.sh(&format!("cd /run/secrets && {change}"));
            assert_ne!(out.code, 0, "{ids:?} {change}");
        }
        assert_eq!(web.sh("ls /run/secrets; cat /run/secrets/pin").ok().text(), "app\npin\nthe pin of web");
        web.remove();

        let spec = Spec::of(&daemon, "writer", "writer", ids)
            .mount(&daemon, "writer", "/run/secrets", "rw")
            .mount(&daemon, "web", "/other", "rw");
        let writer = podman.start(&spec);
        writer.sh("cd /run/secrets && umask 077 && echo new >own && mkdir d && mv own d/own && ln -s d/own link").ok();
        assert_eq!(
            writer.sh("cd /run/secrets && cat link d/own && stat -c %u:%a d/own").ok().text(),
            "new\nnew\n0:600\n"
        );
        writer.sh("cd /run/secrets && chown 999:999 d/own && chmod 755 d").ok();
        assert_eq!(writer.sh_as(999, "cat /run/secrets/link").ok().text(), "new\n");
        // Symlinks stay inside; so does everything else.
        for escape in ["ln -s /etc/shadow l", "ln -s ../db/pin l", "ln -s d/../../db/pin l", "ln -s .. l"] {
            writer.sh(&format!("cd /run/secrets && {escape}")).refused("Operation not permitted");
        }
        for foreign in ["echo x >/other/pin", "echo x >/other/new", "rm -f /other/pin", "ln /run/secrets/pin /other/x"]
        {
            let out = writer.sh(foreign);
            assert_ne!(out.code, 0, "{ids:?} {foreign}");
        }
        writer.sh("cd /run/secrets && rm -r d link").ok();
        writer.remove();
    }
    assert_eq!(sh(&format!("ls {}", daemon.path("containers/web"))).ok().text(), "app\npin\n");
}

#[test]
fn over_a_restart_of_the_daemon_it_stays_attached() {
    let mut daemon = two_scopes();
    let podman = Podman::new(&daemon, "runc");
    let web = podman.start(&Spec::of(&daemon, "web", "web", None));
    let gone = podman.start(&Spec::of(&daemon, "gone", "web", None));
    let (id, lost) = (web.id.clone(), gone.id.clone());
    daemon.stop();
    gone.remove();
    daemon.serve();
    assert_eq!(instance(&daemon, &id)["state"], "alive");
    assert!(!instances(&daemon).iter().any(|i| i["id"] == lost.as_str()), "it has gone meanwhile");
    // What it had mounted went with the old daemon: one of its processes, with the host's mounts.
    let procs = format!("/sys/fs/cgroup{}/cgroup.procs", web.cgroup());
    let path = daemon.path("containers/web/pin");
    let inside = sh(&format!("echo 0 >{procs} && exec nsenter -t {} -p cat {path}", web.pid));
    assert_eq!(inside.ok().text(), "the pin of web");
}

#[test]
fn without_a_runtime_as_the_documents_show_it() {
    let daemon = two_scopes();
    let tree = daemon.path("containers/web");
    for (kind, inside) in [
        ("--user --map-root-user --pid --fork --mount-proc --mount", true),
        ("--pid --fork --mount-proc --mount", true),
        ("--user --map-root-user --mount", false),
    ] {
        let program =
            format!("mount --bind {tree} /mnt && echo up; read x; cat /mnt/pin && echo; read x; cat /mnt/pin");
        let mut plain = Held::start(ROOT, &format!("exec unshare {kind} sh -c '{program}'"));
        assert_eq!(plain.line(), "up", "{kind}");
        let mut pid = plain.pid().to_string();
        if inside {
            pid = sh(&format!("pgrep -P {pid}")).quiet().trim().to_owned();
        }
        daemon.cli(&["attach", "web", "--id", "trial", "--pid", &pid]).ok();
        plain.go_on();
        assert_eq!(plain.line(), "the pin of web", "{kind}");
        assert_eq!(instance(&daemon, "trial")["cgroup"], Value::Null, "{kind}: it shares ours");
        daemon.cli(&["detach", "trial"]).ok();
        plain.go_on();
        assert!(plain.line().contains("Key has been revoked"), "{kind}");
        let (code, _) = plain.end();
        assert_eq!(code, 1, "{kind}");
    }
    // Nothing but a mount namespace, or somebody else's user namespace.
    for (user, kind, why) in
        [(ROOT, "--mount", "host's own"), (BOB, "--user --map-root-user", "uid 2002 made its user namespace")]
    {
        let mut refused = Held::start(user, &format!("exec unshare {kind} sh -c 'echo up; read x'"));
        assert_eq!(refused.line(), "up");
        let pid = refused.pid().to_string();
        daemon.cli(&["attach", "web", "--pid", &pid]).refused(why);
    }
}
