//! Requests, and who signs them.

use super::*;

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
    let mut der = keyfile::public_blocks(pem.as_bytes(), &["CERTIFICATE REQUEST"]).unwrap().remove(0);
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
