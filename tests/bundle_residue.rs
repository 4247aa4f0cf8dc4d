//! After secrets were sealed into a bundle and opened out of it, neither they nor the signing key are anywhere in the process.
//!
//! It has the ordinary allocator: nothing is wiped by luck. Alone in its file, so that no other test's memory is searched.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/residue.rs"]
mod residue;

use pinfold::bundle::{
    Chain, Entry, EntryKind, Head, Index, KeySigner, Plan, Sha256Hex, Signer, Trust, check, finish, seal, seal_unsigned,
};
use pinfold::model::{ConsoleName, HostName, SecretPath, Timestamp};
use pinfold::secret::Secret;
use residue::{MASK, mark, marked};
use std::hint::black_box;

const NOW: Timestamp = Timestamp { secs: 1_800_000_000, nanos: 0 };

/// What cannot be written holds nothing that was computed.
fn found(masked: &[u8]) -> usize {
    residue::found(masked, "rw")
}

#[test]
fn nothing_of_a_bundle_s_contents_is_left_behind() {
    let lens = [16, 100, 4096, 65_536, 200_000];
    let entries = lens.iter().enumerate().map(|(n, len)| Entry {
        path: SecretPath::parse(&format!("s{n}")).unwrap(),
        kind: EntryKind::File { size: *len as u64, sha256: Sha256Hex::of(&marked(*len)), version: 1 },
        owner: "root".into(),
        group: "root".into(),
        mode: 0o600,
        acl: None,
        default_acl: None,
        xattrs: Vec::new(),
        mtime: NOW,
    });
    let index = Index { entries: entries.collect(), admins: Vec::new() };
    let plain: Vec<u8> = (0..16).map(|i| mark(i) ^ MASK).collect();
    // The seed begins as the mark does not.
    let seed: [u8; 32] = std::array::from_fn(|i| mark(i + 100).rotate_left(3));
    let masked_seed: Vec<u8> = seed[..16].iter().map(|b| b ^ MASK).collect();
    let signer = KeySigner::from_seed(Secret::copy_of(&black_box(seed)).unwrap()).unwrap();
    let held = marked(5000);
    assert!(found(&plain) > 0 && found(&masked_seed) > 0, "the search finds what is there");
    drop(black_box(held));

    let identity = age::x25519::Identity::generate();
    let (console, host) = (ConsoleName::parse("c").unwrap(), HostName::parse("h").unwrap());
    let expires = Timestamp { secs: NOW.secs + 1, nanos: 0 };
    let head = Head { console: console.clone(), host: host.clone(), serial: 1, created: NOW, expires };
    let recipients = [identity.to_public().into()];
    let plan = Plan { head: &head, recipients: &recipients, index: &index, chain: &Chain::default(), revoked: &[] };
    let (now, later) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    seal(&now, &plan, &mut |n| Ok(marked(lens[n])), &signer).unwrap();
    seal_unsigned(&later, &plan, &mut |n| Ok(marked(lens[n])), signer.public()).unwrap();
    finish(&later, &signer).unwrap();
    let trust = Trust::new(console, host, signer.public().clone());
    for file in [&now, &later] {
        let mut contents = check(file, &trust, NOW).unwrap().open(&identity).unwrap();
        let mut sum = 0;
        while let Some(content) = contents.next_file().unwrap() {
            assert_eq!(content.secret.expose()[..16], *marked(16).expose());
            sum += content.secret.len();
        }
        assert_eq!(sum, lens.iter().sum::<usize>());
    }
    // One left in the middle, as an import does that is refused.
    let mut contents = check(&now, &trust, NOW).unwrap().open(&identity).unwrap();
    assert!(contents.next_file().unwrap().is_some());
    drop(contents);
    // A copy of the seed stands in this very frame.
    let copies = found(&masked_seed);
    drop(signer);
    assert_eq!(
        (found(&plain), found(&masked_seed)),
        (0, copies - 1),
        "(of contents, of the key beyond the test's own)"
    );
    assert!(copies <= 4, "the key is all over the place: {copies}");
}
