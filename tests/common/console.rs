//! A console that hosts trust: it seals and signs bundles as `pinfold export` does, without a store of its own.
//!
//! Owns a signing key. What is in a bundle is for the test to say.

use pinfold::bundle::{
    self, Admin, Chain, Entry, EntryKind, Head, Index, KeySigner, Plan, PublicKey, Recipient, Sha256Hex, Signer,
};
use pinfold::model::{ConsoleName, HostName, SecretPath, Timestamp};
use pinfold::secret::Secret;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

/// Its name.
pub const NAME: &str = "hq";
/// What it calls the host.
pub const HOST: &str = "here";

/// A console.
pub struct Console {
    signer: KeySigner,
    recipient: Option<String>,
    /// The host's key for acknowledgements, once it was joined.
    pub ack: Option<PublicKey>,
}

/// A file of a bundle: path, content, owner, mode.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a>(pub &'a str, pub &'a str, pub &'a str, pub u16);

impl Console {
    /// With a key of its own.
    pub fn new() -> Self {
        Console { signer: KeySigner::generate().expect("locked memory"), recipient: None, ack: None }
    }

    /// The line that `pinfold join --signer` takes.
    pub fn signer(&self) -> String {
        self.signer.public().to_string()
    }

    /// Takes the line that `pinfold join` printed for its policy.
    #[track_caller]
    pub fn knows(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[..2], ["host", HOST], "{line}");
        self.recipient = Some(words[2].into());
        let ack = words[3].strip_prefix("ack=").expect("the key for acknowledgements");
        self.ack = Some(PublicKey::parse(ack).expect("a key"));
    }

    /// Plain files of root's, in folders of root's.
    pub fn bundle(&self, serial: u64, files: &[(&str, &str)]) -> Vec<u8> {
        let files: Vec<Sent<'_>> = files.iter().map(|(at, content)| Sent(at, content, "root", 0o600)).collect();
        self.seal(serial, &files, &[])
    }

    /// A bundle.
    pub fn seal(&self, serial: u64, files: &[Sent<'_>], admins: &[Admin]) -> Vec<u8> {
        let now = Timestamp::now();
        let head = Head {
            console: ConsoleName::parse(NAME).expect("a name"),
            host: HostName::parse(HOST).expect("a name"),
            serial,
            created: now,
            expires: Timestamp { secs: now.secs + 1000, nanos: 0 },
        };
        let mut entries: BTreeMap<SecretPath, (Entry, &str)> = BTreeMap::new();
        for Sent(at, content, owner, mode) in files {
            let path = SecretPath::parse(at).expect("a path");
            for n in 1..path.names().len() {
                let above = SecretPath::from_names(path.names()[..n].to_vec());
                let folder = entry(above.clone(), EntryKind::Directory, "root", 0o755, now);
                entries.entry(above).or_insert((folder, ""));
            }
            let sha256 = Sha256Hex(Sha256::digest(content).into());
            let kind = EntryKind::File { size: content.len() as u64, sha256, version: 1 };
            entries.insert(path.clone(), (entry(path, kind, owner, *mode, now), content));
        }
        let contents: Vec<&str> = entries.values().map(|(_, content)| *content).collect();
        let index = Index { entries: entries.values().map(|(e, _)| e.clone()).collect(), admins: admins.to_vec() };
        let recipient = self.recipient.as_deref().expect("a host that was joined");
        let recipients = [Recipient::parse(recipient).expect("a recipient")];
        let plan = Plan { head: &head, recipients: &recipients, index: &index, chain: &Chain::default(), revoked: &[] };
        let file = tempfile::tempfile().expect("a temporary file");
        let mut content = |n: usize| Ok(Secret::copy_of(contents[n].as_bytes()).expect("locked memory"));
        bundle::seal(&file, &plan, &mut content, &self.signer).expect("a bundle");
        let mut bytes = vec![0; usize::try_from(file.metadata().expect("its size").len()).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("all of it");
        bytes
    }
}

fn entry(path: SecretPath, kind: EntryKind, owner: &str, mode: u16, mtime: Timestamp) -> Entry {
    let (owner, group) = (owner.to_owned(), "root".to_owned());
    Entry { path, kind, owner, group, mode, acl: None, default_acl: None, xattrs: Vec::new(), mtime }
}
