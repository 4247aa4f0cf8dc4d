//! Reloads and restarts units whose secrets have changed.
//!
//! Owns the waiting for the last of several changes, and the list of units that may be touched. What is a change is for the vault to say.

use crate::run::{self, End, Manner, Program};
use crate::vault::{Action, Touched, Vault, Verb};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A change that is followed by another within this time is one with it: certificate and key, a whole import.
const QUIET: Duration = Duration::from_millis(300);
/// But nobody waits for longer than this.
const AT_MOST: Duration = Duration::from_secs(3);
/// How long systemctl may take: it waits for no job, and D-Bus gives a call 25 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the thread. `allow` lists the units that may be reloaded or restarted.
///
/// # Errors
/// If there is no thread to be had.
pub fn start(vault: &Arc<Vault>, allow: Vec<String>) -> std::io::Result<()> {
    if allow.is_empty() {
        return Ok(());
    }
    let (told, changes) = mpsc::channel();
    vault.notify_units(told);
    // The vault has the sending end: a strong count here would keep both for ever.
    let vault = Arc::downgrade(vault);
    std::thread::Builder::new().name("on-change".into()).spawn(move || follow(&vault, &changes, &allow)).map(|_| ())
}

fn follow(vault: &Weak<Vault>, changes: &Receiver<Touched>, allow: &[String]) {
    while let Ok(first) = changes.recv() {
        let begun = Instant::now();
        let mut touched = vec![first];
        while begun.elapsed() < AT_MOST {
            match changes.recv_timeout(QUIET) {
                Ok(next) => touched.push(next),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        let Some(vault) = vault.upgrade() else { return };
        for (unit, verb) in each_once(vault.actions(&touched), allow) {
            run(&unit, verb);
        }
    }
}

/// Each unit once: a restart is a reload too.
fn each_once(actions: Vec<(String, Action)>, allow: &[String]) -> BTreeMap<String, Verb> {
    let mut all = BTreeMap::new();
    for (path, Action { verb, unit }) in actions {
        if !allow.contains(&unit) {
            tracing::warn!(%path, %unit, "a unit that on_change.allow does not list is left alone");
            continue;
        }
        tracing::info!(%path, %unit, ?verb, "a secret has changed");
        all.entry(unit).and_modify(|v: &mut Verb| *v = verb.max(*v)).or_insert(verb);
    }
    all
}

fn run(unit: &str, verb: Verb) {
    let verb = match verb {
        Verb::Reload => "reload",
        // One that does not run is not started by a change of its secret.
        Verb::Restart => "try-restart",
    };
    let program = Program {
        args: ["--no-block", "--no-ask-password", verb, "--", unit].map(Into::into).into(),
        env: run::inherited(),
        ..Program::new(Path::new("systemctl"), Manner::ALONE, Some(Instant::now() + PATIENCE))
    };
    match program.run().map(|ended| ended.end) {
        Ok(End::Itself(status)) if status.success() => {}
        Ok(End::Itself(status)) => tracing::warn!(%unit, verb, %status, "systemctl failed"),
        Ok(End::Lost(error)) | Err(error) => tracing::warn!(%unit, verb, %error, "systemctl cannot be run"),
        Ok(_) => tracing::warn!(%unit, verb, "systemctl took too long, and was ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_told_once_and_only_if_it_may_be() {
        let of = |path: &str, text| (path.to_owned(), Action::parse(text).unwrap());
        let actions = vec![
            of("a", "reload:x.service"),
            of("b", "restart:x.service"),
            of("c", "reload:x.service"),
            of("d", "reload:y.service"),
            of("e", "restart:sshd.service"),
        ];
        let told = each_once(actions, &["x.service".into(), "y.service".into()]);
        let told: Vec<(&str, Verb)> = told.iter().map(|(unit, verb)| (unit.as_str(), *verb)).collect();
        assert_eq!(told, [("x.service", Verb::Restart), ("y.service", Verb::Reload)]);
    }
}
