//! A key of type `user` in root's own keyring (`@u`), by its description: put there by hand, by PAM, or by an initramfs.
//!
//! Owns nothing in the keyring: it reads, and leaves the key where it is.

use super::method::{Kind, Method, MethodError, Stop, answer_of};
use crate::secret::Secret;
use crate::sys::keyctl::{self, KeyError, PAYLOAD_MAX};
use crate::wire::UnlockWith;

/// The key of this description.
#[derive(Debug)]
pub struct KernelKey(pub String);

impl Method for KernelKey {
    fn name(&self) -> &str {
        "kernel keyring"
    }

    fn kind(&self) -> Kind {
        Kind::Ready
    }

    /// Runs on a thread of its own: the key is read through the thread's keyring, which ends with it.
    fn answer(&mut self, _: &Stop) -> Result<UnlockWith, MethodError> {
        let told = |error: KeyError| MethodError::Failed(format!("the key '{}': {error}", self.0));
        let mut payload = Secret::zeroed(PAYLOAD_MAX)?;
        let len = keyctl::read_user_key(&self.0, payload.expose_mut()).map_err(told)?;
        payload.resize(len)?;
        if payload.is_empty() { Err(MethodError::Nothing) } else { Ok(answer_of(payload)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Instant;

    #[test]
    fn a_key_in_the_users_keyring_is_found_by_its_description() {
        let name = format!("pinfold-test-{}", std::process::id());
        let ask = |name: &str| {
            let mut method = KernelKey(name.to_owned());
            std::thread::spawn(move || method.answer(&Stop::new(Instant::now()).unwrap())).join().unwrap()
        };
        assert!(matches!(ask(&name), Err(MethodError::Failed(text)) if text.contains("not there")));
        let added = Command::new("keyctl").args(["add", "user", &name, "hunter2", "@u"]).output().unwrap();
        assert!(added.status.success());
        let said = ask(&name);
        let serial = String::from_utf8(added.stdout).unwrap();
        Command::new("keyctl").args(["unlink", serial.trim(), "@u"]).output().unwrap();
        assert!(matches!(said.unwrap(), UnlockWith::Passphrase(p) if p.expose() == b"hunter2"));
    }
}
