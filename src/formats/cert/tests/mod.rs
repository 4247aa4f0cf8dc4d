//! The matching matrix, with openssl(1) as the other side: every type of key in every encoding, with its own certificate and
//! with those of all others.

mod bent;
mod chains;
mod encodings;
mod requests;

use super::*;
use crate::secret::Secret;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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

/// The same for all tests that run side by side; gone with the last of them.
fn made() -> Arc<Made> {
    static MADE: Mutex<Weak<Made>> = Mutex::new(Weak::new());
    let mut there = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    there.upgrade().unwrap_or_else(|| {
        let made = Arc::new(make());
        *there = Arc::downgrade(&made);
        made
    })
}

fn make() -> Made {
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
}

fn passphrase(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

fn now() -> i64 {
    crate::model::Timestamp::now().secs
}
