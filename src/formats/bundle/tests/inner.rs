//! Payloads that were signed and are wrong all the same: a console may be broken, or broken into.

use super::outer::{archive, file_of, header, put, taken_apart};
use super::*;
use crate::bundle::tar::{BLOCK, END};

/// The plaintext as the console of this world would make it.
fn plaintext(world: &World) -> Vec<u8> {
    age::decrypt(&world.identity.0, &taken_apart(&world.seal()).2).unwrap()
}

/// A bundle with this plaintext, or with this file in the payload's place, signed as it should be.
fn with_payload(world: &World, payload: &[u8]) -> File {
    let sealed = Payload { sha256: Sha256Hex(Sha256::digest(payload).into()), size: payload.len() as u64 };
    let manifest = Manifest::new(&world.head(), sealed, world.signer().public(), &world.chain, &world.revoked);
    let bytes = manifest.to_bytes();
    let signature = world.signer().sign(BUNDLE_NAMESPACE, &bytes).unwrap().armor();
    super::outer::put_together(&bytes, signature.as_bytes(), payload)
}

fn with_plaintext(world: &World, plain: &[u8]) -> File {
    with_payload(world, &age::encrypt(&world.identity.0.to_public(), plain).unwrap())
}

/// Reads it all; what it is refused for, or nothing.
fn opened(world: &World, file: &File) -> Result<Index, Refusal> {
    let trust = Trust { max_size: u64::MAX, ..world.trust(0) };
    let mut contents = check(file, &trust, NOW)?.open(&world.identity)?;
    while contents.next_file()?.is_some() {}
    Ok(contents.index().clone())
}

fn refused(world: &World, plain: &[u8], code: &str, told: &str) {
    match opened(world, &with_plaintext(world, plain)) {
        Ok(_) => panic!("it was taken: {told}"),
        Err(refusal) => {
            assert_eq!(refusal.code(), code, "{told}: {refusal}");
            assert!(refusal.to_string().contains(told), "{told}: {refusal}");
        }
    }
}

fn index_of(world: &World) -> String {
    String::from_utf8(world.index().to_bytes()).unwrap()
}

/// The files of the world after another index.
fn with_index(world: &World, index: &str) -> Vec<u8> {
    let mut members = vec![("index.json".to_owned(), index.as_bytes())];
    members.extend(world.files.iter().map(|(path, content)| (format!("files/{path}"), &content[..])));
    let members: Vec<_> = members.iter().map(|(name, content)| (name.as_str(), *content)).collect();
    archive(&members)
}

#[test]
fn the_plaintext_is_what_the_tests_below_take_for_it() {
    let world = World::new();
    assert_eq!(with_index(&world, &index_of(&world)), plaintext(&world));
    assert_eq!(opened(&world, &with_plaintext(&world, &plaintext(&world))).unwrap(), world.index());
}

#[test]
fn members_that_the_index_does_not_list_in_this_place_are_refused() {
    let world = World::new();
    let index = index_of(&world);
    let (index, pin, key) = (index.as_bytes(), &world.files[0].1[..], &world.files[1].1[..]);
    let ours = [("index.json", index), ("files/nut/pin", pin), ("files/web.key", key), ("files/zero", b"")];
    let changed = |at: usize, name: &'static str, content: &'static [u8]| {
        let mut members = ours.to_vec();
        members[at] = (name, content);
        archive(&members)
    };
    const WRONG: &str = "not what its index lists";
    refused(&world, &archive(&ours[1..]), "bad-payload", "does not begin with its index");
    refused(&world, &archive(&ours[..3]), "bad-payload", WRONG);
    refused(&world, &archive(&[&ours[..], &ours[3..]].concat()), "bad-payload", WRONG);
    refused(&world, &archive(&[ours[0], ours[1], ours[3], ours[2]]), "bad-payload", WRONG);
    refused(&world, &changed(1, "files/nut/pim", b"hunter2\n"), "bad-payload", WRONG);
    refused(&world, &changed(1, "files/nut/pin", b"hunter22\n"), "bad-payload", WRONG);
    refused(&world, &changed(1, "files/nut/pin", b"hunter3\n"), "bad-payload", "not the one that its index names");
    refused(&world, &changed(1, "long/1", b"hunter2\n"), "bad-payload", WRONG);
    let mut late = plaintext(&world);
    late.extend([0; BLOCK]);
    refused(&world, &late, "bad-payload", WRONG);
    let mut noisy = plaintext(&world);
    *noisy.last_mut().unwrap() = 1;
    refused(&world, &noisy, "bad-payload", "something between its members");
    refused(&world, &plaintext(&world)[..1000], "bad-payload", "");
    refused(&world, b"", "bad-payload", "ends too early");
}

#[test]
fn links_devices_and_names_that_lead_out_are_refused_inside_too() {
    let world = World::new();
    let index = index_of(&world);
    let same = |_: &mut [u8; BLOCK]| {};
    for (block, told) in [
        (header("../../etc/passwd", 8, same), "leads out of the archive: '../../etc/passwd'"),
        (header("/etc/passwd", 8, same), "leads out of the archive: '/etc/passwd'"),
        (header("files/nut/pin", 8, |b| b[156] = b'2'), "a symbolic link"),
        (header("files/nut/pin", 8, |b| b[156] = b'1'), "a hard link"),
        (header("files/nut/pin", 8, |b| b[156] = b'3'), "a character device"),
        (header("files/nut/pin", 8, |b| b[156] = b'4'), "a block device"),
        (header("files/nut/pin", 8, |b| b[156] = b'x'), "a tar extension record"),
        (header("files/nut/pin", 8, |b| b[156] = b'L'), "a tar extension record"),
        (header("files/nut/pin", 0o7777_7777, same), "not what its index lists"),
        (header("files/nut/pin", 8, |b| b[124..136].fill(0x80)), "is not one that a tar holds"),
    ] {
        let mut plain = Vec::new();
        put(&mut plain, &header("index.json", index.len() as u64, same), index.as_bytes());
        put(&mut plain, &block, b"hunter2\n");
        plain.extend(&plaintext(&world)[plain.len()..]);
        refused(&world, &plain, "bad-payload", told);
    }
    let mut plain = header("index.json", 1 << 32, same).to_vec();
    plain.extend(END);
    refused(&world, &plain, "bad-payload", "larger than the payload");
}

#[test]
fn an_index_is_whole_or_refused() {
    let world = World::new();
    let index = index_of(&world);
    let file = |path: &str| {
        let mut entry = serde_json::to_value(&world.index().entries[1]).unwrap();
        entry["path"] = path.into();
        entry
    };
    let listed = |entries: Vec<serde_json::Value>| {
        let entries = serde_json::to_string(&entries).unwrap();
        format!("{{\"format\":\"pinfold-payload\",\"version\":1,\"admins\":[],\"entries\":{entries}}}")
    };
    let directory = serde_json::to_value(&world.index().entries[0]).unwrap();
    let one = |text: String, told: &str| refused(&world, &with_index(&world, &text), "bad-payload", told);
    one(listed(vec![directory.clone(), file("nut/b"), file("nut/a")]), "'nut/a' is there twice, or not in order");
    one(listed(vec![directory.clone(), file("nut/a"), file("nut/a")]), "'nut/a' is there twice, or not in order");
    one(listed(vec![file("nut/a")]), "the directory of 'nut/a' is missing");
    one(listed(vec![file("a"), file("a/b")]), "the directory of 'a/b' is missing");
    one(listed(vec![directory.clone(), file("nut/a"), file("nut2/a")]), "the directory of 'nut2/a' is missing");
    one(listed(vec![file("")]), "an entry has no path");
    one(listed(vec![file("../x")]), "does not parse");
    one(listed(vec![file("x\0y")]), "does not parse");
    one(listed(vec![file(&"x".repeat(300))]), "does not parse");
    for (from, to, told) in [
        ("\"owner\":\"nut\"", "\"owner\":\"\"", "no possible name"),
        ("\"owner\":\"nut\"", "\"owner\":\"a:b\"", "no possible name"),
        ("\"owner\":\"nut\"", "\"owner\":\"a\\nb\"", "no possible name"),
        ("\"owner\":\"nut\"", "\"owner\":\"nut\",\"more\":1", "does not parse"),
        ("\"mode\":\"0755\"", "\"mode\":\"4755\"", "bits that are not kept"),
        ("\"mode\":\"0755\"", "\"mode\":\"755\"", "does not parse"),
        ("\"mode\":\"0755\"", "\"mode\":493", "does not parse"),
        ("user.pinfold.unit", "security.selinux", "not user attributes"),
        ("\"nanos\":0", "\"nanos\":1000000000", "its time is not one"),
        ("\"version\":1", "\"version\":1.0", "does not parse"),
        ("{\"format\"", "{\"more\":1,\"format\"", "does not parse"),
        ("\"admins\":[]", "\"admins\":[{\"user\":\"-x\",\"keys\":[],\"comment\":\"\"}]", "not the name of an account"),
        (
            "\"admins\":[]",
            "\"admins\":[{\"user\":\"u\",\"keys\":[\"command=\\\"sh\\\" ssh-ed25519 AAAA\"],\"comment\":\"\"}]",
            "not a line with a public key",
        ),
        (
            "\"admins\":[]",
            "\"admins\":[{\"user\":\"u\",\"keys\":[\"ssh-ed25519 AAAA\\nssh-ed25519 AAAA\"],\"comment\":\"\"}]",
            "not a line with a public key",
        ),
        (
            "\"admins\":[]",
            "\"admins\":[{\"user\":\"u\",\"keys\":[\"ecdsa-,cert-authority AAAA ssh-ed25519 AAAA\"],\"comment\":\"\"}]",
            "not a line with a public key",
        ),
        (
            "\"admins\":[]",
            "\"admins\":[{\"user\":\"u\",\"keys\":[\"ssh-ed25519 AAAAC3NzaC1yc2E=\"],\"comment\":\"\"}]",
            "not a line with a public key",
        ),
        (
            "\"admins\":[]",
            "\"admins\":[{\"user\":\"u\",\"keys\":[\"ssh-ed25519 AAAA\\rssh-ed25519 AAAA\"],\"comment\":\"\"}]",
            "not a line with a public key",
        ),
    ] {
        assert!(index.contains(from), "{from}");
        one(index.replacen(from, to, 1), told);
    }
    let newer = with_index(&world, &index.replacen("\"version\":1", "\"version\":2", 1));
    refused(&world, &newer, "newer-format", "from the future: version 2");
    one(format!("{index} x"), "does not parse");
    one(index[..index.len() - 10].into(), "does not parse");
}

#[test]
fn a_million_entries_are_not_read_to_the_end() {
    let world = World::new();
    let entry = "{\"path\":\"a\",\"kind\":\"directory\",\"owner\":\"a\",\"group\":\"a\",\"mode\":\"0755\",\
                 \"mtime\":{\"secs\":0,\"nanos\":0}},";
    let mut text = String::from("{\"format\":\"pinfold-payload\",\"version\":1,\"admins\":[],\"entries\":[");
    text.push_str(&entry.repeat(1_000_000));
    text.push_str("]}");
    let bundle = with_plaintext(&world, &archive(&[("index.json", text.as_bytes())]));
    let trust = Trust { max_size: u64::MAX, max_entries: 1000, ..world.trust(0) };
    let checked = check(&bundle, &trust, NOW).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(checked.open(&world.identity).err().unwrap().code(), "too-many-entries");
    assert!(begun.elapsed().as_secs() < 5, "all of them were read");
}

#[test]
fn a_size_that_is_not_there_is_never_made_room_for() {
    let world = World::new();
    let index = index_of(&world).replacen("\"size\":8,", "\"size\":9000000000000000000,", 1);
    refused(&world, &with_index(&world, &index), "bad-payload", "not what its index lists");
    let index = index_of(&world).replacen("\"size\":8,", "\"size\":1073741824,", 1);
    refused(&world, &with_index(&world, &index), "bad-payload", "not what its index lists");
}

#[test]
fn encryption_that_is_wrong_though_it_was_signed_is_refused() {
    let mut world = World::new();
    world.files[1].1 = vec![7; 200_000];
    let other = age::x25519::Identity::generate();
    let plain = plaintext(&world);
    let open = |payload: &[u8]| opened(&world, &with_payload(&world, payload)).err().map(|r| r.to_string());
    let told = |payload: &[u8]| open(payload).unwrap_or_else(|| "taken".into());
    assert_eq!(told(&age::encrypt(&other.to_public(), &plain).unwrap()), "its payload is not encrypted to this host");
    let sealed = age::encrypt(&world.identity.0.to_public(), &plain).unwrap();
    assert_eq!(open(&sealed), None);
    for at in (0..300).step_by(7).chain((300..sealed.len()).step_by(9973)).chain(sealed.len() - 20..sealed.len()) {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        assert!(open(&bad).is_some(), "a flip at {at}");
        assert!(open(&sealed[..at]).is_some(), "a cut at {at}");
    }
    // The first two chunks in the other's place.
    let chunk = 65_536 + 16;
    let start = sealed.len() - (plain.len() + 16 * plain.len().div_ceil(65_536));
    let mut swapped = sealed.clone();
    swapped[start..start + 2 * chunk].rotate_left(chunk);
    assert!(told(&swapped).contains("failed authentication"));
    assert!(told(b"not age at all").contains("not an age file"));
    assert!(told(b"").contains("not an age file"));
    assert!(told(&vec![b'-'; 200_000]).contains("not an age file"));
    let passphrase = age::Encryptor::with_user_passphrase("x".to_owned().into());
    let mut by_passphrase = Vec::new();
    let mut writer = passphrase.wrap_output(&mut by_passphrase).unwrap();
    std::io::Write::write_all(&mut writer, &plain).unwrap();
    writer.finish().unwrap();
    assert_eq!(told(&by_passphrase), "its payload is not encrypted to this host");
}

#[test]
fn every_kind_of_entry_and_the_longest_names_go_round() {
    let mut world = World::new();
    let deep: Vec<String> = (0..60).map(|i| format!("directory-with-a-long-name-{i:030}")).collect();
    let mut entries = Vec::new();
    let mut path = String::new();
    for name in &deep {
        path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        entries.push(entry(&path, EntryKind::Directory));
    }
    entries.push(entry(&format!("{path}/secret"), file(b"deep")));
    entries.push(entry("link", EntryKind::Symlink { target: "nut/pin".into() }));
    entries.push(entry("zwei\nzeilen ü", file(b"odd")));
    let acl = ["user::rw-", "user:www-data:r--", "group::r--", "group:adm:---", "mask::r--", "other::---"];
    let acl: Vec<NamedAclEntry> = acl.iter().map(|e| (*e).to_owned().try_into().unwrap()).collect();
    entries[0].default_acl = Some(NamedAcl::from_entries(acl.clone()).unwrap());
    entries.last_mut().unwrap().acl = Some(NamedAcl::from_entries(acl).unwrap());
    let key = format!("{} u1@desk", world.signer().public());
    let admins = vec![
        Admin { user: "u1".into(), prefix: Some("adm_".into()), keys: vec![key.clone(), key], comment: "A".into() },
        Admin { user: "u2".into(), prefix: None, keys: vec![], comment: "line 4".into() },
    ];
    let index = Index { entries, admins };
    let out = tempfile::tempfile().unwrap();
    let recipient = world.identity.0.to_public().into();
    let head = world.head();
    let plan =
        Plan { head: &head, recipients: &[recipient], index: &index, chain: &world.chain, revoked: &world.revoked };
    let mut content = |number: usize| {
        let text: &[u8] = if index.entries[number].path.names().len() > 1 { b"deep" } else { b"odd" };
        Ok(Secret::copy_of(text)?)
    };
    seal(&out, &plan, &mut content, world.signer()).unwrap();
    assert_eq!(opened(&world, &out).unwrap(), index);
    let plain = age::decrypt(&world.identity.0, &taken_apart(&out).2).unwrap();
    let names: Vec<String> = ::tar::Archive::new(&plain[..])
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["index.json", "long/60", "files/zwei\nzeilen ü"]);
    world.files.clear();
}

#[test]
fn what_is_not_what_the_index_says_is_not_sealed() {
    let world = World::new();
    let index = world.index();
    let head = world.head();
    let recipients = [world.identity.0.to_public().into()];
    let plan = Plan { head: &head, recipients: &recipients, index: &index, chain: &world.chain, revoked: &[] };
    let seal_with = |plan: &Plan<'_>, content: &[u8]| {
        let out = file_of(b"");
        seal(&out, plan, &mut |_| Ok(Secret::copy_of(content)?), world.signer())
    };
    assert!(matches!(seal_with(&plan, b"hunter3\n"), Err(SealError::Changed(path)) if path.to_string() == "nut/pin"));
    assert!(matches!(seal_with(&plan, b""), Err(SealError::Changed(_))));
    assert!(matches!(seal_with(&Plan { recipients: &[], ..plan }, b""), Err(SealError::NoRecipient)));
    let refuses = seal(&file_of(b""), &plan, &mut |_| Err("not granted".into()), world.signer());
    assert_eq!(refuses.unwrap_err().to_string(), "'nut/pin': not granted");
    let mut world2 = World::new();
    world2.rotate();
    let chain = Plan { chain: &world2.chain, ..plan };
    assert!(matches!(seal_with(&chain, b""), Err(SealError::Chain(_))));
}
