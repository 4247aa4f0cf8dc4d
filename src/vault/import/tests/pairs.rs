//! Key and certificate that a rule of the host calls a pair, in a bundle.

use super::*;
use crate::config::Pair;
use crate::vault::certs::tests::pair;

const CERT: &str = "tls/web/cert.pem";
const KEY: &str = "tls/web/key.pem";

fn ruled(host: &Host) -> Vault {
    let vault = host.vault();
    vault.set_pairs(vec![Pair::parse("tls/*/cert.pem", "tls/*/key.pem").unwrap()]);
    vault
}

#[test]
fn a_pair_that_does_not_fit_is_refused_and_one_that_does_comes_and_is_renewed() {
    let host = Host::new();
    let vault = ruled(&host);
    let mut console = Console::join(&vault, "hq", None);
    let ((key1, cert1), (key2, cert2)) = (pair("a"), pair("b"));
    let torn = of(&[(CERT, &cert1), (KEY, &key2), ("other", "x")]);
    let report = take(&vault, &console.send(&host, &torn));
    assert_eq!(report.outcome, ImportOutcome::Refused);
    let said = reasons(&report);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].1.contains("the certificate is not for the key in tls/web/key.pem"), "{said:?}");
    assert!(said[1].1.contains("the key is not that of the certificate in tls/web/cert.pem"), "{said:?}");
    assert_eq!(shown(&vault, "other"), None);
    // The rest of it, if that is asked for.
    let report = take_as(&vault, &console.send(&host, &torn), None, Some(true));
    assert_eq!((report.outcome, report.refused_count), (ImportOutcome::Partial, 2));
    assert_eq!((shown(&vault, "other").as_deref(), shown(&vault, KEY)), (Some("x"), None));
    for (key, cert) in [(&key1, &cert1), (&key2, &cert2)] {
        let report = take(&vault, &console.send(&host, &of(&[(CERT, cert), (KEY, key)])));
        assert_eq!(report.outcome, ImportOutcome::Applied, "{:?}", reasons(&report));
        assert_eq!((shown(&vault, KEY).as_ref(), shown(&vault, CERT).as_ref()), (Some(key), Some(cert)));
    }
    sound(&vault);
}

#[test]
fn half_of_a_pair_must_fit_what_this_host_has_and_a_key_has_no_wide_mode() {
    let host = Host::new();
    let vault = ruled(&host);
    let mut console = Console::join(&vault, "hq", None);
    let ((key1, cert1), (_, cert2)) = (pair("a"), pair("b"));
    take(&vault, &console.send(&host, &of(&[("tls/web/chain.pem", &cert2)])));
    put(&vault, KEY, &key1);
    let report = take(&vault, &console.send(&host, &of(&[(CERT, &cert2)])));
    assert!(reasons(&report)[0].1.contains("the certificate is not for the key in"), "{:?}", reasons(&report));
    assert_eq!(take(&vault, &console.send(&host, &of(&[(CERT, &cert1)]))).outcome, ImportOutcome::Applied);
    let mut wide = of(&[("tls/db/cert.pem", &cert1)]);
    wide.file("tls/db/key.pem", &key1).mode = 0o644;
    let report = take(&vault, &console.send(&host, &wide));
    assert!(reasons(&report)[0].1.contains("too wide for a private key"), "{:?}", reasons(&report));
    assert_eq!(shown(&vault, "tls/db/cert.pem"), None);
}
