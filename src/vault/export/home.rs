//! Keys in admins' home directories: who is looked for, and what was found. Somebody else looks.
//!
//! Until somebody's directory was looked at once, what a host would get of it is unknown, and the host gets no bundle: one
//! without the key would lock him out.

use super::list::List;
use crate::vault::Vault;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

impl Vault {
    /// Waits until home directories are to be read, `within` at most or until there are admins that were never looked for;
    /// the admins of all hosts then. `None` at the end.
    pub fn wait_for_admins(&self, within: Duration) -> Option<Vec<String>> {
        let until = Instant::now() + within;
        let mut board = self.exporter.board.lock();
        loop {
            if board.stop {
                return None;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || std::mem::take(&mut board.home_keys_wanted) {
                break;
            }
            board = self.exporter.due.wait_timeout(board, left).0;
        }
        drop(board);
        let plan = self.exporter.plan.lock();
        let Some(plan) = plan.as_ref() else { return Some(Vec::new()) };
        let policy = plan.policy();
        let admins: BTreeSet<&str> =
            policy.hosts().iter().flat_map(|host| policy.admins_of(&host.name)).map(|(user, _)| user).collect();
        Some(admins.into_iter().map(str::to_owned).collect())
    }

    /// What was found in the home directories of `users`. Of those who are not in `keys` it was not found out: what was
    /// known of them stays.
    pub fn set_home_keys(&self, users: &[String], keys: HashMap<String, Vec<String>>) {
        let changed = {
            let mut board = self.exporter.board.lock();
            let before = board.home_keys.clone();
            board.home_keys.retain(|user, _| users.contains(user));
            board.home_keys.extend(keys.into_iter().filter(|(user, _)| users.contains(user)));
            board.home_keys != before
        };
        if changed {
            self.exporter.touch_all();
        }
    }

    /// Adds those keys to a list, where that is configured.
    ///
    /// # Errors
    /// Whose are not known.
    pub(super) fn add_home_keys(&self, list: &mut List) -> Result<(), String> {
        if !self.exporter.settings().is_ok_and(|settings| settings.export.home_keys) {
            return Ok(());
        }
        let mut board = self.exporter.board.lock();
        for admin in &mut list.admins {
            match board.home_keys.get(&admin.user) {
                Some(keys) => admin.home_keys = keys.clone(),
                None => {
                    board.home_keys_wanted = true;
                    drop(board);
                    self.exporter.due.notify_all();
                    return Err(format!("the keys in the home directory of {} are not known yet", admin.user));
                }
            }
        }
        Ok(())
    }
}
