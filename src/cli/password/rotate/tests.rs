//! Rotation against a real store and a far side that is told when to fail, ended between any two steps.

use super::*;
use crate::audit::{Log, Settings, WhenFull};
use crate::caller::{Callers, Daemon};
use crate::seal::Protection;
use crate::store::Store;
use crate::vault::{Limits, Recovery, UnlockBy, Vault, create_store};
use crate::wire::{
    Actor, PasswordList, PasswordPut, PasswordShow, RotationBegin, RotationEnd, RotationMark, RotationOpen, Serve,
};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn secret(text: &str) -> Secret {
    Secret::copy_of(text.as_bytes()).unwrap()
}

fn root() -> Actor {
    Actor::new(0, 0, i32::try_from(std::process::id()).unwrap())
}

fn ui() -> PasswordName {
    PasswordName::parse("ui-1").unwrap()
}

/// Ends the process after so many steps: a step is what reaches the store or the far side.
struct Crash(Cell<Option<u32>>);

/// What a crash unwinds with, without a message on the terminal.
struct Crashed;

impl Crash {
    fn step(&self) {
        match self.0.get() {
            Some(0) => std::panic::resume_unwind(Box::new(Crashed)),
            Some(n) => self.0.set(Some(n - 1)),
            None => {}
        }
    }
}

struct Stored<'a> {
    vault: &'a Vault,
    crash: &'a Crash,
}

impl Stored<'_> {
    /// Ended before it is done, or after it is done and before anybody hears of it.
    fn step<R>(&self, act: impl FnOnce(&Vault) -> R) -> R {
        self.crash.step();
        let result = act(self.vault);
        self.crash.step();
        result
    }
}

impl Ledger for Stored<'_> {
    fn begin(&mut self, name: &PasswordName, content: Secret) -> Result<(), Fault> {
        self.step(|vault| vault.serve(&root(), RotationBegin { name: name.clone(), content }).map(drop))
    }
    fn open(&mut self, name: &PasswordName) -> Result<RotationOpened, Fault> {
        self.step(|vault| vault.serve(&root(), RotationOpen { name: name.clone() }))
    }
    fn mark(&mut self, name: &PasswordName, from: RotationState, to: RotationState) -> Result<(), Fault> {
        self.step(|vault| vault.serve(&root(), RotationMark { name: name.clone(), from, to }).map(drop))
    }
    fn end(&mut self, name: &PasswordName, keep: Keep, verified: bool) -> Result<(), Fault> {
        self.step(|vault| vault.serve(&root(), RotationEnd { name: name.clone(), keep, verified }).map(drop))
    }
}

/// A machine with one password.
struct Far<'a> {
    has: RefCell<String>,
    crash: &'a Crash,
    /// What the next change says and does; `None` is a plain success.
    says: RefCell<Option<Changed>>,
    /// Whether it changes all the same.
    changes: Cell<bool>,
    reachable: Cell<bool>,
}

impl<'a> Far<'a> {
    fn new(crash: &'a Crash) -> Self {
        let (has, says) = (RefCell::new("old".into()), RefCell::new(None));
        Far { has, crash, says, changes: Cell::new(true), reachable: Cell::new(true) }
    }
}

impl FarSide for Far<'_> {
    fn change(&self, _: &PasswordName, old: &Secret, new: &Secret) -> Changed {
        self.crash.step();
        let text = |s: &Secret| String::from_utf8(s.expose().to_vec()).unwrap();
        if self.changes.get() && *self.has.borrow() == text(old) {
            *self.has.borrow_mut() = text(new);
        }
        self.crash.step();
        self.says.borrow_mut().take().unwrap_or(Changed::Yes)
    }

    fn verify(&self, _: &PasswordName, password: &Secret) -> Accepted {
        self.crash.step();
        if !self.reachable.get() {
            return Accepted::Unknown("no route to host".into());
        }
        match self.has.borrow().as_bytes() == password.expose() {
            true => Accepted::Yes,
            false => Accepted::No("permission denied".into()),
        }
    }
}

struct Rig {
    home: tempfile::TempDir,
}

impl Rig {
    /// With `old` as the password.
    fn new() -> Rig {
        let rig = Rig { home: tempfile::tempdir().unwrap() };
        let recovery = Recovery { recipients: vec![age::x25519::Identity::generate().to_public().to_string()] };
        create_store(&rig.home.path().join("store"), &Protection::Passphrase(&secret("p")), &recovery).unwrap();
        let put = PasswordPut { name: ui(), replace: None, content: secret("old") };
        rig.vault().serve(&root(), put).unwrap();
        rig
    }

    fn vault(&self) -> Vault {
        let path = tempfile::Builder::new().prefix("audit").tempdir_in(self.home.path()).unwrap().keep().join("log");
        let settings = Settings { path, max_size: 1 << 24, when_full: WhenFull::Refuse, space: None };
        let limits = Limits {
            max_secret_size: 4096,
            max_secrets: 10_000,
            max_instances: 10,
            keep_versions: 3,
            allow_reveal: false,
            mountpoint: "/nowhere".into(),
            operator_gid: None,
        };
        let store = Store::open(&self.home.path().join("store")).unwrap();
        let vault = Vault::new(store, Log::open(settings, None).unwrap(), Callers::new().unwrap(), limits);
        Vault::unlock(&vault, &Daemon, &UnlockBy::Passphrase(&secret("p"))).unwrap();
        vault
    }
}

/// What is stored, and how far a rotation is.
fn stored(vault: &Vault) -> (String, Option<RotationState>) {
    let entry = vault.serve(&root(), PasswordList { pattern: None }).unwrap().passwords.remove(0);
    let shown = vault.serve(&root(), PasswordShow { name: ui(), next: None }).unwrap();
    (String::from_utf8(shown.content.expose().to_vec()).unwrap(), entry.rotation)
}

#[test]
fn wherever_it_ends_the_state_says_which_is_valid_and_it_can_be_resumed() {
    let never = Crash(Cell::new(None));
    let mut ended_early = 0;
    for steps in 0.. {
        let rig = Rig::new();
        let crash = Crash(Cell::new(Some(steps)));
        let far = Far::new(&crash);
        let vault = rig.vault();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            rotate(&mut Stored { vault: &vault, crash: &crash }, &far, &ui(), secret("new"))
        }));
        drop(vault);
        let vault = rig.vault();
        let (kept, state) = stored(&vault);
        let has = far.has.borrow().clone();
        match state {
            None => assert_eq!(kept, has, "after {steps} steps: it did not begin, or it ended"),
            Some(RotationState::Pending) => assert_eq!(has, "old", "after {steps} steps"),
            Some(RotationState::Changing) => {}
            Some(RotationState::ChangedUnverified) => assert_eq!(has, "new", "after {steps} steps"),
        }
        if outcome.is_ok() {
            assert_eq!((outcome.ok(), kept.as_str(), state), (Some(RotationOutcome::Rotated), "new", None));
            break;
        }
        ended_early += 1;
        let far = Far { has: RefCell::new(has), ..Far::new(&never) };
        let mut ledger = Stored { vault: &vault, crash: &never };
        if state.is_some() {
            assert_eq!(resume(&mut ledger, &far, &ui()), RotationOutcome::Rotated, "after {steps} steps");
        } else if kept == "old" {
            assert_eq!(
                rotate(&mut ledger, &far, &ui(), secret("new")),
                RotationOutcome::Rotated,
                "after {steps} steps"
            );
        }
        assert_eq!((stored(&vault), far.has.take()), (("new".into(), None), "new".into()), "after {steps} steps");
    }
    assert!(ended_early >= 12, "only {ended_early} places were tried");
}

#[test]
fn a_far_side_that_says_no_keeps_the_old_one_and_is_told_again() {
    let (rig, crash) = (Rig::new(), Crash(Cell::new(None)));
    let (vault, far) = (rig.vault(), Far::new(&crash));
    let mut ledger = Stored { vault: &vault, crash: &crash };
    far.says.replace(Some(Changed::No("too short".into())));
    far.changes.set(false);
    assert_eq!(rotate(&mut ledger, &far, &ui(), secret("new")), RotationOutcome::StillOld("too short".into()));
    assert_eq!(stored(&vault), ("old".into(), Some(RotationState::Pending)));
    let again = rotate(&mut ledger, &far, &ui(), secret("newer"));
    assert!(matches!(again, RotationOutcome::NotStored(Fault::Refused(_))), "{again:?}");
    far.changes.set(true);
    assert_eq!(resume(&mut ledger, &far, &ui()), RotationOutcome::Rotated);
    assert_eq!((stored(&vault), far.has.take()), (("new".into(), None), "new".into()));
}

#[test]
fn a_far_side_that_does_not_say_is_asked_by_a_login() {
    for changes in [true, false] {
        let (rig, crash) = (Rig::new(), Crash(Cell::new(None)));
        let (vault, far) = (rig.vault(), Far::new(&crash));
        let mut ledger = Stored { vault: &vault, crash: &crash };
        far.says.replace(Some(Changed::Unknown("connection lost".into())));
        far.changes.set(changes);
        let outcome = rotate(&mut ledger, &far, &ui(), secret("new"));
        if changes {
            assert_eq!((outcome, stored(&vault)), (RotationOutcome::Rotated, ("new".into(), None)));
        } else {
            assert!(
                matches!(&outcome, RotationOutcome::StillOld(why) if why.contains("connection lost")),
                "{outcome:?}"
            );
            assert_eq!(stored(&vault), ("old".into(), Some(RotationState::Pending)));
        }
    }
}

#[test]
fn a_far_side_that_lies_is_found_out() {
    let (rig, crash) = (Rig::new(), Crash(Cell::new(None)));
    let (vault, far) = (rig.vault(), Far::new(&crash));
    let mut ledger = Stored { vault: &vault, crash: &crash };
    far.changes.set(false);
    let outcome = rotate(&mut ledger, &far, &ui(), secret("new"));
    assert!(
        matches!(&outcome, RotationOutcome::StillOld(why) if why.contains("said that it had changed")),
        "{outcome:?}"
    );
    assert_eq!(stored(&vault), ("old".into(), Some(RotationState::Pending)));
}

#[test]
fn what_cannot_be_verified_keeps_both_until_it_can() {
    let (rig, crash) = (Rig::new(), Crash(Cell::new(None)));
    let (vault, far) = (rig.vault(), Far::new(&crash));
    let mut ledger = Stored { vault: &vault, crash: &crash };
    far.reachable.set(false);
    let outcome = rotate(&mut ledger, &far, &ui(), secret("new"));
    assert!(matches!(outcome, RotationOutcome::Undecided(RotationState::ChangedUnverified, _)), "{outcome:?}");
    assert_eq!(stored(&vault), ("old".into(), Some(RotationState::ChangedUnverified)));
    assert!(matches!(resume(&mut ledger, &far, &ui()), RotationOutcome::Undecided(..)));
    far.reachable.set(true);
    assert_eq!(resume(&mut ledger, &far, &ui()), RotationOutcome::Rotated);

    // Somebody else changed it meanwhile: neither is taken, and nothing is thrown away.
    ledger.begin(&ui(), secret("third")).unwrap();
    *far.has.borrow_mut() = "elsewhere".into();
    let outcome = resume(&mut ledger, &far, &ui());
    assert!(matches!(&outcome, RotationOutcome::Undecided(_, why) if why.contains("both")), "{outcome:?}");
    assert_eq!(stored(&vault), ("new".into(), Some(RotationState::ChangedUnverified)));
}
