//! Bundles that are refused before anything is decrypted: each with its reason, and the identity never asked.

use super::*;
use crate::bundle::parts::Parts;
use crate::bundle::tar::{BLOCK, END, Member, SIZE_MAX};
use std::io::Write;
use std::os::unix::fs::FileExt;

/// The code of the refusal, of a bundle that is opened as an import would: what is refused has not made the identity work.
pub(in crate::bundle) fn code(world: &World, file: &File, trust: &Trust) -> &'static str {
    let before = world.identity.1.get();
    match check(file, trust, NOW).and_then(|checked| checked.open(&world.identity)) {
        Ok(_) => {
            assert_eq!(world.identity.1.get(), before + 1, "the identity counts");
            "taken"
        }
        Err(refusal) => {
            assert_eq!(world.identity.1.get(), before, "something was decrypted");
            assert!(!refusal.to_string().is_empty());
            refusal.code()
        }
    }
}

pub(in crate::bundle) fn reason(file: &File, trust: &Trust) -> String {
    check(file, trust, NOW).err().map_or_else(|| "taken".into(), |r| r.to_string())
}

pub(in crate::bundle) fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

pub(in crate::bundle) fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A tar of any members.
pub(in crate::bundle) fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in members {
        let member = Member { name: (*name).into(), size: content.len() as u64 };
        put(&mut out, &member.header().unwrap(), content);
    }
    out.extend(END);
    out
}

pub(in crate::bundle) fn put(out: &mut Vec<u8>, header: &[u8; BLOCK], content: &[u8]) {
    out.extend(header);
    out.extend(content);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// A header after a change, with a checksum that fits again.
pub(in crate::bundle) fn header(name: &str, size: u64, change: impl Fn(&mut [u8; BLOCK])) -> [u8; BLOCK] {
    let mut block = Member { name: "x".into(), size: 0 }.header().unwrap();
    block[..100].fill(0);
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    change(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// The manifest, its signature and the payload of a good bundle.
pub(in crate::bundle) fn taken_apart(file: &File) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let parts = Parts::read(file, file.metadata().unwrap().len()).unwrap();
    let mut payload = vec![0; usize::try_from(parts.payload_len).unwrap()];
    file.read_exact_at(&mut payload, parts.payload_at).unwrap();
    (parts.manifest, parts.signature, payload)
}

/// A bundle of these three, whatever is in them.
pub(in crate::bundle) fn put_together(manifest: &[u8], signature: &[u8], payload: &[u8]) -> File {
    file_of(&archive(&[("manifest.json", manifest), ("manifest.json.sig", signature), ("payload.age", payload)]))
}

/// A manifest in which one text was replaced by another, signed by the world's console.
pub(in crate::bundle) fn forged(world: &World, file: &File, from: &str, to: &str) -> File {
    let (manifest, _, payload) = taken_apart(file);
    let text = String::from_utf8(manifest).unwrap();
    assert!(text.contains(from), "{text}");
    let text = text.replacen(from, to, 1);
    let signature = world.signer().sign(BUNDLE_NAMESPACE, text.as_bytes()).unwrap();
    put_together(text.as_bytes(), signature.armor().as_bytes(), &payload)
}

#[test]
fn one_flipped_bit_anywhere_is_refused_with_what_it_hit() {
    let world = World::new();
    let (good, trust) = (world.seal(), world.trust(0));
    let bytes = bytes_of(&good);
    let (manifest, signature, payload) = taken_apart(&good);
    let signature_at = BLOCK + manifest.len().next_multiple_of(BLOCK);
    let payload_at = signature_at + BLOCK + signature.len().next_multiple_of(BLOCK) + BLOCK;
    let mut seen = std::collections::BTreeSet::new();
    // Every byte of what is small, and each 97th of the payload.
    for at in (0..payload_at).chain((payload_at..bytes.len()).step_by(97)).chain(bytes.len() - 1100..bytes.len()) {
        let bit = 1 << (at % 8);
        good.write_all_at(&[bytes[at] ^ bit], at as u64).unwrap();
        let code = code(&world, &good, &trust);
        good.write_all_at(&[bytes[at]], at as u64).unwrap();
        let within = |start: usize, len: usize| (start..start + len).contains(&at);
        let expected: &[&str] = if within(BLOCK, manifest.len()) {
            &["not-a-bundle", "newer-format", "other-console", "other-host", "bad-signature"]
        } else if within(signature_at + BLOCK, signature.len()) {
            &["bad-signature"]
        } else if within(payload_at, payload.len()) {
            &["other-payload"]
        } else {
            &["not-a-bundle"]
        };
        assert!(expected.contains(&code), "at {at}: {code}");
        seen.insert(code);
    }
    assert!(seen.len() >= 4, "{seen:?}");
    assert_eq!(code(&world, &good, &trust), "taken", "the bundle itself is a good one");
}

#[test]
fn a_truncated_bundle_and_one_with_more_behind_it_are_refused() {
    let world = World::new();
    let (good, trust) = (world.seal(), world.trust(0));
    let len = good.metadata().unwrap().len();
    for cut in (0..len).step_by(97).chain((0..len).step_by(512)).chain(len - 3..len) {
        let short = file_of(&bytes_of(&good)[..usize::try_from(cut).unwrap()]);
        assert_eq!(code(&world, &short, &trust), "not-a-bundle", "at {cut}");
    }
    for more in [1, 512, 10_240] {
        let mut bytes = bytes_of(&good);
        bytes.resize(bytes.len() + more, 0);
        assert_eq!(code(&world, &file_of(&bytes), &trust), "not-a-bundle", "{more} more");
    }
}

#[test]
fn a_bundle_for_another_host_or_of_another_console_is_refused() {
    let mut world = World::new();
    let trust = world.trust(0);
    world.host = HostName::parse("h2").unwrap();
    assert_eq!(reason(&world.seal(), &trust), "it is for the host h2, and this is h1");
    assert_eq!(code(&world, &world.seal(), &trust), "other-host");
    world.console = ConsoleName::parse("other").unwrap();
    assert_eq!(code(&world, &world.seal(), &trust), "other-console");
    // The name is looked at before the signature is: whoever it is from, it is not for us.
    let wrong = forged(&world, &world.seal(), "\"serial\": 10", "\"serial\": 11");
    world.keys.push(KeySigner::generate().unwrap());
    assert_eq!(code(&world, &wrong, &trust), "other-console");
}

#[test]
fn what_was_taken_is_not_taken_again_nor_anything_older() {
    let mut world = World::new();
    let (first, trust) = (world.seal(), world.trust(0));
    let trust = check(&first, &trust, NOW).unwrap().new_trust().clone();
    assert_eq!(code(&world, &first, &trust), "replayed");
    world.serial = 9;
    assert_eq!(code(&world, &world.seal(), &trust), "older");
    assert_eq!(reason(&world.seal(), &trust), "it is older than the last one taken: its serial is 9, that one's 10");
    world.serial = 11;
    assert_eq!(code(&world, &world.seal(), &trust), "taken");
}

#[test]
fn a_serial_that_no_clock_and_no_last_one_leads_to_is_refused() {
    let mut world = World::new();
    let trust = world.trust(0);
    let clock = NOW.millis();
    for (serial, last, expected) in [
        (u64::MAX, 10, "ahead"),
        (clock + 300_001, 10, "ahead"),
        (clock + 300_000, 10, "taken"),
        (clock, 10, "taken"),
        (11, 10, "taken"),
        // A host whose clock is years behind what it took before goes on, one at a time.
        (clock + 9_000_001, clock + 9_000_000, "taken"),
        (clock + 9_000_002, clock + 9_000_000, "ahead"),
        (u64::MAX, u64::MAX - 1, "taken"),
    ] {
        world.serial = serial;
        let trust = Trust { last_serial: last, ..trust.clone() };
        assert_eq!(code(&world, &world.seal(), &trust), expected, "{serial} after {last}");
    }
    world.serial = u64::MAX;
    assert!(reason(&world.seal(), &trust).contains("one of the two clocks is or was wrong"));
}

#[test]
fn a_bundle_has_its_time() {
    let world = World::new();
    let (trust, head) = (world.trust(0), world.head());
    let at = |secs: i64| Timestamp { secs: NOW.secs + secs, nanos: 0 };
    let bundle = |created, expires| world.seal_as(&Head { created, expires, ..head.clone() }, world.signer());
    assert_eq!(code(&world, &bundle(at(-100), at(0)), &trust), "expired", "from that moment on");
    assert_eq!(code(&world, &bundle(at(-100), at(1)), &trust), "taken");
    assert_eq!(code(&world, &bundle(at(301), at(1000)), &trust), "future");
    assert_eq!(code(&world, &bundle(at(300), at(1000)), &trust), "taken", "clocks may differ by so much");
    assert_eq!(code(&world, &bundle(at(10), at(10)), &trust), "not-a-bundle", "expires when it is made");
    // Of two reasons the earlier in the order is told.
    let stale = Trust { last_serial: 10, ..trust };
    assert_eq!(code(&world, &bundle(at(-100), at(0)), &stale), "replayed");
}

#[test]
fn a_signature_is_the_signer_s_over_this_manifest_for_this_purpose() {
    let world = World::new();
    let (good, trust) = (world.seal(), world.trust(0));
    let (manifest, signature, payload) = taken_apart(&good);
    let put = |signature: &str| put_together(&manifest, signature.as_bytes(), &payload);
    let by = |key: &KeySigner, namespace: &str| put(&key.sign(namespace, &manifest).unwrap().armor());
    let stranger = KeySigner::generate().unwrap();
    assert_eq!(code(&world, &by(world.signer(), BUNDLE_NAMESPACE), &trust), "taken");
    assert_eq!(code(&world, &by(&stranger, BUNDLE_NAMESPACE), &trust), "bad-signature");
    assert_eq!(code(&world, &by(world.signer(), CHAIN_NAMESPACE), &trust), "bad-signature");
    assert_eq!(code(&world, &by(world.signer(), "file"), &trust), "bad-signature");
    let of_another = world.signer().sign(BUNDLE_NAMESPACE, b"another manifest").unwrap();
    assert_eq!(code(&world, &put(&of_another.armor()), &trust), "bad-signature");
    let armor = String::from_utf8(signature).unwrap();
    for (odd, what) in [
        (String::new(), "unsigned"),
        ("\n".repeat(armor.len()), "unsigned"),
        (armor.replace('\n', "\r\n"), "bad-signature"),
        (format!("{armor}\n"), "bad-signature"),
        (format!("#{armor}"), "bad-signature"),
        ("x".repeat(4096), "bad-signature"),
        ("x".repeat(4097), "not-a-bundle"),
    ] {
        assert_eq!(code(&world, &put(&odd), &trust), what, "{odd:?}");
    }
    // A manifest that names the stranger, signed by him: whole, and from nobody this host knows.
    let own = world.signer().public().to_string();
    let text = String::from_utf8(manifest.clone()).unwrap().replace(&own, &stranger.public().to_string());
    let signed = stranger.sign(BUNDLE_NAMESPACE, text.as_bytes()).unwrap().armor();
    let unknown = put_together(text.as_bytes(), signed.as_bytes(), &payload);
    assert_eq!(code(&world, &unknown, &trust), "unknown-signer");
}

#[test]
fn the_manifest_of_one_with_the_payload_of_another_is_refused() {
    let mut world = World::new();
    let (one, trust) = (world.seal(), world.trust(0));
    world.files[0].1 = b"hunter3\n".to_vec();
    let same_size = world.seal();
    world.files[0].1 = vec![b'x'; 3000];
    let larger = world.seal();
    let (manifest, signature, _) = taken_apart(&one);
    for other in [same_size, larger] {
        let mixed = put_together(&manifest, &signature, &taken_apart(&other).2);
        assert_eq!(code(&world, &mixed, &trust), "other-payload");
    }
}

#[test]
fn a_manifest_is_read_strictly_even_if_it_is_signed() {
    let world = World::new();
    let (good, trust) = (world.seal(), world.trust(0));
    let deep = format!("\"serial\": {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    for (from, to, expected) in [
        ("\"version\": 1", "\"version\": 2", "newer-format"),
        ("\"version\": 1", "\"version\": 2, \"more\": {}", "newer-format"),
        ("\"version\": 1", "\"version\": 0", "not-a-bundle"),
        ("\"version\": 1", "\"version\": -1", "not-a-bundle"),
        ("\"version\": 1", "\"version\": \"1\"", "not-a-bundle"),
        ("pinfold-bundle", "pinfold-bumble", "not-a-bundle"),
        ("\"serial\": 10", "\"serial\": 10, \"more\": 1", "not-a-bundle"),
        ("\"serial\": 10", "\"serial\": 10, \"serial\": 11", "not-a-bundle"),
        ("\"serial\": 10", "\"serial\": 1e3", "not-a-bundle"),
        ("\"serial\": 10", &deep, "not-a-bundle"),
        ("\"host\": \"h1\"", "\"host\": \"../h1\"", "not-a-bundle"),
        ("\"host\": \"h1\"", "\"host\": \"h1\", \"console\": \"x\"", "not-a-bundle"),
        ("000Z\"", "000+01:00\"", "not-a-bundle"),
        ("\"revoked\": []", "\"revoked\": [\"SHA256:x\"]", "not-a-bundle"),
        ("ssh-ed25519 ", "ssh-rsa ", "not-a-bundle"),
        ("\n}\n", "\n}\n{}", "not-a-bundle"),
    ] {
        let forged = forged(&world, &good, from, to);
        assert_eq!(code(&world, &forged, &trust), expected, "{from} → {}", &to[..to.len().min(40)]);
    }
    let fingerprint = world.signer().public().fingerprint();
    let many = |n: usize| format!("\"revoked\": [{}]", vec![format!("\"{fingerprint}\""); n].join(","));
    assert_eq!(code(&world, &forged(&world, &good, "\"revoked\": []", &many(1024)), &trust), "revoked-signer");
    assert_eq!(code(&world, &forged(&world, &good, "\"revoked\": []", &many(1025)), &trust), "not-a-bundle");
}

#[test]
fn what_is_too_large_is_not_even_read() {
    let world = World::new();
    let trust = world.trust(0);
    let sparse = tempfile::tempfile().unwrap();
    sparse.set_len(10 << 30).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(code(&world, &sparse, &trust), "too-large");
    // A good beginning does not help, and neither do large bounds: holes are no tar.
    let all = Trust { max_size: u64::MAX, ..trust.clone() };
    assert_eq!(code(&world, &sparse, &all), "not-a-bundle");
    let good = world.seal();
    good.set_len(10 << 30).unwrap();
    assert_eq!(code(&world, &good, &trust), "too-large");
    assert_eq!(code(&world, &good, &all), "not-a-bundle");
    assert!(begun.elapsed().as_secs() < 5, "10 GiB were read");
    let good = world.seal();
    let len = good.metadata().unwrap().len();
    assert_eq!(code(&world, &good, &Trust { max_size: len - 1, ..trust.clone() }), "too-large");
    assert_eq!(code(&world, &good, &Trust { max_size: len, ..trust }), "taken");
}

#[test]
fn a_tar_that_is_not_ours_is_refused_by_what_is_odd_in_it() {
    let world = World::new();
    let (good, trust) = (world.seal(), world.trust(0));
    let (manifest, signature, payload) = taken_apart(&good);
    let with_first = |block: [u8; BLOCK]| {
        let mut bytes = Vec::new();
        put(&mut bytes, &block, &manifest);
        bytes.extend(archive(&[("manifest.json.sig", &signature), ("payload.age", &payload)]));
        file_of(&bytes)
    };
    let size = manifest.len() as u64;
    let kind = |letter: u8| move |block: &mut [u8; BLOCK]| block[156] = letter;
    let same = |_: &mut [u8; BLOCK]| {};
    let name = "manifest.json";
    assert_eq!(code(&world, &with_first(header(name, size, same)), &trust), "taken");
    for (block, told) in [
        (header("../manifest.json", size, same), "leads out of the archive: '../manifest.json'"),
        (header("a/../../etc/passwd", size, same), "leads out of the archive"),
        (header("/etc/passwd", size, same), "leads out of the archive: '/etc/passwd'"),
        (header("./manifest.json", size, same), "leads out of the archive"),
        (header("manifest.json.sig", size, same), "'manifest.json.sig' is where manifest.json should be"),
        (header(name, size, kind(b'1')), "'manifest.json' is a hard link"),
        (header(name, size, kind(b'2')), "'manifest.json' is a symbolic link"),
        (header(name, size, kind(b'3')), "'manifest.json' is a character device"),
        (header(name, size, kind(b'4')), "'manifest.json' is a block device"),
        (header(name, size, kind(b'5')), "'manifest.json' is a directory"),
        (header(name, size, kind(b'6')), "'manifest.json' is a pipe"),
        (header(name, size, kind(b'7')), "more in it than a name and a size"),
        (header(name, size, kind(0)), "more in it than a name and a size"),
        (header("pax", size, kind(b'x')), "a tar extension record (type 'x')"),
        (header("pax", size, kind(b'g')), "a tar extension record (type 'g')"),
        (header("././@LongLink", size, kind(b'L')), "a tar extension record (type 'L')"),
        (header(name, size, kind(b'S')), "a tar extension record (type 'S')"),
        (header(name, size, |b| b[257..265].copy_from_slice(b"ustar  \0")), "more in it than a name and a size"),
        (header(name, size, |b| b[257..265].fill(0)), "not a POSIX tar header"),
        (header(name, size, |b| b[136] = b'7'), "more in it than a name and a size"),
        (header(name, size, |b| b[100..107].copy_from_slice(b"0004755")), "more in it than a name and a size"),
        (header(name, size, |b| b[265..269].copy_from_slice(b"root")), "more in it than a name and a size"),
        (header(name, size, |b| b[157] = b'x'), "more in it than a name and a size"),
        (header(name, size, |b| b[505] = 1), "more in it than a name and a size"),
        (header(name, size, |b| b[50] = b'x'), "a member's name is not text"),
        (header(name, size, |b| b[..2].copy_from_slice(b"\xff\xfe")), "a member's name is not text"),
        (header(name, size, |b| b[345..348].copy_from_slice(b"a/b")), "more in it"),
        // GNU's base-256, minus one, nothing, and sizes that are none.
        (
            header(name, size, |b| b[124..136].copy_from_slice(b"\x80\0\0\0\0\0\0\0\0\0\x02\0")),
            "is not one that a tar holds",
        ),
        (header(name, size, |b| b[124..136].fill(0xff)), "is not one that a tar holds"),
        (header(name, size, |b| b[124..136].fill(0)), "is not one that a tar holds"),
        (header(name, size, |b| b[124..136].copy_from_slice(b"-0000000001\0")), "is not one that a tar holds"),
        (header(name, SIZE_MAX, same), "its manifest.json is too large"),
        (header(name, 3 << 20, same), "its manifest.json is too large"),
        (header(name, 1 << 20, same), "it ends within manifest.json"),
    ] {
        let file = with_first(block);
        assert_eq!(code(&world, &file, &trust), "not-a-bundle", "{told}");
        assert!(reason(&file, &trust).contains(told), "{told}: {}", reason(&file, &trust));
    }
    let mut unsummed = header(name, size, same);
    unsummed[150] = b'7';
    assert!(reason(&with_first(unsummed), &trust).contains("checksum"));
}

#[test]
fn members_that_are_twice_there_missing_too_many_or_out_of_order_are_refused() {
    let world = World::new();
    let (good, trust) = (world.seal(), world.trust(0));
    let (manifest, signature, payload) = taken_apart(&good);
    let (m, s, p) =
        (("manifest.json", &manifest[..]), ("manifest.json.sig", &signature[..]), ("payload.age", &payload[..]));
    for (members, told) in [
        (vec![], "it has no manifest.json"),
        (vec![m], "it has no manifest.json.sig"),
        (vec![m, s], "it has no payload.age"),
        (vec![m, m, s, p], "'manifest.json' is where manifest.json.sig should be"),
        (vec![m, s, p, p], "than a tar's end"),
        (vec![m, s, p, ("more", b"x")], "than a tar's end"),
        (vec![s, m, p], "'manifest.json.sig' is where manifest.json should be"),
        (vec![m, p, s], "'payload.age' is where manifest.json.sig should be"),
    ] {
        let file = file_of(&archive(&members));
        assert_eq!(code(&world, &file, &trust), "not-a-bundle", "{told}");
        assert!(reason(&file, &trust).contains(told), "{told}: {}", reason(&file, &trust));
    }
    // A million members: the second is the last that is looked at.
    let one = archive(&[("manifest.json", b"")])[..BLOCK].to_vec();
    let million = file_of(&one.repeat(1_000_000));
    let begun = std::time::Instant::now();
    let all = Trust { max_size: u64::MAX, ..trust };
    assert!(reason(&million, &all).contains("'manifest.json' is where manifest.json.sig should be"));
    assert!(begun.elapsed().as_secs() < 5);
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let world = World::new();
    for path in ["/dev/zero", "/tmp"] {
        assert_eq!(code(&world, &File::open(path).unwrap(), &world.trust(0)), "not-a-bundle", "{path}");
    }
    assert_eq!(console_of(&world.seal(), 1 << 20).unwrap(), world.console);
    assert_eq!(console_of(&world.seal(), 100).unwrap_err().code(), "too-large");
}
