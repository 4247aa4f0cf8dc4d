//! Who signs: keys of our own, tokens, and people who sign later.

use super::outer::{code, taken_apart};
use super::*;
use std::io::Write;
use std::process::{Command, Stdio};

/// What a FIDO token with an Ed25519 key does (PROTOCOL.u2f), in software.
struct Token {
    key: aws_lc_rs::signature::Ed25519KeyPair,
    public: PublicKey,
}

impl Token {
    fn new() -> Self {
        use aws_lc_rs::signature::KeyPair;
        let key = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
        let point: [u8; 32] = key.public_key().as_ref().try_into().unwrap();
        let data = ssh_key::public::SkEd25519::new(ssh_key::public::Ed25519PublicKey(point), "ssh:");
        Token { key, public: PublicKey::new(ssh_key::public::KeyData::SkEd25519(data)).unwrap() }
    }
}

impl Signer for Token {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, namespace: &str, message: &[u8]) -> Result<SshSig, SignError> {
        let flags_and_counter = [1, 0, 0, 0, 7];
        let mut signed = Sha256::digest(b"ssh:").to_vec();
        signed.extend(flags_and_counter);
        signed.extend(Sha256::digest(SshSig::to_sign(namespace, message)));
        let mut bytes = self.key.sign(&signed).as_ref().to_vec();
        bytes.extend(flags_and_counter);
        let signature = ssh_key::Signature::new(ssh_key::Algorithm::SkEd25519, bytes).unwrap();
        Ok(SshSig::new(&self.public, namespace, signature).unwrap())
    }
}

#[test]
fn a_token_signs_and_is_rotated_to_and_from() {
    let mut world = World::new();
    let (token, head, first) = (Token::new(), world.head(), world.trust(0));
    assert!(token.public().to_string().starts_with("sk-ssh-ed25519@openssh.com "));
    assert_eq!(PublicKey::parse(&token.public().one_word()).unwrap(), token.public);
    let mut chain = Chain::default();
    chain.rotate(&world.console, world.signer(), token.public(), NOW).unwrap();
    world.chain = chain.clone();
    let bundle = world.seal_as(&head, &token);
    assert_eq!(code(&world, &bundle, &first), "taken");
    let after = KeySigner::generate().unwrap();
    chain.rotate(&world.console, &token, after.public(), NOW).unwrap();
    world.chain = chain;
    world.keys.push(after);
    assert_eq!(code(&world, &world.seal(), &first), "taken");
    // As stock OpenSSH sees it.
    let folder = tempfile::tempdir().unwrap();
    let (manifest, signature, _) = taken_apart(&bundle);
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("sig"), signature).unwrap();
    std::fs::write(at("allowed"), format!("console.example {}\n", token.public())).unwrap();
    let mut verify = Command::new("ssh-keygen")
        .args(["-Y", "verify", "-I", "console.example", "-n", "pinfold-bundle", "-f"])
        .arg(at("allowed"))
        .arg("-s")
        .arg(at("sig"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    verify.stdin.take().unwrap().write_all(&manifest).unwrap();
    assert!(verify.wait().unwrap().success());
}

#[test]
fn a_bundle_that_is_signed_later_is_none_until_then() {
    let world = World::new();
    let (head, index, trust) = (world.head(), world.index(), world.trust(0));
    let recipients = [world.identity.0.to_public().into()];
    let plan = Plan { head: &head, recipients: &recipients, index: &index, chain: &world.chain, revoked: &[] };
    let contents: Vec<_> = std::iter::once(&b""[..]).chain(world.files.iter().map(|(_, c)| &c[..])).collect();
    let file = tempfile::tempfile().unwrap();
    let made = seal_unsigned(&file, &plan, &mut |n| Ok(Secret::copy_of(contents[n])?), world.signer().public());
    let made = made.unwrap();
    assert_eq!(made.size, file.metadata().unwrap().len());
    assert_eq!(code(&world, &file, &trust), "unsigned");
    let other = KeySigner::generate().unwrap();
    assert!(matches!(finish(&file, &other), Err(SealError::OtherSigner { .. })));
    let (manifest, bytes) = to_be_signed(&file).unwrap();
    assert_eq!(manifest, made.manifest);
    let wrong = other.sign(BUNDLE_NAMESPACE, &bytes).unwrap();
    assert!(matches!(finish_with(&file, &wrong), Err(SealError::Sign(SignError::Wrong))));
    let elsewhere = world.signer().sign("file", &bytes).unwrap();
    assert!(matches!(finish_with(&file, &elsewhere), Err(SealError::Sign(SignError::Wrong))));
    assert_eq!(code(&world, &file, &trust), "unsigned", "it is as it was");
    assert_eq!(finish(&file, world.signer()).unwrap(), made);
    assert_eq!(finish(&file, world.signer()).unwrap(), made, "twice does no harm");
    assert_eq!(code(&world, &file, &trust), "taken");
    // What was changed meanwhile is not signed.
    let len = file.metadata().unwrap().len();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", len - 1500).unwrap();
    assert!(matches!(to_be_signed(&file), Err(SealError::Refused(r)) if r.code() == "other-payload"));
}

#[test]
fn keys_recipients_and_fingerprints_are_taken_in_few_forms() {
    let key = World::new().signer().public().clone();
    let line = key.to_string();
    for same in [line.clone(), format!(" {line} somebody@desk\n"), key.one_word(), line.replace(' ', "  ")] {
        assert_eq!(PublicKey::parse(&same), Ok(key.clone()), "{same}");
    }
    let fingerprint = key.fingerprint();
    assert_eq!(Fingerprint::parse(&fingerprint.to_string()), Ok(fingerprint));
    for bad in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "AAAA", &line[..40], &"x".repeat(5000)] {
        assert_eq!(PublicKey::parse(bad), Err(KeyError::NotAKey), "{bad}");
        assert!(Recipient::parse(bad, RecipientUse::Host).is_err(), "{bad}");
        assert!(Fingerprint::parse(bad).is_err(), "{bad}");
    }
    let folder = tempfile::tempdir().unwrap();
    for kind in ["rsa", "ecdsa"] {
        let path = folder.path().join(kind);
        let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(&path).status();
        assert!(made.unwrap().success());
        let text = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        assert_eq!(PublicKey::parse(&text), Err(KeyError::Kind), "{kind}");
        assert!(matches!(Recipient::parse(&text, RecipientUse::Host), Err(RecipientError::Kind(_))), "{kind}");
        let private = std::fs::read(&path).unwrap();
        assert!(ssh_identity(&private).is_err_and(|e| e != RecipientError::NotARecipient), "{kind}");
    }
    for (passphrase, taken) in [("", true), ("open sesame", false)] {
        let path = folder.path().join(format!("ed25519{taken}"));
        let made = Command::new("ssh-keygen").args(["-q", "-N", passphrase, "-t", "ed25519", "-f"]).arg(&path).status();
        assert!(made.unwrap().success());
        assert_eq!(ssh_identity(&std::fs::read(&path).unwrap()).is_ok(), taken);
    }
    assert!(ssh_identity(b"").is_err());
    // A host's own key opens what was encrypted to it.
    assert_eq!(Recipient::parse(&format!("{line} root@h1"), RecipientUse::Host).unwrap().to_string(), line);
    assert_eq!(Recipient::parse(&key.one_word(), RecipientUse::Host).unwrap().to_string(), line);
    let age1 = age::x25519::Identity::generate().to_public().to_string();
    assert_eq!(Recipient::parse(&age1, RecipientUse::Host).unwrap().to_string(), age1);
    assert!(
        Recipient::parse("age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", RecipientUse::Host)
            .is_err()
    );
}
