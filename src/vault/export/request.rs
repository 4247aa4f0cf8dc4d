//! What an admin asks of the exports, in the words of `wire`.

use super::ExportTouched;
use super::make::Again;
use super::outbox::Outbox;
use crate::audit::Operation;
use crate::caller::Control;
use crate::config::SignWith;
use crate::model::HostName;
use crate::policy::Host;
use crate::vault::{Vault, VaultError};
use crate::wire::{Actor, Export, ExportSign, ExportState, Exported, ExportedHost, Fault, HostInfo, SignerListing};
use std::collections::HashMap;
use std::sync::Arc;

impl Vault {
    /// Makes bundles now. In the policy's order.
    pub(in crate::vault) fn request_export(&self, actor: &Actor, asked: &Export) -> Result<Exported, Fault> {
        let caller = self.admin(actor)?;
        let again = if asked.again == Some(true) { Again::Always } else { Again::IfChanged };
        let manual = self.exporter.settings()?.export.signer == SignWith::Manual;
        if !actor.may_widen() && self.signer_current()?.is_none() {
            let reason = "there is no signing key yet, and the first is root's to make: pinfold signer init";
            self.refuse(Operation::Sign, "", None, &crate::vault::Caller::who(&caller), reason);
            return Err(Fault::Unproven(reason.into()));
        }
        self.signer_if_none()?;
        let signing = if manual { None } else { Some(self.signing(None)?) };
        self.export_now(asked.hosts.as_deref(), again, signing.as_ref())
    }

    /// The same with the key under a passphrase.
    pub(in crate::vault) fn request_sign(&self, caller: &Control, asked: &ExportSign) -> Result<Exported, Fault> {
        let signing = self.signing(asked.passphrase.as_ref());
        let who = || crate::vault::Caller::who(caller);
        let signing = match signing {
            Ok(signing) => signing,
            Err(error) => {
                self.refuse(Operation::Sign, "", None, &who(), &error.to_string());
                return Err(error.into());
            }
        };
        let reason = format!("bundles are signed by {}", signing.fingerprint());
        self.record(Operation::Sign, "", None, &who(), &reason)?;
        self.export_now(asked.hosts.as_deref(), Again::IfChanged, Some(&signing))
    }

    fn export_now(
        &self,
        hosts: Option<&[String]>,
        again: Again,
        signing: Option<&super::signers::Signing>,
    ) -> Result<Exported, Fault> {
        if self.locked_since().is_some() {
            return Err(VaultError::Locked.into());
        }
        self.bring_up_to_date()?;
        let (chosen, order) = {
            let guard = self.exporter.plan.lock();
            let plan = guard.as_ref().ok_or_else(|| self.no_plan())?;
            let policy = Arc::clone(plan.policy());
            let names: Vec<HostName> =
                Self::chosen(plan, hosts)?.into_iter().map(|no| plan.host(no).name.clone()).collect();
            (names, policy)
        };
        let mut made = self.make(&chosen, again, signing)?;
        // Whoever asks by hand may have mended what stood in the way.
        for host in made.iter().filter(|host| host.state == ExportState::Unchanged) {
            if let Ok(name) = HostName::parse(&host.host) {
                let behind = self.host_record(&name).is_ok_and(|record| record.serial > record.delivered);
                if behind {
                    self.exporter.board.lock().deliver_at_once(&name);
                }
            }
        }
        self.exporter.due.notify_all();
        let place: HashMap<&str, usize> = order.hosts().iter().enumerate().map(|(i, h)| (h.name.as_str(), i)).collect();
        made.sort_by_key(|host| place.get(host.host.as_str()).copied());
        if hosts.is_none() && made.iter().all(|host: &ExportedHost| host.state != ExportState::Failed) {
            self.exporter.board.lock().signer_error = None;
        }
        Ok(Exported { hosts: made })
    }

    /// What the thread would do after its debounce, done now.
    pub(super) fn bring_up_to_date(&self) -> Result<(), VaultError> {
        if self.read_policy(self.exporter.settings()?) {
            self.exporter.touch_all();
            return Ok(());
        }
        // It stays in the inbox: for other hosts than these the thread makes bundles by it.
        let touched = {
            let inbox = self.exporter.inbox.lock();
            ExportTouched {
                nodes: inbox.touched.nodes.clone(),
                moved: inbox.touched.moved.clone(),
                all: inbox.touched.all,
            }
        };
        self.follow(&touched);
        Ok(())
    }

    /// The signing keys, after a change of them that may have been refused.
    pub(in crate::vault) fn signers_after(
        &self,
        actor: &Actor,
        op: Operation,
        changed: Result<(), VaultError>,
    ) -> Result<SignerListing, Fault> {
        let caller = self.admin(actor)?;
        let changed = self.recording(op, "", || crate::vault::Caller::who(&caller), changed);
        changed.map_err(|error| match error {
            VaultError::NotFound => Fault::NotFound("there is no such signing key".into()),
            other => other.into(),
        })?;
        Ok(self.signer_listing()?)
    }

    /// Why there are no hosts.
    pub(super) fn no_plan(&self) -> VaultError {
        if self.locked_since().is_some() {
            return VaultError::Locked;
        }
        match &self.exporter.board.lock().policy_error {
            Some(error) => VaultError::Invalid(error.clone()),
            None => VaultError::Failed("the policy is just being read; try again".into()),
        }
    }

    /// The hosts, in the policy's order.
    pub(in crate::vault) fn request_hosts(&self) -> Result<Vec<HostInfo>, Fault> {
        // Just unlocked, or just written: there is no need to wait for the thread.
        if self.locked_since().is_none() && self.read_policy(self.exporter.settings()?) {
            self.exporter.touch_all();
        }
        let policy = {
            let guard = self.exporter.plan.lock();
            Arc::clone(guard.as_ref().ok_or_else(|| self.no_plan())?.policy())
        };
        let current = self.signer_current()?.map(|current| current.fingerprint);
        let outbox = self.exporter.settings()?.outbox.clone();
        policy.hosts().iter().map(|host| self.host_info(host, current.as_deref(), &outbox)).collect()
    }

    fn host_info(&self, host: &Host, signer: Option<&str>, outbox: &std::path::Path) -> Result<HostInfo, Fault> {
        let record = self.host_record(&host.name)?;
        let (standing, general) = {
            let board = self.exporter.board.lock();
            (board.standing(&host.name), board.signer_error.clone())
        };
        let number = |serial: u64| (serial > 0).then_some(serial);
        // A number that was given, and no bundle yet.
        let there = record.serial <= record.delivered || Outbox::of(outbox, &host.name).has(record.serial);
        Ok(HostInfo {
            host: host.name.to_string(),
            serial: number(record.serial).filter(|_| there),
            made: number(record.serial).filter(|_| there).map(|_| record.made),
            deliver: host.deliver.clone(),
            delivered: number(record.delivered),
            delivered_at: record.delivered_at,
            acknowledged: number(record.acked),
            acknowledged_at: record.acked_at,
            outcome: record.outcome.clone(),
            trusts_current: record.trusts.as_deref().map(|trusts| Some(trusts) == signer),
            trusts: record.trusts.clone(),
            unsigned: standing.unsigned,
            tries: standing.tries,
            next_try: standing.next_try,
            error: standing.error.or(general),
            notes: standing.notes,
        })
    }

    /// For the status and the metrics: hosts, and how many of them wait for a delivery or have something wrong.
    pub fn export_counts(&self) -> (u64, u64, u64) {
        let Some(policy) = self.exporter.plan.lock().as_ref().map(|plan| Arc::clone(plan.policy())) else {
            return (0, 0, 0);
        };
        let (mut waiting, mut wrong) = (0, 0);
        let board = self.exporter.board.lock();
        let general = board.signer_error.is_some();
        for host in policy.hosts() {
            let standing = board.standing(&host.name);
            waiting += u64::from(standing.pending || standing.unsigned);
            wrong += u64::from(standing.error.is_some() || general);
        }
        (policy.hosts().len() as u64, waiting, wrong)
    }
}
