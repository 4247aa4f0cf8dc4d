//! Making a store: its identity, its keys, its first nodes.

use super::VaultError;
use super::node::{FACTS_INO, Facts, Node, Record};
use super::protectors::{MAIN, Turn};
use super::unlock::{ESCROW_META, INDEX_META};
use crate::model::{CONTAINERS, Gid, Ino, Kind, Meta, Name, Scope, Timestamp, Uid};
use crate::seal::{self, Protection, RecordKey, RecoverySet};
use crate::secret::{Kek, Secret};
use crate::store::{Batch, ID_META, Store};
use std::path::Path;
use zeroize::Zeroizing;

/// Who can open everything when the passphrase is lost.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// Recipients; one at least.
    pub recipients: Vec<String>,
}

/// Makes a store in a missing or empty folder. Gives back the plain identity file for [`Protection::Plain`], which is
/// the caller's to keep; an encrypted one is in the store.
///
/// # Errors
/// [`VaultError::Failed`] if the folder is not empty; [`VaultError::Invalid`] for a bad recipient or passphrase.
pub fn create_store(
    dir: &Path,
    protection: &Protection<'_>,
    recovery: &Recovery,
) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
    let invalid = |e: seal::SealError| VaultError::Invalid(e.to_string());
    let recovery = RecoverySet::parse(&recovery.recipients).map_err(|e| VaultError::Invalid(e.to_string()))?;
    if recovery.is_empty() {
        return Err(VaultError::Invalid("a store needs a recovery recipient".into()));
    }
    let (identity, file) = seal::new_identity(protection).map_err(invalid)?;
    let escrow = seal::make_identity();
    let index = Secret::random(32)?;
    let kek = Secret::random(Kek::LEN)?;
    let all = [identity.recipient(), escrow.recipient()];

    let record_key = RecordKey::derive(&index);
    let mut batch = Batch::default();
    let mut put = |ino, record: Record| batch.nodes.insert(ino, Some(record_key.seal(ino, &record.encode())));
    // Nobody is in its group, so the kernel never asks for its ACL.
    let root = directory(Ino::ROOT, None, Meta::new(Uid::ROOT, Gid::NOBODYS, 0o705));
    let containers = Name::parse(CONTAINERS.as_bytes())?;
    put(Ino::ROOT, Record::Node(root));
    put(Ino::FIRST, Record::Node(directory(Ino::ROOT, Some(containers), Meta::new(Uid::ROOT, Gid(0), 0o700))));
    put(
        FACTS_INO,
        Record::Facts(Facts {
            ino_limit: Ino::FIRST.0 + 1,
            recovery: recovery.texts(),
            identity: identity.recipient().to_string(),
            escrow: escrow.recipient().to_string(),
            revoked: Vec::new(),
            resealing: false,
            made: Timestamp::now(),
        }),
    );
    batch.scopes.insert(Scope::Host.as_str().to_owned(), Some(seal::seal_key(&kek, &all)));
    let mut id = vec![0; 16];
    getrandom::getrandom(&mut id).map_err(|e| VaultError::Failed(e.to_string()))?;
    batch.meta.insert(ID_META.to_owned(), Some(id));
    batch.meta.insert(INDEX_META.to_owned(), Some(seal::seal_key(&index, &all)));
    batch.meta.insert(ESCROW_META.to_owned(), Some(seal::seal_escrow(&escrow, &recovery)?));
    match protection {
        Protection::Passphrase(_) | Protection::Recipient(_) => {
            Store::create(dir, &index, batch, &[(&Turn::Current.file_name(MAIN), &file)])?;
            Ok(None)
        }
        Protection::Plain => {
            Store::create(dir, &index, batch, &[])?;
            Ok(Some(file))
        }
    }
}

fn directory(parent: Ino, name: Option<Name>, meta: Meta) -> Node {
    Node {
        parent,
        name,
        kind: Kind::Directory,
        scope: Scope::Host,
        meta,
        target: None,
        versions: Vec::new(),
        last_number: 0,
        view: None,
    }
}
