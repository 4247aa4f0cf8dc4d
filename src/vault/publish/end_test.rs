//! The publisher's thread in the middle of its work when the daemon ends.

use super::*;
use crate::caller::Daemon;
use crate::model::{Kind, Uid};
use crate::vault::SetAttr;
use crate::vault::transact_test::{Rig, make, write};

#[test]
fn what_the_thread_was_about_to_bring_at_the_end_is_not_brought() {
    let uid = 100_000_000 + std::process::id();
    let mut rig = Rig::new();
    let vault = rig.open();
    let pin = make(&vault, Ino::ROOT, "pin", Kind::File).unwrap();
    write(&vault, pin, b"1234").unwrap();
    let owned = SetAttr { uid: Some(Uid(uid)), mode: Some(0o400), ..SetAttr::default() };
    vault.set_attr(&Daemon, pin, owned).unwrap();
    let publication = parse_publications(format!("to={uid}").as_bytes()).unwrap();
    vault.set_xattr(&Daemon, pin, PUBLISH_XATTR, &write_publications(&publication), XattrMode::Set).unwrap();
    let brought = || {
        vault.reconcile(&mut vault.publisher.board.lock(), pin);
        (vault.publications().remove(0).state, vault.publisher.live.lock().len())
    };
    assert_eq!(brought(), (PublicationState::Published, 1));
    vault.shutdown();
    // It had taken this secret from its inbox before.
    assert_eq!(brought(), (PublicationState::Waiting, 0));
}
