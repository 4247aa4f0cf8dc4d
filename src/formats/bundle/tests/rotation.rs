//! Signing keys that change: who may follow whom, and what a thief of an old one can do.

use super::outer::{code, forged, put_together, reason, taken_apart};
use super::*;

/// A bundle with this chain, signed by this key, whatever the world's own are.
fn with_chain(world: &World, chain: Chain, signer: &KeySigner) -> File {
    let (_, _, payload) = taken_apart(&world.seal());
    let sealed = Payload { sha256: Sha256Hex(Sha256::digest(&payload).into()), size: payload.len() as u64 };
    let manifest = Manifest::new(&world.head(), sealed, signer.public(), &chain, &world.revoked).to_bytes();
    let signature = signer.sign(BUNDLE_NAMESPACE, &manifest).unwrap();
    put_together(&manifest, signature.armor().as_bytes(), &payload)
}

fn rotated(times: usize) -> World {
    let mut world = World::new();
    (0..times).for_each(|_| world.rotate());
    world
}

#[test]
fn a_host_that_slept_through_rotations_catches_up_with_one_bundle() {
    for times in [0, 1, 2, 5] {
        let mut world = rotated(times);
        for known in 0..=times {
            let trust = world.trust(known);
            let checked = check(&world.seal(), &trust, NOW).unwrap();
            let new = checked.new_trust();
            assert_eq!(new.key, *world.signer().public(), "{known} of {times}");
            assert_eq!(new.number, Some(times as u64));
        }
        // And from there with the next ones.
        let trust = check(&world.seal(), &world.trust(0), NOW).unwrap().new_trust().clone();
        world.serial += 1;
        world.rotate();
        assert_eq!(code(&world, &world.seal(), &trust), "taken");
    }
}

#[test]
fn a_key_that_was_rotated_away_signs_nothing_more() {
    let mut world = rotated(2);
    let trust = check(&world.seal(), &world.trust(0), NOW).unwrap().new_trust().clone();
    world.serial += 1;
    let links = world.chain.links().to_vec();
    for old in 0..2 {
        let chain = Chain::from_links(links[..old].to_vec());
        let stale = with_chain(&world, chain, &world.keys[old]);
        assert_eq!(code(&world, &stale, &trust), "unknown-signer", "key {old}");
        let pretends = with_chain(&world, Chain::from_links(links.clone()), &world.keys[old]);
        assert_eq!(code(&world, &pretends, &trust), "broken-chain", "key {old} with the whole chain");
    }
}

#[test]
fn a_chain_with_a_gap_a_foreign_link_or_a_wrong_signature_is_broken() {
    let world = rotated(3);
    let links = world.chain.links().to_vec();
    let (first, signer) = (world.trust(0), world.signer());
    let told = |links: Vec<Link>, trust: &Trust| {
        let file = with_chain(&world, Chain::from_links(links), signer);
        (code(&world, &file, trust), reason(&file, trust))
    };
    let broken = |links: Vec<Link>, why: &str| {
        let (code, reason) = told(links, &first);
        assert_eq!(code, "broken-chain", "{why}");
        assert!(reason.contains(why), "{why}: {reason}");
    };
    assert_eq!(told(links.clone(), &first).0, "taken");
    let without = |at: usize| {
        let mut some = links.clone();
        some.remove(at);
        some
    };
    broken(without(1), "link 3 follows link 1");
    broken(without(2), "does not lead to the signer");
    assert_eq!(told(without(0), &first).0, "unknown-signer", "it no longer begins at the key this host knows");
    assert_eq!(told(without(0), &world.trust(1)).0, "taken", "but others do not need the first link");
    broken(vec![links[0].clone(), links[0].clone(), links[1].clone(), links[2].clone()], "link 1 is there twice");
    broken(links.iter().rev().cloned().collect(), "follows");
    let changed = |at: usize, change: &dyn Fn(&mut Link)| {
        let mut some = links.clone();
        change(&mut some[at]);
        some
    };
    broken(changed(1, &|l| l.number = 7), "link 7 follows link 1");
    broken(changed(0, &|l| l.number = 0), "link 2 follows link 0");
    broken(changed(1, &|l| l.by = links[2].by), "by another key than link 1 names");
    broken(changed(1, &|l| l.sig = links[2].sig.clone()), "link 2 is not signed by the key before it");
    broken(changed(0, &|l| l.sig = links[2].sig.clone()), "link 1 is not signed by the key before it");
    broken(changed(0, &|l| l.created.secs += 1), "link 1 is not signed by the key before it");
    broken(changed(2, &|l| l.created.secs += 1), "link 3 is not signed by the key before it");
    // Of another console, whose keys are the same: what is signed names the console.
    let mut foreign = Chain::default();
    let other = ConsoleName::parse("other").unwrap();
    for pair in world.keys.windows(2) {
        foreign.rotate(&other, &pair[0], pair[1].public(), NOW).unwrap();
    }
    broken(foreign.links().to_vec(), "link 1 is not signed by the key before it");
    let mut one_foreign = links.clone();
    one_foreign[1] = foreign.links()[1].clone();
    broken(one_foreign.clone(), "link 2 is not signed by the key before it");
    // Also where the host does not need that link.
    assert_eq!(told(one_foreign, &world.trust(2)).0, "broken-chain");
    // A stranger's chain holds together, but leads nowhere from here.
    let stranger = rotated(2);
    let theirs = with_chain(&world, stranger.chain.clone(), stranger.signer());
    assert_eq!(code(&world, &theirs, &first), "unknown-signer");
    // A link signed under another namespace.
    let text = forged(&world, &world.seal(), "\"number\": 1", "\"number\": 01");
    assert_eq!(code(&world, &text, &first), "not-a-bundle");
}

#[test]
fn a_forked_chain_is_told_from_an_unknown_signer() {
    let mut world = rotated(1);
    let trust = check(&world.seal(), &world.trust(0), NOW).unwrap().new_trust().clone();
    // Somebody with the first key names another second one.
    let thief = KeySigner::generate().unwrap();
    let mut fork = Chain::default();
    fork.rotate(&world.console, &world.keys[0], thief.public(), NOW).unwrap();
    world.serial += 1;
    let forged = with_chain(&world, fork.clone(), &thief);
    assert_eq!(code(&world, &forged, &trust), "forked-chain");
    // To a host that was just joined with the second key the number says nothing yet.
    assert_eq!(code(&world, &forged, &world.trust(1)), "unknown-signer");
    let mut both = fork.links().to_vec();
    both.insert(0, world.chain.links()[0].clone());
    assert_eq!(code(&world, &with_chain(&world, Chain::from_links(both), &thief), &trust), "broken-chain");
    // A key does not come back.
    let mut circle = world.chain.clone();
    for (old, new) in [(1, 0), (1, 1), (0, 1)] {
        let refused = circle.rotate(&world.console, &world.keys[old], world.keys[new].public(), NOW);
        assert!(matches!(refused, Err(SignError::Chain(_))), "{old} {new}");
    }
    let mut one = Chain::default();
    one.rotate(&world.console, &world.keys[1], world.keys[0].public(), NOW).unwrap();
    let mut links = [circle.links(), one.links()].concat();
    links[1].number = 2;
    let circle = Chain::from_links(links);
    let back = with_chain(&world, circle, &world.keys[0]);
    assert!(reason(&back, &trust).contains("leads back"), "{}", reason(&back, &trust));
}

#[test]
fn a_stolen_old_key_signs_nothing_once_its_revocation_was_seen() {
    let mut world = rotated(1);
    let early = World { chain: Chain::default(), ..World::new() };
    world.revoked = vec![world.keys[0].public().fingerprint()];
    // A host that had walked on before takes the bundle, and remembers.
    let trust = check(&world.seal(), &world.trust(1), NOW).unwrap().new_trust().clone();
    assert_eq!(trust.revoked, world.revoked);
    world.serial += 1;
    let stolen = &world.keys[0];
    let by_thief = with_chain(&World { revoked: Vec::new(), ..early }, Chain::default(), stolen);
    // It is of another host's world; the same for ours:
    assert_ne!(code(&world, &by_thief, &trust), "taken");
    let revoked = std::mem::take(&mut world.revoked);
    let alone = with_chain(&world, Chain::default(), &world.keys[0]);
    assert_eq!(code(&world, &alone, &trust), "revoked-signer");
    let thief = KeySigner::generate().unwrap();
    let mut fork = Chain::default();
    fork.rotate(&world.console, &world.keys[0], thief.public(), NOW).unwrap();
    let with_own_key = with_chain(&world, fork, &thief);
    assert_eq!(code(&world, &with_own_key, &trust), "forked-chain");
    // The console does not say it in every bundle; it is remembered all the same.
    let next = check(&world.seal(), &trust, NOW).unwrap();
    assert_eq!(next.new_trust().revoked, revoked);
    // Even if somebody typed the old key again.
    let again = Trust { key: world.keys[0].public().clone(), number: None, ..trust };
    assert_eq!(code(&world, &alone, &again), "revoked-signer");
    assert_eq!(code(&world, &world.seal(), &again), "trust-revoked");
}

#[test]
fn a_host_whose_only_trusted_key_was_revoked_says_how_to_join_again() {
    let mut world = rotated(2);
    world.revoked = vec![world.keys[0].public().fingerprint()];
    let trust = world.trust(0);
    let refusal = check(&world.seal(), &trust, NOW).unwrap_err();
    assert_eq!(refusal.code(), "trust-revoked");
    let told = refusal.to_string();
    assert!(told.contains(&format!("pinfold join console.example --signer '{}'", world.signer().public())), "{told}");
    // What it learned it keeps: the thief's next bundle is refused, although this one was too.
    assert_eq!(refusal.learned(), world.revoked);
    let mut wiser = trust.clone();
    wiser.revoke(refusal.learned());
    wiser.revoke(refusal.learned());
    assert_eq!(wiser.revoked.len(), 1);
    world.revoked.clear();
    let by_thief = with_chain(&world, Chain::default(), &world.keys[0]);
    assert_eq!(code(&world, &by_thief, &trust), "taken", "before it had learned");
    assert_eq!(code(&world, &by_thief, &wiser), "revoked-signer");
    // A key on the way is no better: whoever stole it may have named its successor.
    world.revoked = vec![world.keys[1].public().fingerprint()];
    assert_eq!(code(&world, &world.seal(), &world.trust(0)), "trust-revoked");
    assert_eq!(code(&world, &world.seal(), &world.trust(2)), "taken", "trust in a later key does not need it");
    // Nothing is learned from strangers.
    let mut stranger = rotated(1);
    stranger.revoked = vec![world.signer().public().fingerprint()];
    let theirs = with_chain(&stranger, stranger.chain.clone(), stranger.signer());
    assert_eq!(check(&theirs, &world.trust(2), NOW).unwrap_err().learned(), []);
    world.revoked = vec![world.signer().public().fingerprint()];
    assert_eq!(code(&world, &world.seal(), &world.trust(2)), "revoked-signer", "who revokes himself");
    // What is remembered is bounded too.
    let made_up = |n: usize| {
        let text = format!("{n:043}").replace('0', "A");
        Fingerprint::parse(&format!("SHA256:{}A", &text[..42])).unwrap()
    };
    let mut full = world.trust(2);
    full.revoked = (0..2048).map(|n| made_up(10 * n + 1)).collect();
    world.revoked = vec![full.revoked[0]];
    assert_eq!(code(&world, &world.seal(), &full), "taken");
    world.revoked = vec![made_up(10 * 5000 + 1)];
    assert_eq!(code(&world, &world.seal(), &full), "broken-chain");
}

#[test]
fn a_chain_is_bounded_and_can_be_cut_at_its_old_end() {
    let mut world = rotated(5);
    world.chain.forget_before(4);
    assert_eq!(world.chain.links().iter().map(|l| l.number).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(code(&world, &world.seal(), &world.trust(3)), "taken");
    assert_eq!(code(&world, &world.seal(), &world.trust(2)), "unknown-signer");
    world.chain.forget_before(100);
    assert_eq!(world.chain.number(), 5, "the newest link stays, and the number with it");
    let long = Chain::from_links(vec![world.chain.links()[0].clone(); LINKS_MAX + 1]);
    let file = with_chain(&world, long, world.signer());
    assert_eq!(code(&world, &file, &world.trust(5)), "not-a-bundle");
}

#[test]
fn a_revocation_is_more_than_the_signer_s_word_only_of_keys_that_the_chain_leads_over() {
    let mut world = rotated(3);
    let (first, second, stranger) = (&world.keys[0], &world.keys[1], KeySigner::generate().unwrap());
    world.revoked = [first, second, &stranger].map(|key| key.public().fingerprint()).into();
    let checked = check(&world.seal(), &world.trust(3), NOW).unwrap();
    let met: Vec<Fingerprint> = checked.manifest().revoked_of_chain().collect();
    assert_eq!(met, [second.public().fingerprint()]);
    // A thief of the newest key says that the console's next one, which he knows of, came before it.
    let (newest, next) = (world.keys.last().unwrap(), stranger);
    let sig = newest.sign(CHAIN_NAMESPACE, b"nobody looks at it").unwrap();
    let link = Link { key: newest.public().clone(), by: next.public().fingerprint(), number: 1, created: NOW, sig };
    world.revoked = vec![next.public().fingerprint()];
    let checked = check(&with_chain(&world, Chain::from_links(vec![link]), newest), &world.trust(3), NOW).unwrap();
    assert_eq!(checked.manifest().revoked_of_chain().count(), 0);
}
