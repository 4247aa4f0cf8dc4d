//! A console that hosts trust: it seals and signs bundles as `pinfold export` does, without a store of its own.
//!
//! Owns a signing key. What is in a bundle is for the test to say.

use pinfold::bundle::{
    self, Admin, Chain, Entry, EntryKind, Fingerprint, Head, Index, KeySigner, Plan, PublicKey, Sha256Hex, Signer,
};
use pinfold::model::{ConsoleName, HostName, SecretPath, Timestamp};
use pinfold::secret::Secret;
use pinfold::stream::{Recipient, RecipientUse};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

/// Its name.
pub const NAME: &str = "hq";
/// What it calls the host.
pub const HOST: &str = "here";

/// A console.
pub struct Console {
    signer: KeySigner,
    recipient: Option<String>,
    /// The keys that it revokes.
    pub revoked: Vec<Fingerprint>,
    /// The host's key for acknowledgements, once it was joined.
    pub ack: Option<PublicKey>,
}

/// A file of a bundle: path, content, owner, mode.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a>(pub &'a str, pub &'a str, pub &'a str, pub u16);

impl Console {
    /// With a key of its own.
    pub fn new() -> Self {
        let signer = KeySigner::generate().expect("locked memory");
        Console { signer, recipient: None, revoked: Vec::new(), ack: None }
    }

    /// The same console with a key of its own: what the host sealed for stays.
    pub fn with_another_key(&self) -> Self {
        Console { recipient: self.recipient.clone(), ack: self.ack.clone(), ..Console::new() }
    }

    /// The fingerprint of its key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.signer.public().fingerprint()
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
        let mut parcel = Parcel { admins: admins.to_vec(), ..Parcel::default() };
        for Sent(at, content, owner, mode) in files {
            let entry = parcel.file(at, content);
            (entry.owner, entry.mode) = ((*owner).to_owned(), *mode);
        }
        self.pack(serial, &parcel, Duration::ZERO)
    }

    /// A bundle of anything, made by a clock that is ahead by so much.
    pub fn pack(&self, serial: u64, parcel: &Parcel, ahead: Duration) -> Vec<u8> {
        self.pack_at(serial, parcel, Timestamp::from(SystemTime::now() + ahead))
    }

    /// A bundle of anything, dated so, and good for a thousand seconds.
    pub fn pack_at(&self, serial: u64, parcel: &Parcel, now: Timestamp) -> Vec<u8> {
        let head = Head {
            console: ConsoleName::parse(NAME).expect("a name"),
            host: HostName::parse(HOST).expect("a name"),
            serial,
            created: now,
            expires: Timestamp { secs: now.secs + 1000, nanos: 0 },
        };
        let contents: Vec<&str> = parcel.entries.values().map(|(_, content)| content.as_str()).collect();
        let index = Index {
            entries: parcel.entries.values().map(|(entry, _)| entry.clone()).collect(),
            admins: parcel.admins.clone(),
        };
        let recipient = self.recipient.as_deref().expect("a host that was joined");
        let recipients = [Recipient::parse(recipient, RecipientUse::Host).expect("a recipient")];
        let (chain, revoked) = (Chain::default(), &self.revoked);
        let plan = Plan { head: &head, recipients: &recipients, index: &index, chain: &chain, revoked };
        let file = tempfile::tempfile().expect("a temporary file");
        let mut content = |n: usize| Ok(Secret::copy_of(contents[n].as_bytes()).expect("locked memory"));
        bundle::seal(&file, &plan, &mut content, &self.signer).expect("a bundle");
        let mut bytes = vec![0; usize::try_from(file.metadata().expect("its size").len()).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("all of it");
        bytes
    }
}

/// What a bundle is to have. Folders on the way are root's, 0755.
#[derive(Debug, Clone, Default)]
pub struct Parcel {
    pub entries: BTreeMap<SecretPath, (Entry, String)>,
    pub admins: Vec<Admin>,
}

impl Parcel {
    /// A file of root's, 0600.
    pub fn file(&mut self, at: &str, content: &str) -> &mut Entry {
        let sha256 = Sha256Hex(Sha256::digest(content).into());
        let kind = EntryKind::File { size: content.len() as u64, sha256, version: 1 };
        self.add(at, kind, 0o600, content)
    }

    /// A symlink.
    pub fn link(&mut self, at: &str, target: &str) -> &mut Entry {
        self.add(at, EntryKind::Symlink { target: target.into() }, 0o777, "")
    }

    /// A directory.
    pub fn folder(&mut self, at: &str) -> &mut Entry {
        self.add(at, EntryKind::Directory, 0o755, "")
    }

    fn add(&mut self, at: &str, kind: EntryKind, mode: u16, content: &str) -> &mut Entry {
        let path = SecretPath::parse(at).expect("a path");
        for n in 1..path.names().len() {
            let above = SecretPath::from_names(path.names()[..n].to_vec());
            let folder = || (entry(above.clone(), EntryKind::Directory, 0o755), String::new());
            self.entries.entry(above.clone()).or_insert_with(folder);
        }
        self.entries.insert(path.clone(), (entry(path.clone(), kind, mode), content.to_owned()));
        &mut self.entries.get_mut(&path).expect("it was put in").0
    }
}

fn entry(path: SecretPath, kind: EntryKind, mode: u16) -> Entry {
    let (owner, group, mtime) = ("root".to_owned(), "root".to_owned(), Timestamp::now());
    Entry { path, kind, owner, group, mode, acl: None, default_acl: None, xattrs: Vec::new(), mtime }
}
