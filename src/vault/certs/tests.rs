//! Certificates in a store, with openssl(1) as the authority outside.

use super::*;
use crate::audit::{Log, Settings, WhenFull};
use crate::caller::Callers;
use crate::cert::{Authority, host_of};
use crate::config::Pair;
use crate::seal::Protection;
use crate::store::Store;
use crate::vault::{Limits, Recovery, Rename, SetAttr, UnlockBy, create_store};
use crate::wire::{
    Actor, CaCrl, CaInit, CaSign, CertInfo, CertList, CertShow, Fault, Fsck, Put, Reveal, Rollback, Serve,
};
use std::process::{Command, Stdio};

fn secret(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

fn root() -> Actor {
    Actor::new(0, 0, i32::try_from(std::process::id()).unwrap())
}

fn path(text: &str) -> SecretPath {
    SecretPath::parse(text).unwrap()
}

fn host(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn now() -> i64 {
    Timestamp::now().secs
}

/// A vault, unlocked, and an authority outside it.
struct Rig {
    vault: Vault,
    ca_key: Key,
    // Last: what writes there ends before it.
    home: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(&[("tls/*/cert.pem", "tls/*/key.pem")])
    }

    fn with(pairs: &[(&str, &str)]) -> Rig {
        let home = tempfile::tempdir().unwrap();
        let recovery = age::x25519::Identity::generate().to_public().to_string();
        let store = home.path().join("store");
        create_store(&store, &Protection::Passphrase(&secret("p")), &Recovery { recipients: vec![recovery] }).unwrap();
        let vault = Rig::open(&home, "log");
        vault.set_pairs(pairs.iter().map(|(c, k)| Pair::parse(c, k).unwrap()).collect());
        Rig { home, vault, ca_key: Key::generate(KeyType::EcdsaP256).unwrap() }
    }

    fn open(home: &tempfile::TempDir, log: &str) -> Vault {
        let settings =
            Settings { path: home.path().join(log), max_size: 1 << 24, when_full: WhenFull::Refuse, space: None };
        let limits = Limits {
            max_secret_size: 1 << 16,
            max_secrets: 1000,
            max_instances: 1,
            keep_versions: 3,
            allow_reveal: true,
            mountpoint: "/nowhere".into(),
            operator_gid: None,
        };
        let store = Store::open(&home.path().join("store")).unwrap();
        let vault = Vault::new(store, Log::open(settings, None).unwrap(), Callers::new().unwrap(), limits);
        vault.unlock(&Daemon, &UnlockBy::Passphrase(&secret("p"))).unwrap();
        vault
    }

    fn ca(&self) -> Authority<'_> {
        Authority::init(&self.ca_key, &Subject::common("Outside"), 400, now() - 86_400).unwrap()
    }

    fn request(&self, name: &str, again: bool) -> CertRequested {
        let asked =
            CertRequest { host: host(name), subject: None, names: Vec::new(), key_type: None, again: Some(again) };
        self.vault.serve(&root(), asked).unwrap()
    }

    /// What the authority outside answers, with its own certificate behind.
    fn signed(&self, request: &str, days: u32) -> String {
        let ca = self.ca();
        let signed = ca.sign(&Asked::read(request.as_bytes()).unwrap(), days, now()).unwrap();
        signed.to_pem() + &ca.certificate().to_pem()
    }

    fn accept(&self, pem: &str) -> Result<CertStored, Fault> {
        self.vault.serve(&root(), CertAccept { content: pem.into(), host: None, whole: None })
    }

    fn put(&self, at: &str, content: &str, mode: Option<u16>) -> Result<u64, Fault> {
        let put = Put { path: path(at), uid: None, gid: None, mode, parents: true, content: secret(content) };
        self.vault.serve(&root(), put).map(|done| done.version)
    }

    fn shown(&self, at: &str) -> String {
        let revealed = self.vault.serve(&root(), Reveal { path: path(at), version: None }).map(|done| done.content);
        String::from_utf8(revealed.unwrap_or_else(|e| panic!("{at}: {e}")).expose().to_vec()).unwrap()
    }

    fn there(&self, at: &str) -> bool {
        self.vault.find(&path(at)).is_ok()
    }

    fn list(&self, pattern: &str) -> Vec<CertInfo> {
        let list = CertList { pattern: Some(pattern.into()), warn_within: Some(30 * 86_400), pem: Some(true) };
        self.vault.serve(&root(), list).unwrap().certificates
    }

    fn whole(&self) {
        let report = self.vault.serve(&root(), Fsck { open: true }).unwrap();
        assert_eq!(report.problems, []);
    }
}

/// Key and certificate, self-signed, in PEM.
pub(in crate::vault) fn pair(name: &str) -> (String, String) {
    let key = Key::generate(KeyType::EcdsaP256).unwrap();
    let certificate = cert::self_signed(&key, &Subject::common(name), &[], 90, now()).unwrap();
    (String::from_utf8(key.to_pem().unwrap().expose().to_vec()).unwrap(), certificate.to_pem())
}

fn refused<T: std::fmt::Debug>(result: Result<T, Fault>, why: &str) {
    match result {
        Err(Fault::Refused(reason)) if reason.contains(why) => {}
        other => panic!("not refused with '{why}': {other:?}"),
    }
}

#[test]
fn what_was_asked_for_is_taken_into_use_as_one() {
    let rig = Rig::new();
    let asked = rig.request("web.example.org", false);
    assert_eq!(asked.names, ["DNS:web.example.org"]);
    assert_eq!(asked.key.to_string(), "certs/web.example.org/next/key.pem");
    assert_eq!(rig.shown("certs/web.example.org/next/request.pem"), asked.request);
    assert!(!asked.request.contains("PRIVATE"));
    let stored = rig.accept(&rig.signed(&asked.request, 60)).unwrap();
    assert_eq!(stored.path.to_string(), "certs/web.example.org/cert.pem");
    assert_eq!((stored.host, stored.version, stored.above), (Some(host("web.example.org")), 1, 1));
    assert_eq!((stored.chain.as_str(), stored.unused, stored.missing.len()), ("whole", 0, 0));
    let [info] = <[CertInfo; 1]>::try_from(rig.list("web*")).unwrap();
    assert_eq!((info.key.as_str(), info.chain.as_str()), ("match", "whole"));
    assert!(matches!(info.days_left, 59 | 60));
    assert_eq!(info.key_path, Some(path("certs/web.example.org/key.pem")));
    assert!(!rig.there("certs/web.example.org/next/key.pem"), "the request is done with");
    assert!(!rig.there("certs/web.example.org/next/request.pem"));
    // openssl reads what lies there as a pair and a chain.
    for part in ["key", "cert", "chain"] {
        let text = rig.shown(&format!("certs/web.example.org/{part}.pem"));
        std::fs::write(rig.home.path().join(format!("{part}.pem")), text).unwrap();
    }
    for args in
        ["verify -CAfile chain.pem cert.pem", "s_server -accept 0 -key key.pem -cert cert.pem -cert_chain chain.pem"]
    {
        let mut child = Command::new("openssl")
            .args(args.split(' '))
            .current_dir(rig.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if args.starts_with("s_server") {
            // It says ACCEPT once the pair is loaded, and would wait for ever.
            use std::io::{BufRead, BufReader};
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(lines.map_while(Result::ok).any(|l| l.starts_with("ACCEPT")), "openssl takes the pair");
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            assert!(child.wait_with_output().unwrap().status.success(), "{args}");
        }
    }
    rig.whole();
}

#[test]
fn a_renewed_pair_leaves_the_old_one_as_a_version() {
    let rig = Rig::new();
    rig.accept(&rig.signed(&rig.request("web", false).request, 20)).unwrap();
    let before = (rig.shown("certs/web/key.pem"), rig.shown("certs/web/cert.pem"));
    let asked = rig.request("web", false);
    assert_eq!((rig.shown("certs/web/key.pem"), rig.shown("certs/web/cert.pem")), before, "asking disturbs nothing");
    let stored = rig.accept(&rig.signed(&asked.request, 80)).unwrap();
    assert_eq!(stored.version, 2);
    assert_ne!(rig.shown("certs/web/key.pem"), before.0);
    for (file, old) in [("key.pem", &before.0), ("cert.pem", &before.1)] {
        let reveal = Reveal { path: path(&format!("certs/web/{file}")), version: Some(1) };
        assert_eq!(rig.vault.serve(&root(), reveal).unwrap().content.expose(), old.as_bytes());
    }
    rig.whole();
}

#[test]
fn an_answer_that_fits_no_key_changes_nothing() {
    let rig = Rig::new();
    rig.accept(&rig.signed(&rig.request("web", false).request, 20)).unwrap();
    let asked = rig.request("web", false);
    let before = rig.shown("certs/web/cert.pem");
    let (_, stranger) = pair("web");
    refused(rig.accept(&stranger), "no key of the store belongs to it");
    refused(rig.accept("not a certificate"), "neither PEM nor DER");
    refused(rig.accept(&asked.request), "no certificate in it");
    refused(rig.accept(&rig.signed(&asked.request, 30).replace('M', "N")), "");
    let host_only =
        CertAccept { content: rig.signed(&asked.request, 30).into(), host: Some(host("other")), whole: None };
    refused(rig.vault.serve(&root(), host_only), "for other");
    assert_eq!(rig.shown("certs/web/cert.pem"), before);
    assert!(rig.there("certs/web/next/key.pem"), "it is still waited for");
    rig.accept(&rig.signed(&asked.request, 30)).unwrap();
    let again = rig.shown("certs/web/cert.pem");
    assert!(matches!(rig.accept(&again), Err(Fault::NothingToDo(_))));
}

#[test]
fn what_has_expired_is_not_taken() {
    let rig = Rig::new();
    let asked = rig.request("web", false);
    let ca = Authority::init(&rig.ca_key, &Subject::common("Outside"), 400, now() - 100 * 86_400).unwrap();
    let expired = ca.sign(&Asked::read(asked.request.as_bytes()).unwrap(), 10, now() - 50 * 86_400).unwrap();
    refused(rig.accept(&expired.to_pem()), "has expired");
    let early = ca.sign(&Asked::read(asked.request.as_bytes()).unwrap(), 10, now() + 50 * 86_400).unwrap();
    refused(rig.accept(&early.to_pem()), "not valid before");
    assert!(!rig.there("certs/web/cert.pem"));
}

#[test]
fn asking_twice_is_meant_to_be_said() {
    let rig = Rig::new();
    let first = rig.request("web", false);
    let asked = CertRequest { host: host("web"), subject: None, names: Vec::new(), key_type: None, again: None };
    refused(rig.vault.serve(&root(), asked), "asked for already");
    let second = rig.request("web", true);
    assert_ne!(first.fingerprint, second.fingerprint);
    refused(rig.accept(&rig.signed(&first.request, 10)), "no key of the store");
    rig.accept(&rig.signed(&second.request, 10)).unwrap();
}

#[test]
fn a_request_is_like_the_certificate_in_use() {
    let rig = Rig::new();
    let asked = CertRequest {
        host: host("web"),
        subject: Some("CN=www.example.org,O=Example".into()),
        names: vec!["www.example.org".into(), "192.0.2.7".into()],
        key_type: Some(KeyType::EcdsaP384),
        again: None,
    };
    let first = rig.vault.serve(&root(), asked).unwrap();
    rig.accept(&rig.signed(&first.request, 20)).unwrap();
    let second = Asked::read(rig.request("web", false).request.as_bytes()).unwrap();
    let names: Vec<String> = second.names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["DNS:www.example.org", "IP:192.0.2.7"]);
    assert_eq!(
        (second.public.to_string().as_str(), second.common_name.as_deref()),
        ("ecdsa-p384", Some("www.example.org"))
    );
    let bad =
        CertRequest { host: host("x"), subject: Some("nonsense".into()), names: vec![], key_type: None, again: None };
    assert!(rig.vault.serve(&root(), bad).is_err());
    assert!(!rig.there("certs/x"), "a request that cannot be leaves nothing behind");
}

#[test]
fn names_that_the_answer_lacks_are_told() {
    let rig = Rig::new();
    let asked = CertRequest {
        host: host("web"),
        subject: None,
        names: vec!["a.example.org".into(), "b.example.org".into()],
        key_type: None,
        again: None,
    };
    let request = rig.vault.serve(&root(), asked).unwrap().request;
    let mut wanted = Asked::read(request.as_bytes()).unwrap();
    wanted.names.pop();
    let signed = rig.ca().sign(&wanted, 10, now()).unwrap();
    let stored = rig.accept(&signed.to_pem()).unwrap();
    assert_eq!((stored.missing.as_slice(), stored.chain.as_str()), (&["DNS:b.example.org".to_owned()][..], "open"));
    // The next answer comes alone, too: what was above the last one would be above this, if it had signed it.
    assert!(!rig.there("certs/web/chain.pem"));
}

#[test]
fn a_chain_is_kept_for_an_answer_that_comes_alone() {
    let rig = Rig::new();
    let ca = rig.ca();
    let sign = |request: &str| ca.sign(&Asked::read(request.as_bytes()).unwrap(), 30, now()).unwrap().to_pem();
    let first = sign(&rig.request("web", false).request) + &ca.certificate().to_pem();
    rig.accept(&first).unwrap();
    let stored = rig.accept(&sign(&rig.request("web", false).request)).unwrap();
    assert_eq!((stored.chain.as_str(), stored.above, stored.unused), ("whole", 1, 0));
}

#[test]
fn a_pair_from_elsewhere_is_stored_whole_or_not_at_all() {
    let rig = Rig::new();
    let ((key, certificate), (other, _)) = (pair("mail"), pair("mail"));
    let store = |key: &str, replace| CertStore {
        host: host("mail"),
        key: secret(key),
        content: certificate.clone().into(),
        replace,
    };
    refused(rig.vault.serve(&root(), store(&other, None)), "not for this key");
    assert!(!rig.there("certs/mail"));
    let stored = rig.vault.serve(&root(), store(&key, None)).unwrap();
    assert_eq!((stored.version, stored.chain.as_str()), (1, "self-signed"));
    refused(rig.vault.serve(&root(), store(&key, None)), "has a pair already");
    assert_eq!(rig.vault.serve(&root(), store(&key, Some(true))).unwrap().version, 2);
    let attr = |file: &str| rig.vault.attr(rig.vault.find(&path(&format!("certs/mail/{file}"))).unwrap()).unwrap().mode;
    assert_eq!((attr("key.pem"), attr("cert.pem")), (0o600, 0o644));
}

#[test]
fn an_own_authority_signs_and_takes_back() {
    let rig = Rig::new();
    let init = CaInit { name: host("lab"), subject: Some("CN=Lab".into()), key_type: None, days: 100 };
    rig.vault.serve(&root(), init.clone()).unwrap();
    assert!(matches!(rig.vault.serve(&root(), init), Err(Fault::Refused(_))));
    let request = rig.request("web", false).request;
    let sign = CaSign { name: host("lab"), request: request.clone().into(), days: 30 };
    let made = rig.vault.serve(&root(), sign.clone()).unwrap();
    let second = rig.vault.serve(&root(), sign).unwrap();
    let stored = rig.accept(&made.pem).unwrap();
    assert_eq!((stored.chain.as_str(), stored.above), ("whole", 1));
    let crl = |revoke: &[&str]| {
        let revoke = revoke.iter().map(|s| (*s).to_owned()).collect();
        rig.vault.serve(&root(), CaCrl { name: host("lab"), revoke, days: 7 })
    };
    refused(crl(&["abcdef"]), "did not sign");
    let list = crl(&[&second.serial]).unwrap();
    assert_eq!(list.serial, "1");
    assert_eq!(rig.shown("ca/lab/crl.pem"), list.pem);
    assert_eq!(crl(&[]).unwrap().serial, "2");
    let infos = rig.list("*");
    let ca = infos.iter().find(|i| i.path.to_string() == "ca/lab/cert.pem").unwrap();
    assert!(ca.authority && ca.host.is_none() && ca.key == "match");
    // A key of an authority is no host's, whatever its folder is called.
    assert_eq!(host_of(&path("ca/lab/key.pem")), None);
    rig.whole();
}

#[test]
fn the_second_of_a_pair_must_match_and_either_may_come_first() {
    let rig = Rig::new();
    let ((key1, cert1), (key2, cert2), (key3, _)) = (pair("a"), pair("b"), pair("c"));
    // Either first.
    rig.put("tls/a/cert.pem", &cert1, None).unwrap();
    refused(rig.put("tls/a/key.pem", &key2, None), "the key is not that of the certificate in tls/a/cert.pem");
    assert!(!rig.there("tls/a/key.pem"), "a refusal leaves nothing behind");
    rig.put("tls/a/key.pem", &key1, None).unwrap();
    rig.put("tls/b/key.pem", &key1, None).unwrap();
    refused(rig.put("tls/b/cert.pem", &cert2, None), "the certificate is not for the key in tls/b/key.pem");
    rig.put("tls/b/cert.pem", &cert1, None).unwrap();
    // Renewing by copies: the first of the two, then the second. A wrong one in between can be put right.
    for (first, second) in [("key", "cert"), ("cert", "key")] {
        let (new, other, wrong) = if first == "key" { (&key2, &cert2, &key3) } else { (&cert1, &key1, &cert1) };
        rig.put(&format!("tls/a/{first}.pem"), wrong, None).unwrap();
        rig.put(&format!("tls/a/{first}.pem"), new, None).unwrap();
        let unfit = if second == "cert" { &cert1 } else { &key3 };
        refused(rig.put(&format!("tls/a/{second}.pem"), unfit, None), "tls/a/");
        rig.put(&format!("tls/a/{second}.pem"), other, None).unwrap();
    }
    // What is no key, or encrypted, is no half of a pair.
    refused(rig.put("tls/a/key.pem", &cert1, None), "no private key in it");
    // Elsewhere nothing is compared.
    rig.put("other/cert.pem", &cert1, None).unwrap();
    rig.put("other/key.pem", &key2, None).unwrap();
}

#[test]
fn a_rename_into_place_is_a_commit_to_a_pair() {
    let rig = Rig::new();
    let ((key1, cert1), (key2, _)) = (pair("a"), pair("b"));
    rig.put("tls/a/cert.pem", &cert1, None).unwrap();
    rig.put("tls/a/.key.tmp", &key2, None).unwrap();
    rig.put("tls/a/.good.tmp", &key1, None).unwrap();
    let folder = rig.vault.find(&path("tls/a")).unwrap();
    let name = |text: &str| crate::model::Name::parse(text.as_bytes()).unwrap();
    let mv = |from: &str| {
        let (from, to) = (name(from), name("key.pem"));
        let rename = Rename { parent: folder, name: &from, new_parent: folder, new_name: &to, replace: true };
        rig.vault.rename(&Daemon, rename)
    };
    assert!(matches!(mv(".key.tmp"), Err(VaultError::Invalid(m)) if m.contains("not that of the certificate")));
    assert!(rig.there("tls/a/.key.tmp") && !rig.there("tls/a/key.pem"));
    mv(".good.tmp").unwrap();
    assert_eq!(rig.shown("tls/a/key.pem"), key1);
}

#[test]
fn a_key_of_a_pair_has_no_wide_mode() {
    let rig = Rig::new();
    let (key, _) = pair("a");
    refused(rig.put("tls/a/key.pem", &key, Some(0o644)), "too wide");
    assert!(!rig.there("tls/a/key.pem"));
    rig.put("tls/a/key.pem", &key, Some(0o640)).unwrap();
    let ino = rig.vault.find(&path("tls/a/key.pem")).unwrap();
    for (mode, fits) in [(0o644, false), (0o660, false), (0o604, false), (0o600, true), (0o640, true), (0o400, true)] {
        let done = rig.vault.set_attr(&Daemon, ino, SetAttr { mode: Some(mode), ..SetAttr::default() });
        assert_eq!(done.is_ok(), fits, "{mode:o}: {done:?}");
    }
    // An ACL that gives others nothing, but its group more than it may have.
    let acl = [
        2u32.to_le_bytes().to_vec(),
        [(1u16, 6u16, u32::MAX), (4, 4, u32::MAX), (2, 6, 33), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)]
            .iter()
            .flat_map(|(tag, perm, id)| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat())
            .collect(),
    ]
    .concat();
    let mut sorted = acl.clone();
    sorted.splice(12..28, [&acl[20..28], &acl[12..20]].concat());
    let set = rig.vault.set_xattr(&Daemon, ino, "system.posix_acl_access", &sorted, crate::vault::XattrMode::Set);
    assert!(matches!(set, Err(VaultError::Invalid(ref m)) if m.contains("too wide")), "{set:?}");
    // A certificate is public.
    let (_, certificate) = pair("b");
    rig.put("tls/b/cert.pem", &certificate, Some(0o644)).unwrap();
}

#[test]
fn an_answer_for_a_key_elsewhere_goes_where_its_rule_says() {
    let rig = Rig::new();
    let key = Key::generate(KeyType::EcdsaP256).unwrap();
    let pem = String::from_utf8(key.to_pem().unwrap().expose().to_vec()).unwrap();
    rig.put("tls/a/key.pem", &pem, None).unwrap();
    let request = request(&key, &Subject::common("a"), &[]).unwrap();
    let stored = rig.accept(&rig.signed(&request, 10)).unwrap();
    assert_eq!((stored.path.to_string().as_str(), stored.host), ("tls/a/cert.pem", None));
    assert_eq!(rig.shown("tls/a/cert.pem").matches("BEGIN CERTIFICATE").count(), 2, "with its chain");
    let other = Key::generate(KeyType::EcdsaP256).unwrap();
    let pem = String::from_utf8(other.to_pem().unwrap().expose().to_vec()).unwrap();
    rig.put("nginx/tls.key", &pem, None).unwrap();
    let request = cert::request(&other, &Subject::common("b"), &[]).unwrap();
    refused(rig.accept(&rig.signed(&request, 10)), "its key is nginx/tls.key");
}

#[test]
fn the_list_tells_pairs_mismatches_and_what_cannot_be_read() {
    let rig = Rig::with(&[("tls/*/cert.pem", "tls/*/key.pem"), ("x/c.pem", "x/k.pem")]);
    let ((key1, cert1), (key2, cert2)) = (pair("one"), pair("two"));
    rig.put("x/c.pem", &cert1, None).unwrap();
    rig.put("x/k.pem", &key1, None).unwrap();
    // A half is changed, the other not yet.
    rig.put("x/k.pem", &key2, None).unwrap();
    rig.put("both.pem", &(key2.clone() + &cert2), None).unwrap();
    rig.put("alone.crt", &pair("three").1, None).unwrap();
    rig.put("far.key", &key1, None).unwrap();
    rig.put("wg.key", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n", None).unwrap();
    let of = |at: &str| rig.list("*").into_iter().find(|i| i.path.to_string() == at).unwrap();
    assert_eq!((of("x/c.pem").key.as_str(), of("x/c.pem").key_path), ("mismatch", Some(path("x/k.pem"))));
    assert_eq!((of("both.pem").key.as_str(), of("both.pem").key_path), ("match", Some(path("both.pem"))));
    assert_eq!((of("alone.crt").key.as_str(), of("alone.crt").key_path), ("none", None));
    assert_eq!(rig.list("*").len(), 3);
    assert_eq!(rig.list("*.crt").len(), 1);
    let shown = rig.vault.serve(&root(), CertShow { path: path("both.pem") }).unwrap();
    assert!(shown.pem.contains("BEGIN CERTIFICATE") && !shown.pem.contains("PRIVATE"), "a key is never shown");
}

#[test]
fn what_ends_soon_is_in_the_status_and_a_lock_forgets_it() {
    let rig = Rig::new();
    for (name, days) in [("soon", 5), ("later", 200)] {
        let asked =
            CertSelfsign { host: host(name), subject: None, names: vec![], key_type: None, days, replace: None };
        rig.vault.serve(&root(), asked).unwrap();
    }
    assert_eq!(rig.vault.serve(&root(), crate::wire::GetStatus {}).unwrap().certificates, None, "nobody looked yet");
    rig.list("*");
    let status = rig.vault.serve(&root(), crate::wire::GetStatus {}).unwrap().certificates.unwrap();
    assert_eq!((status.expired, status.expiring, status.failing), (0, 1, 0));
    assert_eq!(status.soonest, Some(path("certs/soon/cert.pem")));
    rig.vault.serve(&root(), crate::wire::Lock {}).unwrap();
    rig.vault.unlock(&Daemon, &UnlockBy::Passphrase(&secret("p"))).unwrap();
    assert_eq!(rig.vault.serve(&root(), crate::wire::GetStatus {}).unwrap().certificates, None);
}

#[test]
fn failures_are_counted_until_an_answer_is_taken() {
    let rig = Rig::new();
    rig.accept(&rig.signed(&rig.request("web", false).request, 20)).unwrap();
    let asked = rig.request("web", false);
    let note = |reason: Option<&str>| {
        let note =
            CertNote { host: host("web"), at: Timestamp { secs: 1000, nanos: 0 }, reason: reason.map(str::to_owned) };
        rig.vault.serve(&root(), note).unwrap();
    };
    note(Some("no route"));
    note(Some("still none"));
    let renewal = rig.list("web")[0].renewal.clone().unwrap();
    assert_eq!((renewal.failures, renewal.last.secs, renewal.next.secs), (2, 1000, 8200));
    assert_eq!(renewal.reason.as_deref(), Some("still none"));
    note(None);
    assert_eq!(rig.list("web")[0].renewal.clone().unwrap().reason, None);
    rig.accept(&rig.signed(&asked.request, 50)).unwrap();
    assert_eq!(rig.list("web")[0].renewal, None);
    let nobody = CertNote { host: host("nobody"), at: Timestamp::now(), reason: Some("x".into()) };
    assert!(matches!(rig.vault.serve(&root(), nobody), Err(Fault::NotFound(_))));
}

#[test]
fn only_admins_ask() {
    let rig = Rig::new();
    let nobody = Actor { uid: 65534, ..root() };
    let asked = CertRequest { host: host("web"), subject: None, names: Vec::new(), key_type: None, again: None };
    assert!(matches!(rig.vault.serve(&nobody, asked), Err(Fault::Refused(_))));
    assert!(matches!(rig.vault.serve(&nobody, CertList::default()), Err(Fault::Refused(_))));
}

#[test]
fn a_pair_that_could_not_be_written_is_the_old_one_after_a_restart() {
    use crate::store::{FaultPoint, NEXT_FAULT};
    let mut tried = 0;
    use FaultPoint::{Append, Appended, Header, JournalSync};
    for point in [Header, Append, Appended, JournalSync] {
        let rig = Rig::new();
        rig.accept(&rig.signed(&rig.request("web", false).request, 20)).unwrap();
        let asked = rig.request("web", false);
        let answer = rig.signed(&asked.request, 80);
        let parts = ["key.pem", "cert.pem", "chain.pem"].map(|f| format!("certs/web/{f}"));
        let before: Vec<String> = parts.iter().map(|p| rig.shown(p)).collect();
        NEXT_FAULT.with(|next| next.set(Some(point)));
        let result = rig.accept(&answer);
        NEXT_FAULT.with(|next| next.set(None));
        tried += usize::from(result.is_err());
        let Rig { home, vault, ca_key } = rig;
        drop(vault);
        let vault = Rig::open(&home, "log2");
        let rig = Rig { home, vault, ca_key };
        let after: Vec<String> = parts.iter().map(|p| rig.shown(p)).collect();
        let whole = after == before || after.iter().zip(&before).take(2).all(|(a, b)| a != b);
        assert!(whole, "{point:?}: one of the pair is new and the other is not");
        let key = rig.vault.key_at(&path("certs/web/key.pem")).unwrap().unwrap();
        let certificate = rig.vault.certificate_at(&path("certs/web/cert.pem")).unwrap().unwrap();
        assert_eq!(*key.public(), certificate.public, "{point:?}");
        rig.whole();
        // And it can be done again.
        match rig.accept(&answer) {
            Ok(_) | Err(Fault::NothingToDo(_)) => {}
            other => panic!("{point:?}: {other:?}"),
        }
    }
    assert!(tried > 0, "no fault was met");
}

#[test]
fn a_rollback_of_a_pair_is_no_commit_of_one() {
    let rig = Rig::new();
    let ((key1, cert1), (key2, cert2)) = (pair("a"), pair("b"));
    for (file, content) in [("cert", &cert1), ("key", &key1), ("key", &key2), ("cert", &cert2)] {
        rig.put(&format!("tls/a/{file}.pem"), content, None).unwrap();
    }
    for file in ["key", "cert"] {
        rig.vault.serve(&root(), Rollback { path: path(&format!("tls/a/{file}.pem")), version: 1 }).unwrap();
    }
    assert_eq!((rig.shown("tls/a/key.pem"), rig.shown("tls/a/cert.pem")), (key1, cert1));
}
