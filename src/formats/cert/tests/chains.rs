//! Chains: their order, their length, their time.

use super::*;

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
