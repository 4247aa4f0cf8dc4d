//! Keys and certificates in every encoding, as openssl writes and reads them.

use super::*;

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
        let made = made();
        openssl(made.dir.path(), "rsa -traditional -in rsa2048.key -outform DER -out whole.der");
        made.read("whole.der")
    };
    assert!(Key::from_pkcs1(&der).is_ok());
    let mut bent = der.clone();
    *bent.last_mut().unwrap() ^= 1;
    assert!(matches!(Key::from_pkcs1(&bent), Err(CertError::Broken(_))));
}
