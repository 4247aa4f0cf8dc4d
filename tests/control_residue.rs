//! After a secret went through the control socket and back, neither it nor its base64 is anywhere in the process.
//!
//! Client and daemon side are both in this process, which has the ordinary allocator: nothing is wiped by luck. Alone in its
//! file, so that no other test's memory is searched.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/residue.rs"]
mod residue;

use pinfold::config::Config;
use pinfold::control::client::Client;
use pinfold::control::{Peer, Server};
use pinfold::model::SecretPath;
use pinfold::secret::Secret;
use pinfold::wire::*;
use residue::{LEN, MASK, mark};
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

/// A core that looks at content and lets it go.
struct Glance;

macro_rules! unused {
    ($($name:ident($($arg:ty),*) -> $reply:ty;)*) => {
        $(fn $name(&self, _: &Actor, $(_: $arg),*) -> Result<$reply, Fault> { Err(Fault::Failed("unused".into())) })*
    };
}

impl Admin for Glance {
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
    fn put(&self, _: &Actor, put: Put) -> Result<u64, Fault> {
        let whole =
            put.content.len() == 100 * LEN && put.content.expose().iter().enumerate().all(|(i, b)| *b == mark(i % LEN));
        Ok(u64::from(whole))
    }
    fn reveal(&self, _: &Actor, _: Reveal) -> Result<Secret, Fault> {
        Ok(marked())
    }
    fn denied(&self, _: &Actor, _: &str) {}
    unused! {
        status() -> Status;
        unlock(UnlockWith, Option<&str>) -> ();
        lock() -> ();
        list(List) -> Vec<Entry>;
        remove(Remove) -> Removed;
        history(SecretPath) -> Vec<VersionInfo>;
        rollback(Rollback) -> u64;
        who(Who) -> WhoReply;
        log_head() -> LogPosition;
        log_anchor() -> LogPosition;
        log_rotate() -> Rotated;
        recovery_add(&str, bool) -> u64;
        recovery_remove(&str) -> u64;
        recovery_list() -> Vec<String>;
        recovery_escrow() -> Vec<u8>;
        fsck(Fsck) -> FsckReport;
        identity_add(IdentityAdd) -> ();
        identity_remove(&str) -> ();
        identity_list() -> Vec<ProtectorInfo>;
        rekey(Rekey) -> Rekeyed;
        extract(Extract) -> Vec<u8>;
        backup(&mut dyn Write) -> BackupReport;
        scope_add(ScopeAdd) -> ();
        scope_list() -> Vec<ScopeEntry>;
        scope_remove(ScopeRemove) -> Removed;
        attach(Attach) -> String;
        detach(&str) -> ();
        instances() -> Vec<InstanceEntry>;
    }
}

fn marked() -> Secret {
    residue::marked(100 * LEN)
}

fn found(masked: &[u8]) -> usize {
    residue::found(masked, "r")
}

#[test]
fn nothing_of_a_secret_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { control: dir.path().join("control.sock"), ..Config::default() };
    let root =
        |s: &std::os::unix::net::UnixStream| Peer::of(s).map(|p| Peer { actor: Actor { uid: 0, ..p.actor }, ..p });
    let mut server = Server::bind_with(&config, Arc::new(Glance), Box::new(root)).unwrap();
    server.run().unwrap();
    let plain: Vec<u8> = (0..16).map(|i| mark(i) ^ MASK).collect();
    let base64: Vec<u8> = {
        let table = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bits =
            |n: usize| (0..6).fold(0, |v, b| v << 1 | (mark((n * 6 + b) / 8) >> (7 - (n * 6 + b) % 8) & 1) as usize);
        (0..20).map(|n| table[bits(n)] ^ MASK).collect()
    };
    let path = SecretPath::parse("svc/pin").unwrap();
    let mut held = (marked(), FrameWriter::new(1 << 20).unwrap());
    write_reply(&mut held.1, &Revealed { content: marked() }, false).unwrap();
    assert!(found(&plain) > 0 && found(&base64) > 0, "the search finds what is there");
    drop(black_box(held));
    let mut client = Client::connect(&config).unwrap();
    let put = Put { path: path.clone(), uid: None, gid: None, mode: None, parents: false, content: marked() };
    assert_eq!(client.call(&put).unwrap().version, 1, "the content arrived whole");
    let revealed = client.call(&Reveal { path, version: None }).unwrap();
    assert!(revealed.content.expose() == put.content.expose());
    drop((put, revealed, client));
    server.stop();
    assert_eq!((found(&plain), found(&base64)), (0, 0), "(in clear, as base64)");
}
