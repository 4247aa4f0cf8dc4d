//! What is cut, bent or rubbish.

use super::*;
use proptest::prelude::*;
use std::sync::OnceLock;

/// Contents of every form, to be cut and bent.
fn specimens() -> &'static Vec<Vec<u8>> {
    static ALL: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let made = made();
        let dir = made.dir.path();
        openssl(dir, "pkcs8 -topk8 -v2 aes-256-cbc -iter 1 -passout file:pass -in p256.key -out s1");
        openssl(dir, "pkcs8 -topk8 -v2 aes-256-cbc -iter 1 -passout file:pass -in p256.key -outform DER -out s2");
        openssl(dir, "ec -aes256 -passout file:pass -in p384.key -out s3");
        openssl(dir, "rsa -traditional -in rsa1024.key -outform DER -out s4");
        openssl(dir, "ec -in p521.key -outform DER -out s5");
        openssl(dir, "pkcs12 -export -legacy -iter 1 -inkey p256.key -in p256.crt -passout file:pass -out s6");
        openssl(dir, "pkcs12 -export -iter 1 -inkey p256.key -in p256.crt -passout file:pass -out s7");
        openssl(dir, "x509 -in p256.crt -outform DER -out s8");
        openssl(dir, "crl2pkcs7 -nocrl -certfile p256.crt -outform DER -out s9");
        openssl(dir, "pkcs8 -topk8 -nocrypt -in ed25519.key -outform DER -out s10");
        let mut all: Vec<Vec<u8>> = (1..=10).map(|n| made.read(&format!("s{n}"))).collect();
        all.push([made.read("p256.crt"), made.read("p256.key"), made.read("rsa2048.crt")].concat());
        let key = Key::generate(crate::model::KeyType::EcdsaP256).unwrap();
        let names = ["a.example.org".parse().unwrap()];
        let csr = request(&key, &Subject::common("a"), &names).unwrap();
        all.extend(keyfile::public_blocks(csr.as_bytes(), &["CERTIFICATE REQUEST"]).unwrap());
        all
    })
}

/// Everything that reads, on anything.
fn read_anyhow(content: &[u8]) {
    let passphrase = passphrase("correct horse");
    let _ = Pile::read(content, None);
    if let Ok(pile) = Pile::read(content, Some(&passphrase)) {
        for one in &pile.certificates {
            let _ = Chain::order(one, &pile.certificates);
            let _ = (one.to_pem(), one.called(), one.check_time(NOW));
        }
        for key in &pile.keys {
            let _ = key.sign(b"x");
        }
    }
    let _ = Asked::read(content);
    let _ =
        (Key::from_der(content).is_ok(), Certificate::from_der(content).is_ok(), PublicKey::from_spki(content).is_ok());
}

/// Rounds of a passphrase are in the content too: bending them makes hours of a test.
fn costs_little(content: &[u8], at: usize) -> bool {
    let slow = [b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c".as_slice(), b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01"];
    !slow.iter().any(|oid| content.windows(oid.len()).take(at + 1).rev().take(64).any(|w| w == *oid))
}

#[test]
fn whatever_is_cut_off_is_refused_and_nothing_panics() {
    for content in specimens() {
        for len in 0..content.len() {
            read_anyhow(&content[..len]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn bent_content_never_panics(which in 0usize..12, at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut content = specimens()[which].clone();
        let at = at.index(content.len());
        if costs_little(&content, at) {
            content[at] = to;
        }
        read_anyhow(&content);
    }

    #[test]
    fn rubbish_never_panics(mut content in prop::collection::vec(any::<u8>(), 0..400), der in any::<bool>()) {
        if der && content.len() > 4 {
            let len = content.len() - 4;
            content[..4].copy_from_slice(&[0x30, 0x82, (len >> 8) as u8, len as u8]);
        }
        read_anyhow(&content);
    }
}
