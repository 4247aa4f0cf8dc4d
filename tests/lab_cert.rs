//! Certificates through the mount: a copy that does not match is refused where tools see it, and a service that runs gets a
//! renewed pair.

use crate::common;

use common::services::Nginx;
use common::{ALICE, Daemon, Setup, sh, wait_for};
use std::path::Path;
use std::time::Duration;

/// Two pairs and an authority, in a folder outside.
fn pairs(into: &Path) {
    sh(&format!(
        "set -e; rm -rf {0}; mkdir -p {0}; cd {0}
         for n in a b; do
             openssl req -x509 -newkey ed25519 -nodes -days 30 -subj /CN=$n -keyout $n.key -out $n.crt 2>/dev/null
         done
         openssl req -x509 -newkey ed25519 -nodes -days 90 -subj /CN=Lab -keyout ca.key -out ca.crt 2>/dev/null",
        into.display()
    ))
    .ok();
}

fn with_rules(lines: &str) -> Daemon {
    Daemon::configured(&format!(
        "allow_reveal = true\n[certs]\npair = [\"tls/*/cert.pem\", \"tls/*/key.pem\"]\n{lines}"
    ))
}

#[test]
fn the_second_of_a_pair_is_refused_to_every_tool_if_it_does_not_match() {
    let daemon = with_rules("");
    let from = Path::new("/run/plain/pairs");
    pairs(from);
    let (from, tls) = (from.display(), daemon.path("tls"));
    let last_error = || sh(&format!("cat {}", daemon.path(".pinfold/last-error"))).quiet();
    sh(&format!("mkdir -p {tls}/x && cp {from}/a.crt {tls}/x/cert.pem")).quiet();
    let einval = "Invalid argument";
    for (tool, says) in [
        (format!("cp {from}/b.key {tls}/x/key.pem"), einval),
        (format!("install -m 600 {from}/b.key {tls}/x/key.pem"), einval),
        // What mv makes of EINVAL.
        (format!("cp {from}/b.key {tls}/x/.new && mv {tls}/x/.new {tls}/x/key.pem"), "subdirectory of itself"),
        (format!("dd if={from}/b.key of={tls}/x/key.pem status=none"), einval),
    ] {
        sh(&tool).refused(says);
        assert!(
            last_error().contains("the key is not that of the certificate in tls/x/cert.pem"),
            "{tool}: {}",
            last_error()
        );
        assert_eq!(daemon.versions("tls/x/cert.pem"), [1]);
    }
    sh(&format!("rm -f {tls}/x/.new; cp {from}/a.key {tls}/x/key.pem")).quiet();
    // Too wide, by chmod, by an ACL, by install.
    for wide in ["chmod 644", "chmod g+w", "setfacl -m g:nogroup:rw"] {
        sh(&format!("{wide} {tls}/x/key.pem")).refused("Invalid argument");
    }
    assert!(last_error().contains("too wide for a private key"), "{}", last_error());
    sh(&format!("chmod 640 {tls}/x/key.pem && chgrp www-data {tls}/x/key.pem")).quiet();
    sh(&format!("setfacl -m u:{}:r {tls}/x/key.pem", ALICE.uid)).quiet();
    // A renewal by two copies, in either order, and in place.
    for (first, second) in [("key", "crt"), ("crt", "key")] {
        let which = if first == "key" { "b" } else { "a" };
        let at = |ext: &str| if ext == "key" { format!("{tls}/x/key.pem") } else { format!("{tls}/x/cert.pem") };
        sh(&format!("cat {from}/{which}.{first} > {}", at(first))).quiet();
        sh(&format!("cat {from}/{which}.{second} > {}", at(second))).quiet();
    }
    let refused = daemon.await_audit("the refused commit", |event| {
        event["op"] == "commit" && event["decision"] == "denied" && event["path"] == "tls/x/key.pem"
    });
    assert!(refused["reason"].as_str().unwrap_or_default().contains("not that of the certificate"), "{refused}");
}

#[test]
fn nginx_gets_a_renewed_pair_while_it_runs() {
    let shipped = "/usr/local/libexec/lab-ca";
    let daemon = Daemon::with(Setup {
        mountpoint: Some("/run/secrets".into()),
        config: format!("[certs]\nsubmit = \"exec:{shipped}\"\n[on_change]\nallow = [\"nginx.service\"]\n"),
        ..Setup::default()
    });
    let from = Path::new("/run/plain/renewed");
    pairs(from);
    let dir = from.display();
    sh(&format!(
        "set -e; mkdir -p /usr/local/libexec; cp /src/mount-helpers/renew.d/local-ca {shipped}.real
         printf '#!/bin/sh\\nexec {shipped}.real --dir={dir} --days=50 \"$@\"\\n' > {shipped}; chmod 755 {shipped} {shipped}.real"
    ))
    .ok();
    let request = daemon.cli(&["cert", "request", "lab.example"]).quiet();
    let answer = sh(&format!("{shipped} <<'CSR'\n{request}CSR")).ok().text();
    std::fs::write(from.join("first.crt"), answer).expect("a file outside");
    daemon.cli(&["cert", "accept", &format!("{dir}/first.crt")]).ok();
    Nginx::secrets(&from.join("n"));
    let tree = daemon.root().display().to_string();
    sh(&format!(
        "set -e; mkdir -m 711 {tree}/nginx; install -o root -g www-data -m 440 {dir}/n/htpasswd {tree}/nginx/htpasswd
         ln -s ../certs/lab.example/key.pem {tree}/nginx/site.key; ln -s ../certs/lab.example/cert.pem {tree}/nginx/site.pem
         setfattr -n user.pinfold.on-change -v reload:nginx.service {tree}/certs/lab.example/cert.pem"
    ))
    .quiet();
    let nginx = Nginx::configure(daemon.root());
    nginx.unit.start().quiet();
    let get = || nginx.get(&from.join("ca.crt"), "alice:wonderland");
    assert_eq!(get(), (200, "behind the door".into()));
    let served = || {
        let asked = "openssl s_client -connect 127.0.0.1:8443 -servername lab.example </dev/null 2>/dev/null";
        sh(&format!("{asked} | openssl x509 -noout -fingerprint -sha256")).ok().text()
    };
    let stored =
        || sh(&format!("openssl x509 -in {tree}/certs/lab.example/cert.pem -noout -fingerprint -sha256")).ok().text();
    for round in 0..5 {
        // A worker of before its last reload may answer once more while it ends.
        let before = stored();
        wait_for("nginx with this certificate", Duration::from_secs(30), || (served() == before).then_some(()));
        daemon.cli(&["renew", "--force"]).ok();
        assert_ne!(stored(), before, "round {round}");
        wait_for("nginx with the new certificate", Duration::from_secs(30), || {
            // Whatever it serves, key and certificate are one generation: TLS would fail otherwise.
            assert_eq!(get(), (200, "behind the door".into()));
            (served() == stored()).then_some(())
        });
    }
    assert_eq!(
        daemon.versions("certs/lab.example/key.pem").last(),
        daemon.versions("certs/lab.example/cert.pem").last()
    );
    let status = daemon.json(&["status", "--json"]);
    assert_eq!(status["certificates"]["failing"], 0, "{status}");
}
