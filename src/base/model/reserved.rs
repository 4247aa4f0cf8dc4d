//! What of the tree is kept for pinfold itself: what it serves by path, and the folders on the way there.
//!
//! Owns these rules. They hold for everything that comes from elsewhere, whatever is configured; an admin of this machine
//! arranges the tree as they like.

use super::path::SecretPath;

/// Where sshd finds the keys of the admins: one file each.
pub const AUTHORIZED_KEYS: &str = "ssh/authorized_keys";
/// The folder of the containers' scopes; each has its folder in it.
pub const CONTAINERS: &str = "containers";

/// Where nothing comes from elsewhere: the folder itself, and all below it.
const OWN: &[&[&str]] = &[&[".pinfold"], &["ssh", "authorized_keys"], &["admins"], &["passwords"], &["users"]];

/// For what a path is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// Nobody else puts anything here.
    Own,
    /// Others may have something in it, but it is a directory of this machine's, and stays one.
    Folder,
}

impl Reserved {
    /// What of it holds for a path; `credentials` is the folder that units' credentials are served from.
    pub fn of(path: &SecretPath, credentials: Option<&SecretPath>) -> Option<Self> {
        let names: Vec<&str> = path.names().iter().map(|name| name.as_str()).collect();
        if OWN.iter().any(|own| names.starts_with(own)) {
            return Some(Reserved::Own);
        }
        let above = OWN.iter().any(|own| own.starts_with(&names));
        let container = names.first() == Some(&CONTAINERS) && names.len() <= 2;
        let served = credentials.is_some_and(|folder| folder.names().starts_with(path.names()));
        (!names.is_empty() && (above || container || served)).then_some(Reserved::Folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Reserved> {
        let credentials = SecretPath::parse("svc/credentials").unwrap();
        Reserved::of(&SecretPath::parse(text).unwrap(), Some(&credentials))
    }

    #[test]
    fn what_is_served_by_path_and_every_folder_on_the_way() {
        for own in [
            ".pinfold",
            ".pinfold/status",
            "ssh/authorized_keys",
            "ssh/authorized_keys/root",
            "admins",
            "admins/alice/k.pub",
            "passwords/db/ssh/root",
            "users",
        ] {
            assert_eq!(of(own), Some(Reserved::Own), "{own}");
        }
        for folder in ["ssh", "containers", "containers/web", "svc", "svc/credentials"] {
            assert_eq!(of(folder), Some(Reserved::Folder), "{folder}");
        }
        for free in ["", "ssh/known_hosts", "ssh/authorized_keys2", "sshd", "containers/web/pin", "svc/x", "admin", "a"]
        {
            assert_eq!(of(free), None, "{free}");
        }
    }
}
