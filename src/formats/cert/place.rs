//! Where in the tree the things of a certificate are, and whose they are.
//!
//! | path | what |
//! |---|---|
//! | `certs/HOST/key.pem`, `cert.pem`, `chain.pem` | the pair in use and what is above it: HOST's, and nobody else's |
//! | `certs/HOST/next/key.pem`, `request.pem`, `state.json` | what was asked for and is not answered yet; stays here |
//! | `ca/NAME/key.pem`, `cert.pem`, `crl.pem`, `issued.json` | an authority of one's own |

use crate::model::{HostName, MachineNameError, SecretPath};

/// The folder of all certificates that were made here.
pub const FOLDER: &str = "certs";
/// The folder of the own authorities.
pub const AUTHORITIES: &str = "ca";
const NEXT: &str = "next";

/// A part of what belongs to a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The private key in use.
    Key,
    /// The certificate.
    Cert,
    /// What is above it.
    Chain,
    /// The key that a certificate was asked for, and is not in use yet.
    NextKey,
    /// The request.
    Request,
    /// How renewing goes.
    State,
}

/// Where the things of one host, or of one authority, are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertFolder {
    folder: &'static str,
    name: HostName,
}

impl CertFolder {
    /// A host's.
    pub fn host(name: HostName) -> Self {
        CertFolder { folder: FOLDER, name }
    }

    /// An authority's.
    pub fn authority(name: HostName) -> Self {
        CertFolder { folder: AUTHORITIES, name }
    }

    /// Whose.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// Its folder.
    pub fn folder(&self) -> SecretPath {
        self.below("")
    }

    /// A part's path.
    pub fn part(&self, part: Part) -> SecretPath {
        self.below(match part {
            Part::Key => "/key.pem",
            Part::Cert => "/cert.pem",
            Part::Chain => "/chain.pem",
            Part::NextKey => "/next/key.pem",
            Part::Request => "/next/request.pem",
            Part::State => "/next/state.json",
        })
    }

    /// An authority's list of what it took back.
    pub fn crl(&self) -> SecretPath {
        self.below("/crl.pem")
    }

    /// An authority's list of what it signed.
    pub fn issued(&self) -> SecretPath {
        self.below("/issued.json")
    }

    /// Whose place a path is in, and which part it is, if it is one.
    pub fn of(path: &SecretPath) -> Option<(Self, Part)> {
        let names: Vec<&str> = path.names().iter().map(|n| n.as_str()).collect();
        let (folder, name, part) = match names.as_slice() {
            [FOLDER, name, file] => (FOLDER, name, used(file)?),
            [AUTHORITIES, name, file] => (AUTHORITIES, name, used(file)?),
            [FOLDER, name, NEXT, "key.pem"] => (FOLDER, name, Part::NextKey),
            [FOLDER, name, NEXT, "request.pem"] => (FOLDER, name, Part::Request),
            [FOLDER, name, NEXT, "state.json"] => (FOLDER, name, Part::State),
            _ => return None,
        };
        Some((CertFolder { folder, name: HostName::parse(name).ok()? }, part))
    }

    fn below(&self, rest: &str) -> SecretPath {
        SecretPath::parse(&format!("{}/{}{rest}", self.folder, self.name)).expect("a checked name makes a short path")
    }
}

fn used(file: &str) -> Option<Part> {
    Some(match file {
        "key.pem" => Part::Key,
        "cert.pem" => Part::Cert,
        "chain.pem" => Part::Chain,
        _ => return None,
    })
}

/// Whose a path is by itself, without a line of policy: what was made for a host is that host's alone. `None` for anything
/// else, also for a key whose certificate is still asked for.
pub fn host_of(path: &SecretPath) -> Option<HostName> {
    let (place, part) = CertFolder::of(path)?;
    let handed_on = matches!(part, Part::Key | Part::Cert | Part::Chain);
    (place.folder == FOLDER && handed_on).then_some(place.name)
}

/// The name that what a certificate is called asks for: a wildcard's star is written out.
///
/// # Errors
/// [`MachineNameError`] if that is no machine's name.
pub fn name_of(called: &str) -> Result<HostName, MachineNameError> {
    match called.strip_prefix("*.") {
        Some(rest) => HostName::parse(&format!("wildcard.{rest}")),
        None => HostName::parse(called),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(path: &str) -> Option<String> {
        host_of(&SecretPath::parse(path).unwrap()).map(String::from)
    }

    #[test]
    fn what_is_in_use_is_its_hosts_and_nothing_else_is() {
        for file in ["key.pem", "cert.pem", "chain.pem"] {
            assert_eq!(whose(&format!("certs/web.example.org/{file}")).as_deref(), Some("web.example.org"));
        }
        for other in [
            "certs",
            "certs/web",
            "certs/web/next",
            "certs/web/next/key.pem",
            "certs/web/next/request.pem",
            "certs/web/other.pem",
            "certs/.hidden/key.pem",
            "certs/web/key.pem/x",
            "ca/web/key.pem",
            "ca/web/cert.pem",
            "tls/certs/web/key.pem",
            "containers/certs/web/key.pem",
        ] {
            assert_eq!(whose(other), None, "{other}");
        }
    }

    #[test]
    fn wildcards_have_a_folder_too() {
        assert_eq!(name_of("*.example.org").unwrap().as_str(), "wildcard.example.org");
        assert_eq!(name_of("a.example.org").unwrap().as_str(), "a.example.org");
        assert!(name_of("Some Person").is_err());
    }

    #[test]
    fn a_part_is_found_where_it_is_put() {
        let name = HostName::parse("web").unwrap();
        let parts = [Part::Key, Part::Cert, Part::Chain, Part::NextKey, Part::Request, Part::State];
        for part in parts {
            let place = CertFolder::host(name.clone());
            assert_eq!(CertFolder::of(&place.part(part)), Some((place, part)));
        }
        let ca = CertFolder::authority(name);
        assert_eq!(CertFolder::of(&ca.part(Part::Key)), Some((ca, Part::Key)));
    }
}
