//! The order of a chain: from the certificate of a service up to an authority.

use super::{CertError, Certificate};

/// Authorities above a certificate, at most.
const LENGTH_MAX: usize = 10;
/// Certificates of one name whose keys are tried, at most: keys are rolled over, but not that often.
const NAMESAKES_MAX: usize = 16;

/// Where a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainState {
    /// The certificate signed itself.
    SelfSigned,
    /// It ends with an authority that signed itself.
    Whole,
    /// Whoever signed the last one is not there. So chains are sent: roots are known or not.
    Open,
}

impl ChainState {
    /// A word.
    pub fn as_str(self) -> &'static str {
        match self {
            ChainState::SelfSigned => "self-signed",
            ChainState::Whole => "whole",
            ChainState::Open => "open",
        }
    }
}

/// What is above a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The nearest first.
    pub above: Vec<Certificate>,
    /// Where it ends.
    pub state: ChainState,
    /// How many of those that were given have no place in it.
    pub unused: usize,
}

impl Chain {
    /// Orders those of `pool` that are above `leaf`. Every signature in it was checked; times were not.
    ///
    /// # Errors
    /// [`CertError::Chain`] if an issuer is there by name, and none of that name signed it, or may.
    pub fn order(leaf: &Certificate, pool: &[Certificate]) -> Result<Self, CertError> {
        let mut above: Vec<Certificate> = Vec::new();
        let mut rest: Vec<&Certificate> = Vec::new();
        for one in pool {
            if one != leaf && !rest.contains(&one) {
                rest.push(one);
            }
        }
        let state = loop {
            let last = above.last().unwrap_or(leaf);
            if last.is_self_issued() && last.check_issued_by(last, 0).is_ok() {
                break if above.is_empty() { ChainState::SelfSigned } else { ChainState::Whole };
            }
            let named = |c: &&&Certificate| c.subject_der == last.issuer_der;
            let tried =
                rest.iter().filter(named).take(NAMESAKES_MAX).map(|c| (*c, last.check_issued_by(c, above.len())));
            let mut why = None;
            let mut found = None;
            for (candidate, checked) in tried {
                match checked {
                    Ok(()) => {
                        found = Some(candidate.clone());
                        break;
                    }
                    Err(error) => why = Some(error),
                }
            }
            match (found, why) {
                (Some(next), _) if above.len() < LENGTH_MAX => {
                    rest.retain(|c| **c != next);
                    above.push(next);
                }
                (Some(_), _) => return Err(CertError::Chain(format!("the chain is longer than {LENGTH_MAX}"))),
                (None, Some(CertError::BadSignature)) => {
                    return Err(CertError::Chain(format!(
                        "'{}' was not signed by the '{}' that came with it",
                        last.subject, last.issuer
                    )));
                }
                (None, Some(error)) => return Err(CertError::Chain(error.to_string())),
                (None, None) => break ChainState::Open,
            }
        };
        Ok(Chain { above, state, unused: rest.len() })
    }

    /// Whether all of it is in time at `now`, seconds since the epoch; the certificate itself is not looked at.
    ///
    /// # Errors
    /// [`CertError::Chain`].
    pub fn check_time(&self, now: i64) -> Result<(), CertError> {
        self.above.iter().try_for_each(|c| c.check_time(now))
    }

    /// As PEM, the nearest first; empty if there is none.
    pub fn to_pem(&self) -> String {
        self.above.iter().map(Certificate::to_pem).collect()
    }
}
