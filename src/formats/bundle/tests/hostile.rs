//! Any bytes at all: refused or taken, but nothing panics, and nothing that was changed is taken.

use super::outer::bytes_of;
use super::*;
use crate::bundle::index::Index;
use crate::bundle::tar::{BLOCK, Member};
use proptest::prelude::*;
use std::sync::LazyLock;

struct Good {
    bytes: Vec<u8>,
    trust: Trust,
}

/// One bundle for all cases: making one costs more than looking at it.
static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let mut world = World::new();
    (0..2).for_each(|_| world.rotate());
    world.files.truncate(1);
    Good { bytes: bytes_of(&world.seal()), trust: world.trust(0) }
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(check(&bytes, &GOOD.trust, NOW).is_err());
        prop_assert!(Manifest::parse(&bytes).is_err());
        prop_assert!(Index::read(&bytes[..], 10).is_err());
        let world = (&GOOD.trust.console, &GOOD.trust.host);
        prop_assert!(ack::check(&bytes, &GOOD.trust.key, world.0, world.1).is_err());
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(SshSig::parse(&text).is_err());
        prop_assert!(PublicKey::parse(&text).is_err());
        prop_assert!(Recipient::parse(&text, RecipientUse::Host).is_err());
        prop_assert!(NamedAclEntry::try_from(text.to_string()).is_err());
    }

    #[test]
    fn arbitrary_headers_are_refused_or_written_the_same(mut block in prop::collection::vec(any::<u8>(), BLOCK), sum: bool) {
        if sum {
            block[257..265].copy_from_slice(b"ustar\x0000");
            block[148..156].fill(b' ');
            let all: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{all:06o}\0 ").as_bytes());
        }
        let block: [u8; BLOCK] = block.try_into().unwrap();
        if let Ok(member) = Member::parse(&block) {
            prop_assert_eq!(member.header(), Some(block));
        }
    }

    #[test]
    fn names_that_fit_go_round(name in "[a-zA-Z0-9ü]{1,60}(/[a-zA-Z0-9 _ü.-]{1,60}[a-z]){0,6}", size in 0u64..1 << 33) {
        let member = Member { name, size };
        if let Some(header) = member.header() {
            prop_assert_eq!(Member::parse(&header), Ok(member));
        }
    }

    #[test]
    fn a_bundle_after_any_change_is_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = GOOD.bytes.clone();
        for (at, byte) in changes {
            bytes[at.index(GOOD.bytes.len())] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        prop_assert_eq!(check(&bytes, &GOOD.trust, NOW).is_ok(), bytes == GOOD.bytes);
    }

    #[test]
    fn acl_entries_go_round(user in "[a-z][a-z0-9_-]{0,30}", perm in 0u8..8) {
        for tag in [NamedTag::User(user.clone()), NamedTag::Group(user.clone()), NamedTag::UserObj, NamedTag::Mask] {
            let entry = NamedAclEntry { tag, perm };
            prop_assert_eq!(NamedAclEntry::try_from(entry.to_string()), Ok(entry));
        }
    }
}

#[test]
fn the_unchanged_bundle_is_taken() {
    assert!(check(&GOOD.bytes, &GOOD.trust, NOW).is_ok());
}

#[test]
fn acks_are_signed_by_the_host_for_this_console() {
    let (world, key) = (World::new(), KeySigner::generate().unwrap());
    let (console, host) = (world.console.clone(), world.host.clone());
    let said = ack::Ack::new(console.clone(), host.clone(), 10, NOW, ack::AckOutcome::Partial, Some("ü".repeat(1500)));
    assert_eq!(said.reason.as_ref().unwrap().len(), 2000);
    let bytes = ack::make(&said, &key).unwrap();
    assert_eq!(ack::check(&bytes, key.public(), &console, &host).unwrap(), said);
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(ack::check(&bad, key.public(), &console, &host).is_err(), "a flip at {at}");
        assert!(ack::check(&bytes[..at], key.public(), &console, &host).is_err(), "a cut at {at}");
    }
    let other = HostName::parse("h2").unwrap();
    let code = |key: &KeySigner, host: &HostName| ack::check(&bytes, key.public(), &console, host).unwrap_err().code();
    assert_eq!(code(&key, &other), "other-host");
    assert_eq!(code(world.signer(), &host), "bad-signature");
    let huge = vec![0; ack::ACK_MAX + 1];
    assert_eq!(ack::check(&huge, key.public(), &console, &host).unwrap_err().code(), "too-large");
}
