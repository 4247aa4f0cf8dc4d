//! Keys that are published from views: they last between two opens, and keep what binds the view's sources all the same.

use crate::common::{Daemon, sh, unshared_uid, wait_for};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// The first publication there is.
fn published(daemon: &Daemon) -> Value {
    daemon.json(&["published", "--json"])[0].clone()
}

/// What a uid finds as `pinfold:both`.
fn found(uid: u32) -> Option<String> {
    let out = Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "keyctl", "session", "-"])
        .args(["sh", "-c", "k=$(keyctl search @u user pinfold:both) && keyctl pipe $k"])
        .output()
        .expect("setpriv and keyctl");
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

fn bind(daemon: &Daemon, what: &str, name: &str, value: &str) {
    sh(&format!("setfattr -n user.pinfold.{name} -v {value} {}", daemon.path(what))).quiet();
}

/// Two secrets of root's alone, and a view of both that is the uid's.
fn with_view(uid: u32) -> Daemon {
    let daemon = Daemon::keyed("");
    for name in ["one", "two"] {
        daemon.cli_with(&["put", name], name.as_bytes()).ok();
    }
    daemon.cli(&["view", "add", "--yes", "both", "concat", "one", "two", "-o", &uid.to_string(), "-m", "0400"]).ok();
    daemon
}

#[test]
fn a_key_published_from_a_view_ends_with_the_first_of_its_sources() {
    let uid = unshared_uid(501);
    let daemon = with_view(uid);
    daemon.cli(&["publish", "both", "--to", &uid.to_string()]).ok();
    assert_eq!(found(uid).as_deref(), Some("onetwo"));
    assert_eq!(published(&daemon)["expires"], Value::Null);
    let at = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(6)).to_string();
    bind(&daemon, "two", "expires", &at);
    // Its publication knows, and so does the kernel: nobody has to look at the right moment.
    let soon = Duration::from_secs(5);
    wait_for("the key's end", soon, || {
        let until = published(&daemon)["expires"].as_str()?.to_owned();
        (until[..19] == at[..19]).then_some(())
    });
    assert_eq!(found(uid).as_deref(), Some("onetwo"), "until then");
    wait_for("its end", Duration::from_secs(20), || found(uid).is_none().then_some(()));
    wait_for("that it is said", Duration::from_secs(20), || (published(&daemon)["state"] == "expired").then_some(()));
    daemon.cli(&["unpublish", "both"]).ok();
    assert_eq!(found(uid), None);
}

#[test]
fn what_is_bound_to_its_readers_goes_into_no_key_by_way_of_a_view() {
    for (n, (name, value)) in [("unit", "nginx.service"), ("exe", "/usr/bin/cat")].into_iter().enumerate() {
        let uid = unshared_uid(502 + n as u32);
        let daemon = with_view(uid);
        let publish = || daemon.cli(&["publish", "both", "--to", &uid.to_string()]);
        publish().ok();
        assert_eq!(found(uid).as_deref(), Some("onetwo"));
        bind(&daemon, "one", name, value);
        // It is taken back soon, not at the next look at everything.
        wait_for("its end", Duration::from_secs(20), || found(uid).is_none().then_some(()));
        wait_for("that it is said", Duration::from_secs(20), || {
            (published(&daemon)["state"] == "refused").then_some(())
        });
        let told = published(&daemon);
        assert!(
            told["state"] == "refused" && told["reason"].as_str().is_some_and(|r| r.contains("one has conditions")),
            "{told}"
        );
        daemon.cli(&["unpublish", "both"]).ok();
        publish().refused("one has conditions");
    }
}
