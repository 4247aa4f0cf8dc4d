//! A key that somebody asked the kernel for: the secret is opened for him as if he read the file.

use crate::audit;
use crate::meter::{Payer, Resource};
use crate::model::{Scope, SecretPath, Subject, Timestamp};
use crate::secret::Secret;
use crate::sys::keyctl::{KeyId, PAYLOAD_MAX};
use crate::sys::requested;
use crate::vault::open::WhichVersion;
use crate::vault::{Vault, VaultError};
use crate::wire::{Actor, Fault, KeyRequest};

/// Seconds that a requested key lives: the next one who needs it asks again, and is judged again.
const LIFE: u32 = 60;

impl Vault {
    /// The content for the thread that waits, and how long the key may live. The peer must be what the kernel started; and what it
    /// says of who waits, and for what, is not believed but looked for.
    pub(in crate::vault) fn request_key(&self, actor: &Actor, asked: &KeyRequest) -> Result<(Secret, u32), Fault> {
        let helper = self.admin(actor)?.who();
        let refused = |reason: String| {
            self.refuse(audit::Operation::Open, &asked.path, None, &helper, &reason);
            Fault::Refused(reason)
        };
        let pid = u32::try_from(actor.pid).unwrap_or(0);
        match self.callers.is_started_by_kernel(pid) {
            Ok(true) if actor.uid == 0 => {}
            Ok(_) => return Err(refused("keys on request are for what the kernel started alone".into())),
            Err(doubt) => return Err(refused(format!("in doubt: {doubt}"))),
        }
        // Held before its key is looked for: the one who waits then is the one who is judged.
        let waiting = self.callers.identify_waiting(asked.tid).map_err(|e| refused(format!("in doubt: {e}")))?;
        let waiting = waiting.through(&helper);
        let made = requested::look(waiting.uid().0, KeyId(asked.key), KeyId(asked.auth))
            .map_err(|e| refused(format!("no key is being made for {}: {e}", asked.tid)))?;
        let wanted = format!("pinfold:{}", asked.path);
        if made.tid != asked.tid || made.uid != waiting.uid().0 {
            return Err(refused(format!("the key is being made for another than {}", asked.tid)));
        }
        if made.kind != "user" || made.description != wanted.as_bytes() {
            return Err(refused("the key that is being made is for something else".into()));
        }
        let refused = |path: &str, reason: String| {
            self.refuse(audit::Operation::Open, path, None, &waiting.who(), &reason);
            Fault::Refused(reason)
        };
        let charged = self.meter.charge(Resource::Upcalls, Payer::Uid(waiting.uid().0), 1);
        let _making = charged.map_err(|error| refused(&asked.path, error.to_string()))?;
        let inside = waiting.instance().map_err(|e| refused(&asked.path, format!("in doubt: {e}")))?;
        let path = match inside.map(|instance| instance.scope) {
            // As it sees it: its folder is the root.
            Some(Scope::Container(name)) => format!("containers/{name}/{}", asked.path),
            Some(Scope::Host) | None => asked.path.clone(),
        };
        let parsed = SecretPath::parse(&path).map_err(|e| Fault::Usage(e.to_string()))?;
        let ino = self.with_tree(|t| t.find(&parsed))?.ok_or(VaultError::NotFound)?;
        let node = self.node(ino)?;
        if let Err(reason) = self.may_walk_to(&node, &waiting) {
            self.refuse(audit::Operation::Open, &path, None, &waiting.who(), &reason);
            return Err(Fault::Refused(reason));
        }
        let opened = self.open_as(&waiting, ino, WhichVersion::Current, audit::Operation::Open)?;
        if opened.content.is_empty() || opened.content.len() > PAYLOAD_MAX {
            return Err(Fault::Refused(format!("a key has 1 to {PAYLOAD_MAX} bytes")));
        }
        let own = node.meta.conditions().expires.and_then(|text| humantime::parse_rfc3339_weak(text).ok());
        let ends = [own.map(Timestamp::from), self.conditions_of_sources(&node).expires].into_iter().flatten().min();
        let left = ends.map(|at| at.secs - self.clock.now().secs);
        let timeout = left.map_or(LIFE, |left| u32::try_from(left.clamp(1, i64::from(LIFE))).unwrap_or(LIFE));
        Ok((opened.content, timeout))
    }
}
