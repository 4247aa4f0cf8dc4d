//! Maps, with a real program that maps what it loads: strongSwan.

use crate::common;

use common::{Daemon, Held, ROOT, in_the_lab, sh};

#[test]
fn strongswan_loads_its_key_through_its_map() {
    in_the_lab();
    let daemon = Daemon::start();
    let (key, public) = (daemon.path("ike.pem"), "pki --pub --in");
    let renew = || {
        sh(&format!("openssl genrsa 2048 > /tmp/ike.new 2>/dev/null && install -m 600 /tmp/ike.new {key} && setfacl -m u:root:r {key}")).ok();
        // What the new key's public half is, without strongSwan.
        sh("openssl rsa -in /tmp/ike.new -pubout -outform DER 2>/dev/null | sha256sum; rm /tmp/ike.new").text()
    };
    let loads = || sh(&format!("set -o pipefail; {public} {key} | sha256sum")).ok().text();
    let first = renew();
    assert_eq!(loads(), first);
    // It maps it: that is what this test is about.
    let traced = sh(&format!("strace -f -y -e trace=mmap {public} {key} 2>&1 >/dev/null")).ok().text();
    let map = traced.lines().find(|line| line.contains("ike.pem")).unwrap_or_else(|| panic!("no map of it:\n{traced}"));
    assert!(map.contains("MAP_PRIVATE") || map.contains("MAP_SHARED"), "{map}");
    // Somebody has the old one mapped, and goes on to read it.
    let program = "import mmap,os,sys; f=os.open(sys.argv[1],0); m=mmap.mmap(f,0,mmap.MAP_PRIVATE,mmap.PROT_READ); n=hash(bytes(m)); print('mapped',flush=True)\nfor _ in sys.stdin: print(hash(bytes(m))==n,flush=True)";
    let mut old = Held::start(ROOT, &format!("exec /usr/bin/python3 -c \"{program}\" {key}"));
    assert_eq!(old.line(), "mapped");
    for _ in 0..3 {
        let next = renew();
        assert_ne!(next, first);
        assert_eq!(loads(), next, "the key that is current");
        assert_eq!(old.ask("still"), "True", "the other keeps what it had");
        assert_eq!(loads(), next);
    }
    // charon itself, told by swanctl, which maps the key too.
    let swanctl = "/etc/swanctl/private/ike.pem";
    sh(&format!("ln -sf {key} {swanctl}; systemctl start strongswan.service")).ok();
    let loaded = sh("swanctl --load-creds --noprompt; systemctl stop strongswan.service");
    sh(&format!("rm -f {swanctl}")).ok();
    assert!(
        loaded.text().contains("loaded") && loaded.text().contains("ike.pem"),
        "{} {}",
        loaded.text(),
        loaded.stderr
    );
}
