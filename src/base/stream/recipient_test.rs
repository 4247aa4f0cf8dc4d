//! Each kind of recipient, in each place; and everything that looks like one.

use super::{Kind, POSTQUANTUM, Recipient, RecipientError, RecipientUse};
use age::Recipient as _;
use age_core::format::FileKey;
use std::collections::HashSet;
use std::process::Command;

const PLACES: [RecipientUse; 4] =
    [RecipientUse::Recovery, RecipientUse::Identity, RecipientUse::Program, RecipientUse::Host];
/// The base point of P-256: the key whose private half is 1.
const TAG: &str = "age1tag1qd43050juykyy3lchnnw2caygre8wqmasyk7kvaq7jsnj3wcnrpfvt5hxye";
const PLUGIN: &str = "age1yubikey1qgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqy8rymap";

/// The same point, after an ML-KEM key that is all zeroes.
fn tagpq() -> String {
    let end = "ydvtaruhp93py079uumjk8fzq7fmsxlvp9h4n8g855yu5tkycc2tylc6zutlp5lum3mn7kjnup70pv27wxdtkkv27em9mvsrgx7l4rag8q3agq";
    format!("age1tagpq1{}{end}", "q".repeat(1895))
}

/// A public key as ssh-keygen makes one.
fn ssh(kind: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "me@desk", "-t", kind, "-f"]).arg(&path).status();
    assert!(made.unwrap().success());
    std::fs::read_to_string(path.with_extension("pub")).unwrap()
}

#[test]
fn each_kind_is_taken_in_its_places_and_refused_elsewhere_with_what_to_use_instead() {
    let (x25519, ed25519) = (age::x25519::Identity::generate().to_public().to_string(), ssh("ed25519"));
    let here = |kind| match kind {
        Kind::X25519 | Kind::Ssh => [true, true, true, true],
        Kind::Tag | Kind::TagPq => [true, true, true, false],
        Kind::Plugin => [false, false, true, false],
    };
    for (text, kind) in [
        (&*x25519, Kind::X25519),
        (&*ed25519, Kind::Ssh),
        (TAG, Kind::Tag),
        (&*tagpq(), Kind::TagPq),
        (PLUGIN, Kind::Plugin),
    ] {
        for (place, taken) in PLACES.into_iter().zip(here(kind)) {
            match Recipient::parse(text, place) {
                Ok(recipient) => {
                    assert!(taken, "{kind} {place:?}");
                    assert_eq!(recipient.kind(), kind);
                    // Its text is one again, without the comment of an SSH key.
                    let shown = recipient.to_string();
                    assert_eq!(shown, text.trim().trim_end_matches(" me@desk"));
                    assert_eq!(Recipient::parse(&shown, place).unwrap().to_string(), shown);
                }
                Err(error) => {
                    assert!(!taken, "{kind} {place:?}: {error}");
                    assert_eq!(error, RecipientError::Misplaced(kind, place));
                    let told = error.to_string();
                    assert!(
                        told.starts_with(&kind.to_string()) && told.contains("use ") | told.contains("identity add")
                    );
                }
            }
        }
    }
    let one_word = ed25519.trim().replacen(' ', ":", 1);
    assert_eq!(Recipient::parse(&one_word, RecipientUse::Host).unwrap().kind(), Kind::Ssh);
}

#[test]
fn what_is_none_is_refused_everywhere_alike() {
    let good = age::x25519::Identity::generate();
    let (good, secret) =
        (good.to_public().to_string(), age::secrecy::ExposeSecret::expose_secret(&good.to_string()).to_owned());
    let ed25519 = ssh("ed25519").trim().to_owned();
    let mistyped = RecipientError::Mistyped("age1…");
    let kind = |kind: &str| RecipientError::Kind(kind.into());
    let swapped = if good.ends_with('q') { "p" } else { "q" };
    let hybrid = format!("age1pq1{}qqtn9x8d", "q".repeat(1944));
    let cases: Vec<(String, RecipientError)> = vec![
        (String::new(), RecipientError::NotARecipient),
        ("garbage".into(), RecipientError::NotARecipient),
        ("\u{fffd}\u{0}".into(), RecipientError::NotARecipient),
        ("x".repeat(5000), RecipientError::NotARecipient),
        (format!("age1{}", "q".repeat(5000)), RecipientError::NotARecipient),
        (format!("{good}\n{good}"), RecipientError::NotARecipient),
        (format!("{ed25519}\n{ed25519}"), RecipientError::NotARecipient),
        (format!("{}{swapped}", &good[..good.len() - 1]), mistyped.clone()),
        (good[..40].into(), mistyped.clone()),
        (format!("{good}q"), mistyped.clone()),
        ("age1".into(), mistyped.clone()),
        // The checksum is right, the key is a byte short.
        ("age1pyqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqlxazpm".into(), mistyped.clone()),
        // Another HRP under the same key and checksum.
        (good.replacen("age1", "age2", 1), RecipientError::NotARecipient),
        (good.replacen("age1", "age1nope1", 1), mistyped.clone()),
        (TAG.replace("age1tag1", "age1tagpq1"), RecipientError::Mistyped("age1tagpq1…")),
        (format!("{}x", &TAG[..TAG.len() - 1]), RecipientError::Mistyped("age1tag1…")),
        (format!("{}x", &tagpq()[..2014]), RecipientError::Mistyped("age1tagpq1…")),
        (good.to_uppercase(), RecipientError::Capitals),
        (good.replace('q', "Q").replacen("age1", "age1Q", 1), RecipientError::Capitals),
        (secret.clone(), RecipientError::Secret),
        (secret.to_lowercase(), RecipientError::Secret),
        ("AGE-PLUGIN-YUBIKEY-1QQQQ".into(), RecipientError::Secret),
        ("-----BEGIN OPENSSH PRIVATE KEY-----".into(), RecipientError::Secret),
        (hybrid, RecipientError::Hybrid),
        (ssh("rsa"), kind("ssh-rsa")),
        ("rsa AAAA".into(), RecipientError::NotARecipient),
        (ssh("ecdsa"), kind("ecdsa-sha2-nistp256")),
        ("sk-ssh-ed25519@openssh.com AAAA".into(), kind("sk-ssh-ed25519@openssh.com")),
        ("ssh-ed25519".into(), RecipientError::NotARecipient),
        ("ssh-ed25519 AAAA".into(), RecipientError::Mistyped("ssh-ed25519")),
        (ed25519[..60].into(), RecipientError::Mistyped("ssh-ed25519")),
    ];
    for (text, expected) in cases {
        for place in PLACES {
            let error = Recipient::parse(&text, place).unwrap_err();
            assert_eq!(error, expected, "{text} {place:?}");
            assert!(!error.to_string().contains(&secret[20..]), "a secret is not shown");
        }
    }
}

#[test]
fn keys_that_anybody_opens_are_refused_before_age_panics_at_them() {
    for low in [
        "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z",
        "age1qyqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqj7vrya",
        "age1anlllllllllllllllllllllllllllllllllllllllllllllllals4n2t7m",
        "age1ahlllllllllllllllllllllllllllllllllllllllllllllllalsn46ayy",
        "age1amlllllllllllllllllllllllllllllllllllllllllllllllalselrwrv",
        "age1ur4h5lpmgxu2u9jku0a0r87ydtdqnr0tnsetrlvxvgz3vh6fhqqqzyt4v9",
        "age1t7wft09r2zxzfvwsk92eeql0tvzyghxytqwgapkcyf8dm5ylz9ts6wm9s8",
        // The highest bit is not looked at by X25519.
        "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqzqqsuwj9m",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        for place in PLACES {
            assert_eq!(Recipient::parse(low, place).unwrap_err(), RecipientError::LowOrder, "{low}");
        }
    }
}

#[test]
fn a_label_is_what_age_says_too() {
    let x25519 = age::x25519::Identity::generate().to_public().to_string();
    for (text, label, tag) in [
        (&*x25519, None, "X25519"),
        (&*ssh("ed25519"), None, "ssh-ed25519"),
        (TAG, None, "p256tag"),
        (&*tagpq(), Some(POSTQUANTUM), "mlkem768p256tag"),
    ] {
        let recipient = Recipient::parse(text, RecipientUse::Recovery).unwrap();
        let (stanzas, labels) = recipient.wrap_file_key(&FileKey::new(Box::new([7; 16]))).unwrap();
        assert_eq!(recipient.label(), label);
        assert_eq!(labels, label.into_iter().map(String::from).collect::<HashSet<_>>());
        assert_eq!(stanzas.iter().map(|s| &*s.tag).collect::<Vec<_>>(), [tag]);
    }
    let plugin = Recipient::parse(PLUGIN, RecipientUse::Program).unwrap();
    assert!(plugin.wrap_file_key(&FileKey::new(Box::new([7; 16]))).is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_was_changed_is_refused_or_can_be_sealed_to(kind in 0usize..5, at in 0usize..2100, with: char, byte: u8) {
        let ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        let x25519 = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let good = [x25519, ssh, TAG, &tagpq(), PLUGIN][kind].to_owned();
        let at = at % good.len();
        let with = if byte < 200 { char::from(b"023456789acdefghjklmnpqrstuvwxyzABCXYZ+/= :1"[usize::from(byte) % 44]) } else { with };
        let text: String = good.chars().enumerate().map(|(n, c)| if n == at { with } else { c }).collect();
        for place in PLACES {
            if let Ok(recipient) = Recipient::parse(&text, place) {
                let wrapped = recipient.wrap_file_key(&FileKey::new(Box::new([7; 16])));
                proptest::prop_assert_eq!(wrapped.is_ok(), recipient.kind() != Kind::Plugin);
                // Bech32 finds each single mistake.
                proptest::prop_assert!(recipient.kind() == Kind::Ssh || text == good, "{}", text);
            }
        }
    }
}
