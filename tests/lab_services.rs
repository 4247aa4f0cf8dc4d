//! Real services that know nothing of pinfold read their secrets through the mount, and fail where they are denied.
//!
//! Each first serves from plain files: what fails there is the lab's fault, not the tree's.

use crate::common;

use common::services::{DirectoryServer, LDAP, LDAPS, Nginx, Sshd};
use common::{ALICE, Daemon, ROOT, Setup, User, WWW_DATA, in_the_lab, sh};
use std::path::Path;

/// A daemon on the real place, so that sshd's StrictModes finds only folders of root on the way.
fn on_run_secrets() -> Daemon {
    Daemon::with(Setup { mountpoint: Some("/run/secrets".into()), ..Setup::default() })
}

/// An empty folder beneath one that only root can write.
fn fresh(name: &str) -> std::path::PathBuf {
    let path = Path::new("/run/plain").join(name);
    sh(&format!("rm -rf {0} && mkdir -p {0} && chmod 755 {0}", path.display())).ok();
    path
}

// --- nginx ----------------------------------------------------------------------------------------------------------

fn enrol_nginx(from: &Path, tree: &Path) {
    let (from, tree) = (from.display(), tree.display());
    sh(&format!(
        "set -e; mkdir -m 711 {tree}/nginx; cd {from}
         install -o root -g root -m 600 site.key {tree}/nginx/site.key
         install -o root -g root -m 644 site.pem {tree}/nginx/site.pem
         install -o root -g www-data -m 440 htpasswd {tree}/nginx/htpasswd"
    ))
    .quiet();
}

fn nginx_serves(nginx: &Nginx, from: &Path) {
    nginx.unit.start().quiet();
    assert_eq!(nginx.get(&from.join("site.pem"), "alice:wonderland"), (200, "behind the door".into()));
    assert_eq!(nginx.get(&from.join("site.pem"), "alice:wrong").0, 401);
}

#[test]
fn the_lab_itself_runs_nginx_from_plain_files() {
    in_the_lab();
    let (from, tree) = (fresh("nginx-source"), fresh("nginx-tree"));
    Nginx::secrets(&from);
    enrol_nginx(&from, &tree);
    nginx_serves(&Nginx::configure(&tree), &from);
}

#[test]
fn nginx_reads_its_key_as_root_and_htpasswd_as_www_data() {
    let daemon = on_run_secrets();
    let from = fresh("nginx-source");
    Nginx::secrets(&from);
    enrol_nginx(&from, daemon.root());
    let nginx = Nginx::configure(daemon.root());
    nginx_serves(&nginx, &from);
    let key = daemon.await_open("nginx/site.key", ROOT.uid);
    assert_eq!((&key["unit"], &key["exe"]), (&nginx.unit.name().into(), &"/usr/sbin/nginx".into()), "{key}");
    let htpasswd = daemon.await_open("nginx/htpasswd", WWW_DATA.uid);
    assert_eq!(htpasswd["exe"], "/usr/sbin/nginx", "{htpasswd}");

    // Denied at request time: the password file is taken from www-data, nginx runs on and refuses.
    sh(&format!("chgrp alice {}", daemon.path("nginx/htpasswd"))).quiet();
    let (status, _) = nginx.get(&from.join("site.pem"), "alice:wonderland");
    assert!(matches!(status, 403 | 500), "without its password file nginx answered {status}");
    daemon.await_denial("nginx/htpasswd", WWW_DATA.uid);

    // Denied at start: the key belongs to somebody else now, and root has no exemption.
    sh(&format!("chown bob {}", daemon.path("nginx/site.key"))).quiet();
    nginx.unit.restart().refused("");
    assert!(nginx.unit.journal().contains("Permission denied"), "{}", nginx.unit.journal());
    let denied = daemon.await_denial("nginx/site.key", ROOT.uid);
    assert_eq!((&denied["op"], &denied["exe"]), (&"open".into(), &"/usr/sbin/nginx".into()), "{denied}");

    // And given back, it serves again.
    sh(&format!("chown root {0}/site.key && chgrp www-data {0}/htpasswd", daemon.path("nginx"))).quiet();
    nginx_serves(&nginx, &from);
}

#[test]
fn nginx_keeps_its_secrets_over_a_restart_of_the_daemon() {
    let mut daemon = on_run_secrets();
    let from = fresh("nginx-source");
    Nginx::secrets(&from);
    enrol_nginx(&from, daemon.root());
    let nginx = Nginx::configure(daemon.root());
    nginx_serves(&nginx, &from);
    daemon.restart();
    assert_eq!(nginx.get(&from.join("site.pem"), "alice:wonderland").0, 200, "the running workers read it anew");
    nginx.unit.stop();
    nginx_serves(&nginx, &from);
}

// --- OpenSSH --------------------------------------------------------------------------------------------------------

fn enrol_sshd(from: &Path, tree: &Path) {
    let (from, tree) = (from.display(), tree.display());
    sh(&format!(
        "set -e; mkdir -m 755 {tree}/ssh {tree}/ssh/keys; cd {from}
         install -o root -g root -m 600 host_ed25519 {tree}/ssh/host_ed25519
         install -o alice -g alice -m 400 alice {tree}/ssh/keys/alice"
    ))
    .quiet();
}

fn sshd_lets_alice_in(sshd: &Sshd, from: &Path) {
    sshd.unit.start().quiet();
    assert_eq!(sshd.login(from).quiet(), "alice\n");
}

#[test]
fn the_lab_itself_runs_sshd_from_plain_files() {
    in_the_lab();
    let (from, tree) = (fresh("ssh-source"), fresh("ssh-tree"));
    Sshd::secrets(&from);
    enrol_sshd(&from, &tree);
    sshd_lets_alice_in(&Sshd::configure(&tree), &from);
}

#[test]
fn sshd_reads_its_host_key_and_with_strict_modes_the_authorized_keys() {
    let daemon = on_run_secrets();
    let from = fresh("ssh-source");
    Sshd::secrets(&from);
    enrol_sshd(&from, daemon.root());
    let sshd = Sshd::configure(daemon.root());
    sshd_lets_alice_in(&sshd, &from);
    let host = daemon.await_open("ssh/host_ed25519", ROOT.uid);
    assert_eq!((&host["unit"], &host["exe"]), (&sshd.unit.name().into(), &"/usr/sbin/sshd".into()), "{host}");
    // Read by a process of root that has taken alice's place on file systems only.
    daemon.await_open("ssh/keys/alice", ALICE.uid);

    // The list belongs to somebody else: no login.
    sh(&format!("chown bob {}", daemon.path("ssh/keys/alice"))).quiet();
    sshd.login(&from).refused("Permission denied (publickey)");
    daemon.await_denial("ssh/keys/alice", ALICE.uid);

    // StrictModes works through the mount: a list that others may write is refused by sshd itself.
    sh(&format!("chown alice {0} && chmod 666 {0}", daemon.path("ssh/keys/alice"))).quiet();
    sshd.login(&from).refused("Permission denied (publickey)");
    assert!(sshd.unit.journal().contains("bad ownership or modes for file"), "{}", sshd.unit.journal());
    sh(&format!("chmod 400 {}", daemon.path("ssh/keys/alice"))).quiet();
    assert_eq!(sshd.login(&from).quiet(), "alice\n");

    // Without its host key it does not start.
    sh(&format!("chown bob {}", daemon.path("ssh/host_ed25519"))).quiet();
    sshd.unit.restart().refused("");
    let denied = daemon.await_denial("ssh/host_ed25519", ROOT.uid);
    assert_eq!((&denied["op"], &denied["exe"]), (&"open".into(), &"/usr/sbin/sshd".into()), "{denied}");
}

// --- 389 Directory Server -------------------------------------------------------------------------------------------

fn enrol_directory_server(from: &Path, tree: &Path) {
    let (from, tree) = (from.display(), tree.display());
    sh(&format!(
        "set -e; mkdir -m 711 {tree}/dirsrv; install -o dirsrv -g dirsrv -m 400 {from}/pin.txt {tree}/dirsrv/pin.txt"
    ))
    .quiet();
}

fn directory_server_answers_with_tls(server: &DirectoryServer) {
    server.unit.start().quiet();
    assert_eq!(server.bind(LDAPS).quiet(), "dn: cn=directory manager\n");
}

#[test]
fn the_lab_itself_runs_389_directory_server_from_plain_files() {
    in_the_lab();
    let (from, tree) = (fresh("dirsrv-source"), fresh("dirsrv-tree"));
    DirectoryServer::secrets(&from.join("pin.txt"));
    enrol_directory_server(&from, &tree);
    directory_server_answers_with_tls(&DirectoryServer::configure(&tree));
}

#[test]
fn a_389_directory_server_opens_its_certificate_database_with_the_pin() {
    let daemon = on_run_secrets();
    let dirsrv = User::named("dirsrv");
    let from = fresh("dirsrv-source");
    DirectoryServer::secrets(&from.join("pin.txt"));
    enrol_directory_server(&from, daemon.root());
    let server = DirectoryServer::configure(daemon.root());
    directory_server_answers_with_tls(&server);
    let opened = daemon.await_open("dirsrv/pin.txt", dirsrv.uid);
    assert_eq!(
        (&opened["unit"], &opened["exe"]),
        (&server.unit.name().into(), &"/usr/sbin/ns-slapd".into()),
        "{opened}"
    );
    // Readable by dirsrv alone.
    for other in [ROOT, ALICE, WWW_DATA] {
        other.sh(&format!("cat {}", daemon.path("dirsrv/pin.txt"))).refused("Permission denied");
        daemon.await_denial("dirsrv/pin.txt", other.uid);
    }

    // Denied: it asks whoever sits at the console, and without an answer runs on in clear. (That is why a locked store
    // never answers that the file is not there.)
    let before = daemon.audit().len();
    sh(&format!("chown bob {}", daemon.path("dirsrv/pin.txt"))).quiet();
    server.unit.stop();
    server.start_unanswered();
    server.bind(LDAPS).refused("Can't contact LDAP server");
    assert_eq!(server.bind(LDAP).quiet(), "dn: cn=directory manager\n");
    daemon.await_denial("dirsrv/pin.txt", dirsrv.uid);
    let opens = daemon.audit()[before..].iter().filter(|e| e["op"] == "open" && e["decision"] == "allowed").count();
    assert_eq!(opens, 0, "nobody opened it meanwhile");

    sh(&format!("chown dirsrv {}", daemon.path("dirsrv/pin.txt"))).quiet();
    server.unit.stop();
    directory_server_answers_with_tls(&server);
}
