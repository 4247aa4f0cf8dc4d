//! Fixtures were made by openssl 3.0 and OpenSSH for these tests and protect nothing.

use super::*;
use proptest::prelude::*;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/", $name)).as_slice()
    };
}

const CERT: &[u8] = fixture!("ed25519.cert.pem");
const KEY: &[u8] = fixture!("ed25519.pk8.pem");

fn looked_at(name: &str, content: &[u8]) -> Result<ContentKind, Refusal> {
    check(&Name::parse(name.as_bytes()).unwrap(), content)
}

/// The bytes inside the first block.
fn der_of(pem: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(pem).unwrap();
    let body: String =
        text.lines().skip_while(|l| !l.starts_with("-----BEGIN")).skip(1).take_while(|l| !l.starts_with('-')).collect();
    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap()
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn real_files_are_what_they_are() {
    use ContentKind::*;
    for (name, content, kind) in [
        ("a.pem", CERT, Certificates),
        ("a.crt", CERT, Certificates),
        ("a.CER", CERT, Certificates),
        ("a.crt", fixture!("crl.pem"), Certificates),
        ("a.crt", fixture!("pkcs7.pem"), Certificates),
        ("a.key", KEY, PrivateKey),
        ("a.pem", KEY, PrivateKey),
        ("a.key", fixture!("rsa.pkcs1.pem"), PrivateKey),
        ("a.key", fixture!("rsa.dek.pem"), PrivateKey),
        ("a.key", fixture!("rsa.pk8.pem"), PrivateKey),
        ("a.key", fixture!("ec.sec1.pem"), PrivateKey),
        ("a.key", fixture!("ec.pk8.pem"), PrivateKey),
        ("a.key", fixture!("ec.explicit.pem"), PrivateKey),
        ("a.key", fixture!("dsa.pem"), PrivateKey),
        ("a.key", fixture!("pbes1.pem"), PrivateKey),
        ("a.key", fixture!("pbes2.pem"), PrivateKey),
        ("a.key", fixture!("openssh.pem"), PrivateKey),
        ("a.key", fixture!("openvpn.key"), PrivateKey),
        ("a.pem", fixture!("request.pem"), OtherPem),
        ("a.pem", fixture!("public.pem"), OtherPem),
        ("a.pem", fixture!("dh.pem"), OtherPem),
        ("a.key", fixture!("wireguard.key"), KeyText(super::KeyText::WireGuard)),
        ("a.key", fixture!("rndc.key"), KeyText(super::KeyText::Tsig)),
        ("a.key", fixture!("trust-anchor.key"), KeyText(super::KeyText::DnsRecord)),
        ("pin.txt", b"", Opaque),
        (".key", b"anything", Opaque),
        (".a.pem.swp", b"anything", Opaque),
    ] {
        assert_eq!(looked_at(name, content), Ok(kind), "{name}");
    }
    // The published example of age.
    let age = "# created: 2020\nAGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33\n";
    assert_eq!(looked_at("a.key", age.as_bytes()), Ok(KeyText(super::KeyText::Age)));
    assert!(looked_at("a.key", age.replace("GQ97", "GQ79").as_bytes()).is_err());
}

#[test]
fn mixtures_and_text_around_blocks_are_allowed() {
    let mixed = join(&[
        b"Bag Attributes\n    friendlyName: x\nKey Attributes: <No Attributes>\n",
        KEY,
        b"\n# chain\n",
        CERT,
        CERT,
    ]);
    for name in ["a.pem", "a.crt", "a.key"] {
        assert_eq!(looked_at(name, &mixed), Ok(ContentKind::KeyAndCertificates), "{name}");
    }
    let dos = String::from_utf8(CERT.to_vec()).unwrap().replace('\n', "\r\n");
    assert_eq!(looked_at("a.crt", dos.as_bytes()), Ok(ContentKind::Certificates));
    assert_eq!(looked_at("a.crt", CERT.trim_ascii_end()), Ok(ContentKind::Certificates), "no last newline");
    let unknown = b"-----BEGIN SOMETHING NEW-----\nAAAA\n-----END SOMETHING NEW-----\n";
    assert_eq!(looked_at("a.pem", unknown), Ok(ContentKind::OtherPem));
    let tpm = b"-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n";
    assert_eq!(looked_at("a.key", tpm), Ok(ContentKind::PrivateKey));
    let gpg =
        b"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: x\n\nAAAA\n=njUN\n-----END PGP PRIVATE KEY BLOCK-----\n";
    assert_eq!(looked_at("a.key", gpg), Ok(ContentKind::PrivateKey));
}

#[test]
fn der_is_taken_where_files_are_named_so_and_whole_only() {
    for pem in [CERT, fixture!("crl.pem"), fixture!("pkcs7.pem")] {
        assert_eq!(looked_at("a.crt", &der_of(pem)), Ok(ContentKind::Certificates));
        assert!(looked_at("a.key", &der_of(pem)).is_err());
    }
    for pem in [KEY, fixture!("rsa.pkcs1.pem"), fixture!("ec.explicit.pem"), fixture!("dsa.pem"), fixture!("pbes1.pem")]
    {
        let der = der_of(pem);
        assert_eq!(looked_at("a.key", &der), Ok(ContentKind::PrivateKey));
        assert!(looked_at("a.crt", &der).is_err());
        assert!(looked_at("a.pem", &der).is_err());
        assert!(looked_at("a.key", &[&der[..], b"x"].concat()).is_err(), "something behind it");
        for cut in 0..der.len() {
            assert!(looked_at("a.key", &der[..cut]).is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn a_name_must_not_promise_what_is_not_there() {
    for (name, content, says) in [
        ("a.crt", KEY, "it is PEM without a certificate (PEM or DER): it holds PRIVATE KEY"),
        ("a.key", CERT, "it holds CERTIFICATE"),
        ("a.key", fixture!("public.pem"), "it holds PUBLIC KEY"),
        ("a.pem", b"", "it is empty, and its name promises PEM"),
        ("a.crt", b" \n\n", "it is empty"),
        ("a.pem", b"hunter2\n", "it is not PEM"),
        ("a.pem", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0 x@y\n", "it is not PEM"),
        ("a.key", b"hunter2\n", "it is not a private key"),
        ("a.key", b"AAAA\n", "it is not a private key"),
        ("a.key", b"-----BEGIN HUNTER2-----\nAAAA\n-----END HUNTER2-----\n", "it holds an unknown label"),
        ("a.pem", b"-----BEGIN HUNTER2-----\nAAA\n-----END HUNTER2-----\n", "block 1 (an unknown label): its base64"),
        ("a.pem", b"-----BEGIN X-----\n-----END X-----\n", "it is empty"),
        ("a.pem", b"-----BEGIN X-----\nAAAA\n-----END Y-----\n", "line 3: the block ends with another label"),
        ("a.pem", b"x\n-----END X-----\n", "line 2: a block ends that has not begun"),
        ("a.pem", b"-----BEGIN X-----\n-----BEGIN Y-----\n", "line 2: a block begins before"),
        ("a.pem", b"-----BEGIN X-----\nAAAA\n", "the last block has no end"),
        ("a.pem", b"-----BEGIN X----\nAAAA\n", "line 1: it begins with '-----'"),
        (
            "a.pem",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "block 1 (CERTIFICATE): what it holds",
        ),
    ] {
        let refused = looked_at(name, content).unwrap_err().to_string();
        assert!(refused.contains(says), "{name}: {refused}");
        assert!(!refused.to_lowercase().contains("hunter2") && !refused.contains('\n'), "{refused}");
    }
    let many = b"-----BEGIN X-----\nAAAA\n-----END X-----\n".repeat(BLOCKS_MAX);
    assert!(looked_at("a.pem", &many).is_ok());
    assert_eq!(looked_at("a.pem", &join(&[&many, CERT])), Err(Refusal::TooMany));
}

/// A writer that was killed leaves a beginning: it must be found, wherever it ends.
#[test]
fn a_beginning_is_never_taken_for_the_whole() {
    for (name, whole) in [
        ("a.pem", CERT),
        ("a.key", KEY),
        ("a.key", fixture!("rsa.pkcs1.pem")),
        ("a.key", fixture!("rsa.dek.pem")),
        ("a.key", fixture!("ec.sec1.pem")),
        ("a.key", fixture!("openssh.pem")),
        ("a.key", fixture!("openvpn.key")),
        ("a.key", fixture!("wireguard.key")),
        ("a.key", fixture!("rndc.key")),
    ] {
        for cut in 0..whole.trim_ascii_end().len() {
            assert!(looked_at(name, &whole[..cut]).is_err(), "{name} of {} bytes cut at {cut}", whole.len());
        }
    }
    let two = join(&[CERT, CERT]);
    for cut in CERT.len() + 1..two.trim_ascii_end().len() {
        assert!(looked_at("a.pem", &two[..cut]).is_err(), "the second cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_in_a_key_never_panics() {
    for fixture in [CERT, KEY, fixture!("openssh.pem"), fixture!("crl.pem"), fixture!("rndc.key")] {
        for bit in 0..fixture.len() * 8 {
            let mut flipped = fixture.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = looked_at("a.key", &flipped);
        }
        let der = der_of(CERT);
        for bit in 0..der.len() * 8 {
            let mut flipped = der.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = looked_at("a.crt", &flipped);
        }
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), suffix in "pem|crt|key") {
        let _ = looked_at(&format!("a.{suffix}"), &bytes);
        // Random bytes are DER of nothing known.
        prop_assume!(!bytes.is_empty() && bytes[0] != 0x30);
        prop_assert!(looked_at("a.crt", &bytes).is_err());
    }

    #[test]
    fn garbage_in_a_frame_never_panics(
        label in "CERTIFICATE|PRIVATE KEY|OPENSSH PRIVATE KEY|X509 CRL|EC PRIVATE KEY|PUBLIC KEY|PGP PRIVATE KEY BLOCK",
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        text in "[ -~\n]{0,80}",
    ) {
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &bytes);
        for body in [&base64, &text] {
            let _ = looked_at("a.pem", format!("{text}\n-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").as_bytes());
        }
    }

    #[test]
    fn texts_never_panic(text in "[ -~\n]{0,200}", words in "(key|\"|;|[{}]|#|/|[*]|DNSKEY|IN|[(]|[)]| |\n|AGE-SECRET-KEY-1|A){0,40}") {
        let _ = looked_at("a.key", text.as_bytes());
        let _ = looked_at("a.key", words.as_bytes());
    }
}
