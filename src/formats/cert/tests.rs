//! The matching matrix, with openssl(1) as the other side: every type of key in every encoding, with its own certificate and
//! with those of all others.

use super::*;
use crate::secret::Secret;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const NOW: i64 = 1_800_000_000;

/// Runs openssl(1) in a folder.
fn openssl(dir: &Path, args: &str) {
    let out = Command::new("openssl").args(args.split_whitespace()).current_dir(dir).stdin(Stdio::null()).output();
    let out = out.expect("these tests need openssl");
    assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Keys and certificates of one name each: `NAME.key` (PKCS#8), `NAME.crt`.
struct Made {
    dir: tempfile::TempDir,
    names: Vec<&'static str>,
}

impl Made {
    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    fn certificate(&self, name: &str) -> Certificate {
        Pile::read(&self.read(&format!("{name}.crt")), None).unwrap().certificates.remove(0)
    }
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let kinds = [
            ("rsa1024", "-algorithm RSA -pkeyopt rsa_keygen_bits:1024"),
            ("rsa2048", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
            ("rsa3072", "-algorithm RSA -pkeyopt rsa_keygen_bits:3072"),
            ("rsapss", "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048"),
            ("p256", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
            ("p256b", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
            ("p384", "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"),
            ("p521", "-algorithm EC -pkeyopt ec_paramgen_curve:P-521"),
            ("ed25519", "-algorithm ED25519"),
        ];
        for (name, how) in kinds {
            openssl(dir.path(), &format!("genpkey {how} -out {name}.key"));
            openssl(
                dir.path(),
                &format!("req -x509 -key {name}.key -subj /CN={name}.example.org -days 30 -out {name}.crt"),
            );
        }
        std::fs::write(dir.path().join("pass"), "correct horse").unwrap();
        Made { dir, names: kinds.iter().map(|(name, _)| *name).collect() }
    })
}

fn passphrase(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

/// The one key in a file, of the encoding at hand; and that a wrong passphrase, and none, are told apart from rubbish.
fn the_key(content: &[u8], encrypted: bool, what: &str) -> Key {
    if encrypted {
        let error = |p: Option<&Secret>| {
            let pile = Pile::read(content, p).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(pile.keys.is_empty(), "{what}: opened without its passphrase");
            pile.unread[0].why.clone()
        };
        assert_eq!(error(None), CertError::NeedsPassphrase, "{what}");
        assert_eq!(error(Some(&passphrase("wrong"))), CertError::WrongPassphrase, "{what}");
    }
    let pile = Pile::read(content, Some(&passphrase("correct horse"))).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(pile.unread, [], "{what}");
    let [key] = <[Key; 1]>::try_from(pile.keys).unwrap_or_else(|k| panic!("{what}: {} keys", k.len()));
    key
}

/// Right with its own certificate, wrong with every other.
fn assert_matches_its_own_alone(key: &Key, name: &str, what: &str) {
    for other in &made().names {
        assert_eq!(*key.public() == made().certificate(other).public, *other == name, "{what} with {other}.crt");
    }
}

#[test]
fn every_encoding_of_every_key_matches_its_own_certificate_alone() {
    let made = made();
    let dir = made.dir.path();
    let mut tried = 0;
    for name in &made.names {
        let ec = name.starts_with('p');
        let rsa = name.starts_with("rsa") && *name != "rsapss";
        // File, arguments behind `openssl`, whether it is encrypted.
        let mut forms = vec![
            ("pk8.pem".to_owned(), format!("pkcs8 -topk8 -nocrypt -in {name}.key"), false),
            ("pk8.der".to_owned(), format!("pkcs8 -topk8 -nocrypt -in {name}.key -outform DER"), false),
        ];
        for (form, how) in [
            ("aes256", "-v2 aes-256-cbc"),
            ("aes128", "-v2 aes-128-cbc"),
            ("des3", "-v2 des3"),
            ("sha1", "-v2 aes-256-cbc -v2prf hmacWithSHA1"),
            ("sha512", "-v2 aes-256-cbc -v2prf hmacWithSHA512"),
            ("scrypt", "-scrypt"),
            ("pbe3des", "-v1 PBE-SHA1-3DES"),
            ("pbemd5", "-v1 PBE-MD5-DES -provider legacy -provider default"),
        ] {
            let how = format!("pkcs8 -topk8 {how} -passout file:pass -in {name}.key");
            forms.push((format!("{form}.pem"), how.clone(), true));
            forms.push((format!("{form}.der"), how + " -outform DER", true));
        }
        if ec || rsa {
            let tool = if ec { "ec" } else { "rsa" };
            let plain = if ec { "ec" } else { "rsa -traditional" };
            forms.push(("old.pem".into(), format!("{plain} -in {name}.key"), false));
            forms.push(("old.der".into(), format!("{plain} -in {name}.key -outform DER"), false));
            for cipher in ["aes256", "aes192", "aes128", "des3"] {
                let old = if ec { "" } else { " -traditional" };
                forms.push((
                    format!("{cipher}.dek.pem"),
                    format!("{tool}{old} -{cipher} -passout file:pass -in {name}.key"),
                    true,
                ));
            }
        }
        if ec {
            forms.push(("explicit.pem".into(), format!("ec -param_enc explicit -in {name}.key"), false));
            forms.push(("nopub.pem".into(), format!("ec -no_public -in {name}.key"), false));
        }
        for (form, args, encrypted) in forms {
            let file = format!("{name}.{form}");
            openssl(dir, &format!("{args} -out {file}"));
            let key = the_key(&made.read(&file), encrypted, &file);
            assert_matches_its_own_alone(&key, name, &file);
            tried += 1;
        }
    }
    assert!(tried > 190, "only {tried} encodings were tried");
}

#[test]
fn pkcs12_gives_key_and_chain_old_ciphers_too() {
    let made = made();
    let dir = made.dir.path();
    for name in &made.names {
        for (form, how) in [
            ("new", "-keypbe AES-256-CBC -certpbe AES-256-CBC -macalg sha256"),
            ("rc2", "-legacy"),
            ("3des", "-keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1"),
            ("plaincert", "-certpbe NONE"),
        ] {
            let file = format!("{name}.{form}.p12");
            openssl(
                dir,
                &format!(
                    "pkcs12 -export {how} -inkey {name}.key -in {name}.crt -certfile p256.crt -passout file:pass -out {file}"
                ),
            );
            let content = made.read(&file);
            let key = the_key(&content, true, &file);
            assert_matches_its_own_alone(&key, name, &file);
            let pile = Pile::read(&content, Some(&passphrase("correct horse"))).unwrap();
            assert!(pile.certificates.contains(&made.certificate(name)), "{file}");
            assert!(pile.certificates.contains(&made.certificate("p256")), "{file}");
        }
    }
}

#[test]
fn pkcs7_gives_its_certificates() {
    let made = made();
    openssl(made.dir.path(), "crl2pkcs7 -nocrl -certfile p256.crt -certfile rsa2048.crt -out both.p7b");
    openssl(made.dir.path(), "crl2pkcs7 -nocrl -certfile p384.crt -outform DER -out one.p7b");
    let both = Pile::read(&made.read("both.p7b"), None).unwrap().certificates;
    assert_eq!(both.len(), 2);
    assert!(both.contains(&made.certificate("p256")) && both.contains(&made.certificate("rsa2048")));
    assert_eq!(Pile::read(&made.read("one.p7b"), None).unwrap().certificates, [made.certificate("p384")]);
}

#[test]
fn what_is_written_is_read_by_openssl_as_the_same_key() {
    let made = made();
    let dir = made.dir.path();
    for name in &made.names {
        let key = the_key(&made.read(&format!("{name}.key")), false, name);
        std::fs::write(made.path(&format!("{name}.ours.pem")), key.to_pem().unwrap().expose()).unwrap();
        openssl(dir, &format!("pkey -in {name}.key -pubout -out {name}.pub"));
        openssl(dir, &format!("pkey -in {name}.ours.pem -pubout -out {name}.ours.pub"));
        assert_eq!(made.read(&format!("{name}.pub")), made.read(&format!("{name}.ours.pub")), "{name}");
    }
}

#[test]
fn keys_of_other_kinds_are_named_as_such() {
    let made = made();
    let dir = made.dir.path();
    openssl(dir, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out k1.other");
    openssl(dir, "genpkey -algorithm ED448 -out ed448.other");
    openssl(dir, "genpkey -algorithm X25519 -out x25519.other");
    for file in ["k1.other", "ed448.other", "x25519.other"] {
        let pile = Pile::read(&made.read(file), None).unwrap();
        assert!(pile.keys.is_empty() && matches!(pile.unread[0].why, CertError::Unsupported(_)), "{file}: {pile:?}");
    }
}

#[test]
fn an_rsa_key_whose_parts_do_not_belong_together_is_no_key() {
    let der = {
        openssl(made().dir.path(), "rsa -traditional -in rsa2048.key -outform DER -out whole.der");
        made().read("whole.der")
    };
    assert!(Key::from_pkcs1(&der).is_ok());
    let mut bent = der.clone();
    *bent.last_mut().unwrap() ^= 1;
    assert!(matches!(Key::from_pkcs1(&bent), Err(CertError::Broken(_))));
}

#[test]
fn every_type_of_key_makes_a_request_that_openssl_believes() {
    let made = made();
    let dir = made.dir.path();
    let names = ["web.example.org", "*.example.org", "IP:192.0.2.1", "IP:2001:db8::1", "email:a@example.org"];
    let names: Vec<AltName> = names.iter().map(|n| n.parse().unwrap()).collect();
    let subject = Subject::parse("C=DE,O=Example \\, Inc,CN=web.example.org").unwrap();
    for (kind, word) in crate::model::KeyType::ALL {
        let key = Key::generate(kind).unwrap();
        assert_eq!((key.public().to_string(), type_like(key.public())), (word.to_owned(), Some(kind)));
        let pem = request(&key, &subject, &names).unwrap();
        std::fs::write(made.path("our.csr"), &pem).unwrap();
        openssl(dir, "req -in our.csr -verify -noout");
        let asked = Asked::read(pem.as_bytes()).unwrap();
        assert_eq!((&asked.public, &asked.names), (key.public(), &names));
        assert_eq!(asked.subject, subject);
        // And a certificate of it, by openssl, is a pair with the key.
        openssl(
            dir,
            "x509 -req -in our.csr -CA p384.crt -CAkey p384.key -set_serial 7 -copy_extensions copy -days 5 -out ours.crt",
        );
        let signed = Pile::read(&made.read("ours.crt"), None).unwrap().certificates.remove(0);
        assert_eq!((&signed.public, &signed.names), (key.public(), &names));
        assert_eq!(signed.common_name.as_deref(), Some("web.example.org"));
    }
}

#[test]
fn a_request_that_was_tampered_with_is_refused() {
    let key = Key::generate(crate::model::KeyType::EcdsaP256).unwrap();
    let pem = request(&key, &Subject::common("a"), &[]).unwrap();
    let mut der = pile::public_blocks(pem.as_bytes(), &["CERTIFICATE REQUEST"]).unwrap().remove(0);
    let at = der.windows(3).position(|w| w == [0x0c, 1, b'a']).unwrap() + 2;
    der[at] = b'b';
    assert_eq!(Asked::read(&der).unwrap_err(), CertError::BadSignature);
    assert!(Asked::read(b"").is_err());
    assert!(Asked::read(b"-----BEGIN CERTIFICATE-----\n").is_err());
}

#[test]
fn requests_of_openssls_are_signed_for_every_type_of_key() {
    let made = made();
    let dir = made.dir.path();
    let now = now();
    let ca_key = Key::generate(crate::model::KeyType::EcdsaP384).unwrap();
    let ca = Authority::init(&ca_key, &Subject::parse("CN=Lab,O=Example").unwrap(), 100, now).unwrap();
    std::fs::write(made.path("lab.crt"), ca.certificate().to_pem()).unwrap();
    for name in made.names.iter().filter(|n| **n != "rsapss") {
        openssl(
            dir,
            &format!(
                "req -new -key {name}.key -subj /CN={name} -addext subjectAltName=DNS:{name}.example.org \
                 -addext basicConstraints=CA:TRUE -out {name}.csr"
            ),
        );
        let asked = Asked::read(&made.read(&format!("{name}.csr"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        let signed = ca.sign(&asked, 10, now).unwrap();
        assert!(!signed.authority, "a request cannot make an authority");
        assert_eq!(signed.names[0].to_string(), format!("DNS:{name}.example.org"));
        assert_eq!(signed.public, made.certificate(name).public);
        std::fs::write(made.path(&format!("{name}.signed.crt")), signed.to_pem()).unwrap();
        let weak = if *name == "rsa1024" { " -auth_level 0" } else { "" };
        openssl(dir, &format!("verify{weak} -x509_strict -purpose sslserver -CAfile lab.crt {name}.signed.crt"));
        let chain = Chain::order(&signed, &[ca.certificate().clone()]).unwrap();
        assert_eq!((chain.state, chain.above.len()), (ChainState::Whole, 1));
    }
}

#[test]
fn an_authority_takes_back_and_openssl_hears_of_it() {
    let made = made();
    let dir = made.dir.path();
    let now = now();
    let key = Key::generate(crate::model::KeyType::Rsa2048).unwrap();
    let ca = Authority::init(&key, &Subject::common("Lab CRL"), 100, now).unwrap();
    let asked = Asked::read(request(&key, &Subject::common("x"), &[]).unwrap().as_bytes()).unwrap();
    let (kept, gone) = (ca.sign(&asked, 10, now).unwrap(), ca.sign(&asked, 10, now).unwrap());
    assert_ne!(kept.serial, gone.serial);
    let crl = ca.crl(&[Revoked { serial: gone.serial.clone(), at: now }], 1, 30, now).unwrap();
    for (file, text) in [
        ("crlca.crt", ca.certificate().to_pem()),
        ("crl.pem", crl),
        ("kept.crt", kept.to_pem()),
        ("gone.crt", gone.to_pem()),
    ] {
        std::fs::write(made.path(file), text).unwrap();
    }
    openssl(dir, "verify -crl_check -CAfile crlca.crt -CRLfile crl.pem kept.crt");
    let refused = Command::new("openssl")
        .args("verify -crl_check -CAfile crlca.crt -CRLfile crl.pem gone.crt".split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert!(!refused.status.success() && said.contains("certificate revoked"), "{said}");
    // Read again from what was stored, it signs on.
    let again = Authority::of(Certificate::from_der(ca.certificate().der()).unwrap(), &key).unwrap();
    assert!(again.sign(&asked, 10, now).is_ok());
    assert_eq!(again.sign(&asked, 1000, now).unwrap().not_after, ca.certificate().not_after, "no longer than itself");
    assert!(matches!(again.sign(&asked, 10, now + 101 * 86_400), Err(CertError::Chain(_))));
    let other = Key::generate(crate::model::KeyType::Ed25519).unwrap();
    assert!(matches!(Authority::of(ca.certificate().clone(), &other), Err(CertError::Mismatch)));
}

#[test]
fn a_self_signed_one_is_accepted_by_openssl_as_its_own_authority() {
    let made = made();
    for (kind, word) in crate::model::KeyType::ALL {
        let key = Key::generate(kind).unwrap();
        let names = ["a.example.org".parse().unwrap()];
        let one = self_signed(&key, &Subject::common("a.example.org"), &names, 10, now()).unwrap();
        std::fs::write(made.path("self.crt"), one.to_pem()).unwrap();
        openssl(made.dir.path(), "verify -CAfile self.crt self.crt");
        assert_eq!(Chain::order(&one, &[]).unwrap().state, ChainState::SelfSigned, "{word}");
        assert!(self_signed(&key, &Subject::common("a"), &[], 0, NOW).is_err());
    }
}

/// A root, two authorities below each other and a leaf, all by openssl.
fn chain_of_four() -> (tempfile::TempDir, Vec<Certificate>) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let ext = |name: &str, text: &str| std::fs::write(at.join(name), text).unwrap();
    ext("ca.ext", "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\n");
    ext("short.ext", "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=keyCertSign\n");
    ext("leaf.ext", "basicConstraints=CA:FALSE\nsubjectAltName=DNS:leaf.example.org\n");
    openssl(at, "req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.crt -subj /CN=Root -days 30");
    for (name, above, ext, kind, how) in [
        ("one", "root", "ca.ext", "-newkey rsa-pss -pkeyopt rsa_keygen_bits:2048", ""),
        ("two", "one", "ca.ext", "-newkey ec -pkeyopt ec_paramgen_curve:P-521", "-sigopt rsa_pss_saltlen:-1"),
        ("leaf", "two", "leaf.ext", "-newkey ed25519", ""),
    ] {
        openssl(at, &format!("req -new {kind} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(
            at,
            &format!(
                "x509 -req -in {name}.csr -CA {above}.crt -CAkey {above}.key -CAcreateserial -extfile {ext} -days 20 \
                 {how} -out {name}.crt"
            ),
        );
    }
    let certificates = ["leaf", "two", "one", "root"].map(|n| {
        let pem = std::fs::read(at.join(format!("{n}.crt"))).unwrap();
        Pile::read(&pem, None).unwrap().certificates.remove(0)
    });
    (dir, certificates.to_vec())
}

#[test]
fn a_chain_is_ordered_whatever_the_order_it_came_in() {
    let (_dir, all) = chain_of_four();
    let (leaf, above) = all.split_first().unwrap();
    let stranger = made().certificate("p256");
    for pool in [
        vec![above[0].clone(), above[1].clone(), above[2].clone()],
        vec![above[2].clone(), stranger.clone(), above[1].clone(), above[0].clone(), leaf.clone()],
        vec![above[1].clone(), above[2].clone(), above[0].clone(), above[0].clone()],
    ] {
        let chain = Chain::order(leaf, &pool).unwrap();
        assert_eq!((chain.above.as_slice(), chain.state), (above, ChainState::Whole));
    }
    let open = Chain::order(leaf, &[above[1].clone(), above[0].clone(), stranger]).unwrap();
    assert_eq!((open.above.as_slice(), open.state, open.unused), (&above[..2], ChainState::Open, 1));
    assert_eq!(Chain::order(leaf, &[]).unwrap().state, ChainState::Open);
    assert!(Chain::order(leaf, above).unwrap().check_time(now()).is_ok());
    assert!(Chain::order(leaf, above).unwrap().check_time(now() + 25 * 86_400).is_err());
}

#[test]
fn an_issuer_by_name_alone_is_none() {
    let (dir, all) = chain_of_four();
    let at = dir.path();
    // The same name, another key.
    openssl(at, "req -x509 -newkey rsa:2048 -nodes -keyout fake.key -out fake.crt -subj /CN=two -days 30");
    let fake = Pile::read(&std::fs::read(at.join("fake.crt")).unwrap(), None).unwrap().certificates.remove(0);
    assert!(matches!(Chain::order(&all[0], std::slice::from_ref(&fake)), Err(CertError::Chain(_))));
    // Beside the right one it does no harm.
    assert_eq!(Chain::order(&all[0], &[fake, all[1].clone()]).unwrap().above, [all[1].clone()]);
    // One that may not sign.
    openssl(at, "req -new -newkey ed25519 -nodes -keyout below.key -out below.csr -subj /CN=below");
    openssl(at, "x509 -req -in below.csr -CA leaf.crt -CAkey leaf.key -CAcreateserial -days 5 -out below.crt");
    let below = Pile::read(&std::fs::read(at.join("below.crt")).unwrap(), None).unwrap().certificates.remove(0);
    let refused = Chain::order(&below, &all).unwrap_err();
    assert!(refused.to_string().contains("no authority"), "{refused}");
}

#[test]
fn a_chain_longer_than_allowed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::write(at.join("ca.ext"), "basicConstraints=critical,CA:TRUE\n").unwrap();
    openssl(
        at,
        "req -x509 -newkey ed25519 -nodes -keyout c0.key -out c0.crt -subj /CN=c0 -addext basicConstraints=critical,CA:TRUE,pathlen:0",
    );
    for n in 1..14 {
        openssl(at, &format!("req -new -newkey ed25519 -nodes -keyout c{n}.key -out c{n}.csr -subj /CN=c{n}"));
        let above = n - 1;
        openssl(
            at,
            &format!(
                "x509 -req -in c{n}.csr -CA c{above}.crt -CAkey c{above}.key -set_serial {n} -extfile ca.ext -out c{n}.crt"
            ),
        );
    }
    let read = |n: usize| {
        Pile::read(&std::fs::read(at.join(format!("c{n}.crt"))).unwrap(), None).unwrap().certificates.remove(0)
    };
    let all: Vec<Certificate> = (0..14).map(read).collect();
    assert!(matches!(Chain::order(&all[13], &all), Err(CertError::Chain(m)) if m.contains("longer")));
    // The root allows no authority below it; its direct child is no matter.
    assert!(matches!(Chain::order(&all[2], &all[..2]), Err(CertError::Chain(m)) if m.contains("as long")));
    assert!(Chain::order(&all[1], &all[..1]).is_ok());
}

#[test]
fn certificates_are_judged_by_their_time() {
    let one = made().certificate("p256");
    assert!(one.check_time(now()).is_ok());
    assert!(one.check_time(one.not_after).is_err());
    assert!(one.check_time(one.not_before - SKEW).is_ok());
    assert!(one.check_time(one.not_before - SKEW - 1).is_err());
}

fn now() -> i64 {
    crate::model::Timestamp::now().secs
}

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
        all.extend(pile::public_blocks(csr.as_bytes(), &["CERTIFICATE REQUEST"]).unwrap());
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
