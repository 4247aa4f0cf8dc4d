//! What the tests of bundles share: a console, a host, and an identity that counts how often it is asked.

mod hostile;
mod inner;
mod outer;
mod rotation;
mod signers;

use super::*;
use crate::model::{ConsoleName, HostName, SecretPath, Timestamp};
use crate::secret::Secret;
use crate::stream::{Recipient, RecipientError, RecipientUse, ssh_identity};
use age_core::format::{FileKey, Stanza};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::fs::File;

/// A moment at which all the test bundles are made.
pub(super) const NOW: Timestamp = Timestamp { secs: 1_800_000_000, nanos: 0 };

/// An identity that knows how often something was to be decrypted.
pub(super) struct Counting(pub age::x25519::Identity, pub Cell<usize>);

impl age::Identity for Counting {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        self.1.set(self.1.get() + 1);
        self.0.unwrap_stanza(stanza)
    }
}

/// A console with its signing keys, the newest last, and one host.
pub(super) struct World {
    pub console: ConsoleName,
    pub host: HostName,
    pub keys: Vec<KeySigner>,
    pub chain: Chain,
    pub revoked: Vec<Fingerprint>,
    pub identity: Counting,
    pub serial: u64,
    pub files: Vec<(&'static str, Vec<u8>)>,
}

impl World {
    pub fn new() -> Self {
        World {
            console: ConsoleName::parse("console.example").unwrap(),
            host: HostName::parse("h1").unwrap(),
            keys: vec![KeySigner::generate().unwrap()],
            chain: Chain::default(),
            revoked: Vec::new(),
            identity: Counting(age::x25519::Identity::generate(), Cell::new(0)),
            serial: 10,
            files: vec![("nut/pin", b"hunter2\n".to_vec()), ("web.key", vec![7; 70_000]), ("zero", Vec::new())],
        }
    }

    pub fn signer(&self) -> &KeySigner {
        self.keys.last().unwrap()
    }

    pub fn rotate(&mut self) {
        let new = KeySigner::generate().unwrap();
        let (old, console) = (self.keys.last().unwrap(), &self.console);
        self.chain.rotate(console, old, new.public(), NOW).unwrap();
        self.keys.push(new);
    }

    pub fn head(&self) -> Head {
        Head {
            console: self.console.clone(),
            host: self.host.clone(),
            serial: self.serial,
            created: NOW,
            expires: Timestamp { secs: NOW.secs + 86_400, nanos: 0 },
        }
    }

    pub fn index(&self) -> Index {
        let mut entries = vec![entry("nut", EntryKind::Directory)];
        entries.extend(self.files.iter().map(|(path, content)| entry(path, file(content))));
        Index { entries, admins: Vec::new() }
    }

    pub fn seal(&self) -> File {
        self.seal_as(&self.head(), self.signer())
    }

    pub fn seal_as(&self, head: &Head, signer: &dyn Signer) -> File {
        let out = tempfile::tempfile().unwrap();
        let (index, recipient) = (self.index(), self.identity.0.to_public().into());
        let plan = Plan { head, recipients: &[recipient], index: &index, chain: &self.chain, revoked: &self.revoked };
        let mut content = |number: usize| {
            let path = index.entries[number].path.to_string();
            let (_, content) = self.files.iter().find(|(p, _)| *p == path).unwrap();
            Ok(Secret::copy_of(content)?)
        };
        seal(&out, &plan, &mut content, signer).unwrap();
        out
    }

    /// What a host knows that was joined with the console's key of this number.
    pub fn trust(&self, key: usize) -> Trust {
        Trust::new(self.console.clone(), self.host.clone(), self.keys[key].public().clone())
    }
}

pub(super) fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: SecretPath::parse(path).unwrap(),
        mode: if kind == EntryKind::Directory { 0o755 } else { 0o640 },
        kind,
        owner: "nut".into(),
        group: "root".into(),
        acl: None,
        default_acl: None,
        xattrs: vec![("user.pinfold.unit".into(), b"nut-server.service".to_vec())],
        mtime: NOW,
    }
}

pub(super) fn file(content: &[u8]) -> EntryKind {
    let sha256 = Sha256Hex(Sha256::digest(content).into());
    EntryKind::File { size: content.len() as u64, sha256, version: 3 }
}

#[test]
fn what_was_sealed_opens_with_everything_in_it() {
    let world = World::new();
    let bundle = world.seal();
    let checked = check(&bundle, &world.trust(0), NOW).unwrap();
    assert_eq!(checked.manifest().host, world.host);
    let trust = checked.new_trust();
    assert_eq!((trust.last_serial, trust.number), (10, Some(0)));
    assert_eq!(world.identity.1.get(), 0, "checking decrypts nothing");
    let mut contents = checked.open(&world.identity).unwrap();
    assert_eq!(contents.index(), &world.index());
    let mut got = Vec::new();
    while let Some(content) = contents.next_file().unwrap() {
        got.push((content.entry, content.secret.expose().to_vec()));
    }
    let wanted: Vec<_> = world.files.iter().enumerate().map(|(i, (_, c))| (i + 1, c.clone())).collect();
    assert_eq!(got, wanted);
}
