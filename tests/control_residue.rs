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
use std::sync::Arc;

/// A core that looks at content and lets it go.
struct Glance;

impl Admin for Glance {
    fn enter(&self, _: &Actor) -> Result<(), Fault> {
        Ok(())
    }
    fn permit(&self, actor: &Actor, right: Right, _: &str) -> Result<(), Fault> {
        right.permits(actor.uid == 0, actor.proven)
    }
    fn prove(&self, _: &Actor, _: UnlockWith) -> Result<(), Fault> {
        Err(Fault::not_here())
    }
    fn denied(&self, _: &Actor, _: &str) {}
}

impl Serve<Put> for Glance {
    fn serve(&self, _: &Actor, put: Put) -> Result<Committed, Fault> {
        let whole =
            put.content.len() == 100 * LEN && put.content.expose().iter().enumerate().all(|(i, b)| *b == mark(i % LEN));
        Ok(Committed { version: u64::from(whole) })
    }
}

impl Serve<Reveal> for Glance {
    fn serve(&self, _: &Actor, _: Reveal) -> Result<Revealed, Fault> {
        Ok(Revealed { content: marked() })
    }
}

pinfold::serves!(Glance: one Put, secret Reveal);

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
