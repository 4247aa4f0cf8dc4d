//! The daemon and the store as a whole: how it is, unlocked, locked, checked.

use crate::vault::Vault;
use crate::vault::unlock::UnlockBy;
use crate::wire::{
    Actor, Done, Extract, Extracted, Fault, Fsck, FsckReport, GetStatus, Lock, Problem, Serve, Status, Unlock,
    UnlockWith,
};

/// Problems told in one report.
const PROBLEMS_MAX: usize = 1000;
/// The longest name of a way to unlock.
const METHOD_MAX: usize = 64;

impl Serve<GetStatus> for Vault {
    fn serve(&self, actor: &Actor, GetStatus {}: GetStatus) -> Result<Status, Fault> {
        self.admin(actor)?;
        Ok(self.present())
    }
}

impl Serve<Unlock> for Vault {
    fn serve(&self, actor: &Actor, asked: Unlock) -> Result<Done, Fault> {
        let Unlock { passphrase, identity, recovery, method } = asked;
        let with = UnlockWith::one_of(passphrase, identity, recovery)?;
        let method = method.map(named).transpose()?;
        let (by, caller) = (UnlockBy::from(&with), self.admin(actor)?);
        match method {
            Some(method) => self.unlock_with(&caller, &by, &method)?,
            None => self.unlock(&caller, &by)?,
        }
        Ok(Done {})
    }
}

impl Serve<Lock> for Vault {
    fn serve(&self, actor: &Actor, Lock {}: Lock) -> Result<Done, Fault> {
        self.lock(&self.admin(actor)?)?;
        Ok(Done {})
    }
}

impl Serve<Fsck> for Vault {
    fn serve(&self, actor: &Actor, asked: Fsck) -> Result<FsckReport, Fault> {
        self.admin(actor)?;
        self.sync()?;
        Ok(shortened(self.fsck_report(asked)?))
    }
}

impl Serve<Extract> for Vault {
    fn serve(&self, actor: &Actor, asked: Extract) -> Result<Extracted, Fault> {
        Ok(Extracted { blob: self.extract_blob(&self.admin(actor)?, &asked)? })
    }
}

/// A word for the log.
fn named(method: String) -> Result<String, Fault> {
    let plain = method.chars().all(|c| !c.is_control()) && (1..=METHOD_MAX).contains(&method.len());
    if plain { Ok(method) } else { Err(Fault::Usage(format!("a method's name has 1 to {METHOD_MAX} bytes of text"))) }
}

fn shortened(mut report: FsckReport) -> FsckReport {
    let all = report.problems.len();
    if all > PROBLEMS_MAX {
        report.problems.truncate(PROBLEMS_MAX - 1);
        let left = all - report.problems.len();
        report.problems.push(Problem { what: "store".into(), problem: format!("and {left} problems more") });
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_an_end_and_a_word_for_the_log_is_one() {
        let problem = |n: usize| Problem { what: n.to_string(), problem: "gone".into() };
        let report = |n: usize| FsckReport { problems: (0..n).map(problem).collect(), ..FsckReport::default() };
        assert_eq!(shortened(report(1000)).problems.len(), 1000);
        let short = shortened(report(5000)).problems;
        assert_eq!((short.len(), short[999].problem.as_str()), (1000, "and 4001 problems more"));
        assert!(named("clevis".into()).is_ok());
        for bad in [String::new(), "a\nb".into(), "x".repeat(65)] {
            assert!(matches!(named(bad), Err(Fault::Usage(_))));
        }
    }
}
