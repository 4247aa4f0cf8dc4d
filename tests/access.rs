//! `access::decide` over the whole cross product, against an oracle that was written from acl(5) and the design, not from
//! the code: owner, named user, groups, mask, other × who asks × what is known of him × the scope's key.

use pinfold::access::{Denial, Object, Operation, Rule, ScopeState, Way, World, decide, may_reach};
use pinfold::model::{
    Acl, AclEntry, AclTag, Conditions, Doubt, FileId, Gid, Ino, InstanceId, Label, Scope, Subject, Timestamp, Uid,
};
use std::time::{Duration, UNIX_EPOCH};

const OWNER: u32 = 10;
const NAMED: u32 = 33;
const STRANGER: u32 = 99;
const GROUP: u32 = 20;
const NAMED_GROUP: u32 = 50;
const OTHER_GROUP: u32 = 77;

const STATES: [ScopeState; 4] = [ScopeState::Alive, ScopeState::Missing, ScopeState::Revoked, ScopeState::Expired];
/// He is an admin, he is none, nobody can say.
const ADMIN: [Option<bool>; 3] = [Some(true), Some(false), None];
/// Every answer to which of the two groups he is in.
const MEMBERSHIPS: [&[u32]; 4] = [&[], &[GROUP], &[NAMED_GROUP], &[1000, GROUP, NAMED_GROUP]];

/// Somebody, with everything that can be known of him.
#[derive(Debug, Clone)]
struct Fake {
    uid: u32,
    gid: u32,
    /// Supplementary groups; `None` if they cannot be read.
    groups: Option<&'static [u32]>,
    /// `None` if it cannot be said.
    admin: Option<bool>,
    unit: Result<Option<&'static str>, ()>,
    exe: Result<u64, ()>,
    label: Result<&'static str, ()>,
    instance: Result<Option<&'static str>, ()>,
    daemon: bool,
    /// Whether the kernel lets him pass directories.
    passes: Result<bool, ()>,
    /// How many names of `a/b/c` a mount of its own takes him past.
    mounted: usize,
}

fn fake(uid: u32, gid: u32, groups: &'static [u32]) -> Fake {
    Fake {
        uid,
        gid,
        groups: Some(groups),
        admin: Some(uid == 0),
        unit: Ok(None),
        exe: Ok(1),
        label: Err(()),
        instance: Ok(None),
        daemon: false,
        passes: Ok(false),
        mounted: 0,
    }
}

fn doubt<T>() -> Result<T, Doubt> {
    Err(Doubt("it has gone".into()))
}

impl Fake {
    fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.is_some_and(|g| g.contains(&gid))
    }
}

impl Subject for Fake {
    fn uid(&self) -> Uid {
        Uid(self.uid)
    }

    fn gid(&self) -> Gid {
        Gid(self.gid)
    }

    fn in_group(&self, gid: Gid) -> Result<bool, Doubt> {
        if gid.0 != self.gid && self.groups.is_none() { doubt() } else { Ok(self.is_in(gid.0)) }
    }

    fn groups(&self) -> Result<Vec<Gid>, Doubt> {
        let all = self.groups.map_or_else(doubt, Ok)?;
        Ok(all.iter().chain([&self.gid]).map(|gid| Gid(*gid)).collect())
    }

    fn is_admin(&self) -> Result<bool, Doubt> {
        self.admin.map_or_else(doubt, Ok)
    }

    fn unit(&self) -> Result<Option<String>, Doubt> {
        self.unit.map_or_else(|()| doubt(), |u| Ok(u.map(str::to_owned)))
    }

    fn exe(&self) -> Result<FileId, Doubt> {
        self.exe.map_or_else(|()| doubt(), |ino| Ok(FileId { dev: 7, ino }))
    }

    fn label(&self) -> Result<Label, Doubt> {
        self.label.map_or_else(|()| doubt(), Label::parse)
    }

    fn instance(&self) -> Result<Option<InstanceId>, Doubt> {
        let named = |name: &str| InstanceId { scope: Scope::container(name).expect("a good name"), id: "0123".into() };
        self.instance.map_or_else(|()| doubt(), |i| Ok(i.map(named)))
    }

    fn passes_directories(&self) -> Result<bool, Doubt> {
        self.passes.map_or_else(|()| doubt(), Ok)
    }

    fn mounted_past(&self, tree: u64, path: &str) -> Result<usize, Doubt> {
        assert_eq!((tree, path), (9, "a/b/c"));
        Ok(self.mounted)
    }

    fn is_daemon(&self) -> bool {
        self.daemon
    }
}

/// One second past noon; `/usr/bin/right` is file 1, any other path is none.
struct Noon;

impl World for Noon {
    fn now(&self) -> Timestamp {
        (UNIX_EPOCH + Duration::from_secs(1_767_268_801)).into() // 2026-01-01T12:00:01Z
    }

    fn file_id(&self, path: &str) -> Result<FileId, Doubt> {
        if path == "/usr/bin/right" { Ok(FileId { dev: 7, ino: 1 }) } else { doubt() }
    }

    fn tree(&self) -> Result<u64, Doubt> {
        Ok(9)
    }
}

/// What an object allows to whom, before it is written as mode and ACL.
#[derive(Debug, Clone, Copy)]
struct Perms {
    owner: u8,
    group: u8,
    other: u8,
    /// Named user, named group, mask.
    named: Option<(u8, u8, u8)>,
}

impl Perms {
    fn acl(&self) -> Option<Acl> {
        let (user, group, mask) = self.named?;
        let entry = |tag, perm| AclEntry { tag, perm };
        let entries = vec![
            entry(AclTag::UserObj, self.owner),
            entry(AclTag::User(Uid(NAMED)), user),
            entry(AclTag::GroupObj, self.group),
            entry(AclTag::Group(Gid(NAMED_GROUP)), group),
            entry(AclTag::Mask, mask),
            entry(AclTag::Other, self.other),
        ];
        Some(Acl::from_entries(entries).expect("a valid list"))
    }

    fn mode(&self) -> u16 {
        let group = self.named.map_or(self.group, |(_, _, mask)| mask);
        u16::from(self.owner) << 6 | u16::from(group) << 3 | u16::from(self.other)
    }

    /// acl(5): the first class that fits decides; of several groups, one that allows all of it suffices.
    fn allow(&self, who: &Fake, owner: u32, wanted: u8) -> bool {
        let has = |perm: u8| perm & wanted == wanted;
        if who.uid == owner {
            return has(self.owner);
        }
        let Some((user, group, mask)) = self.named else {
            return if who.is_in(GROUP) { has(self.group) } else { has(self.other) };
        };
        match (who.uid == NAMED, who.is_in(GROUP), who.is_in(NAMED_GROUP)) {
            (true, _, _) => has(user & mask),
            (false, true, true) => has(self.group & mask) || has(group & mask),
            (false, true, false) => has(self.group & mask),
            (false, false, true) => has(group & mask),
            (false, false, false) => has(self.other),
        }
    }
}

/// Every object: all modes, and all ACLs of a named user and a named group over these permissions: x and rw tell apart
/// a group that allows all from two that do so only together.
fn every_perms() -> impl Iterator<Item = Perms> {
    const OF_ACL: [u8; 4] = [0, 1, 6, 7];
    let modes = (0..512u16).map(|m| Perms {
        owner: (m >> 6 & 7) as u8,
        group: (m >> 3 & 7) as u8,
        other: (m & 7) as u8,
        named: None,
    });
    let at = |n: usize, i: u32| OF_ACL[n / 4usize.pow(i) % 4];
    let acls = (0..4usize.pow(6)).map(move |n| Perms {
        owner: at(n, 0),
        group: at(n, 1),
        other: at(n, 2),
        named: Some((at(n, 3), at(n, 4), at(n, 5))),
    });
    modes.chain(acls)
}

/// Every asker: uid × gid × supplementary groups.
fn every_asker() -> Vec<Fake> {
    let mut out = Vec::new();
    for uid in [0, OWNER, NAMED, STRANGER] {
        for gid in [GROUP, NAMED_GROUP, OTHER_GROUP] {
            out.extend(MEMBERSHIPS.map(|groups| fake(uid, gid, groups)));
        }
    }
    out
}

/// Calls `f` with the object that says this.
fn with<T>(perms: Perms, owner: u32, scope: &Scope, conditions: Conditions<'_>, f: impl FnOnce(&Object<'_>) -> T) -> T {
    let acl = perms.acl();
    f(&Object {
        ino: Ino(5000),
        scope,
        uid: Uid(owner),
        gid: Gid(GROUP),
        mode: perms.mode(),
        acl: acl.as_ref(),
        conditions,
        root: Uid::ROOT,
        writable: false,
    })
}

fn plain<T>(perms: Perms, f: impl FnOnce(&Object<'_>) -> T) -> T {
    with(perms, OWNER, &Scope::Host, Conditions::default(), f)
}

fn key(state: ScopeState) -> Option<Denial> {
    match state {
        ScopeState::Alive => None,
        ScopeState::Missing => Some(Denial::NoKey),
        ScopeState::Revoked => Some(Denial::KeyRevoked),
        ScopeState::Expired => Some(Denial::KeyExpired),
    }
}

#[test]
fn reading_follows_acl_5_for_everybody_and_no_privilege_counts() {
    let mut allowed = 0u32;
    for perms in every_perms() {
        for owner in [OWNER, 0] {
            with(perms, owner, &Scope::Host, Conditions::default(), |object| {
                for mut who in every_asker() {
                    let may = perms.allow(&who, owner, 4);
                    for state in STATES {
                        for admin in ADMIN {
                            who.admin = admin;
                            let got = decide(&who, object, state, &Noon, Operation::Read);
                            match (&got, may, key(state)) {
                                (Ok(grant), true, None) => {
                                    assert!(matches!(grant.rule(), Rule::Posix(_)) && grant.opens_content());
                                    assert_eq!((grant.ino(), grant.operation()), (Ino(5000), Operation::Read));
                                    allowed += 1;
                                }
                                // Who may not learns nothing of the key.
                                (Err(Denial::NotAllowed(_)), false, _) => {}
                                (Err(denial), true, Some(wanted)) if *denial == wanted => {}
                                _ => panic!("{who:?} reads {perms:?} of {owner}, key {state:?}: {got:?}"),
                            }
                        }
                    }
                }
            });
        }
    }
    assert!(allowed > 10_000, "the product must hold both answers: {allowed}");
}

#[test]
fn unknown_groups_never_open_what_some_answer_would_keep_shut() {
    for perms in every_perms() {
        plain(perms, |object| {
            for uid in [0, OWNER, NAMED, STRANGER] {
                let who = Fake { groups: None, ..fake(uid, OTHER_GROUP, &[]) };
                let answers = MEMBERSHIPS.map(|g| perms.allow(&fake(uid, OTHER_GROUP, g), OWNER, 4));
                match decide(&who, object, ScopeState::Alive, &Noon, Operation::Read) {
                    Ok(_) => assert!(answers.iter().all(|a| *a), "{uid} reads {perms:?} by a guess"),
                    Err(Denial::NotAllowed(_)) => assert!(answers.iter().all(|a| !*a), "{uid}, {perms:?}: a doubt"),
                    Err(Denial::Doubt(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
    }
}

#[test]
fn changing_is_for_admins_and_for_whom_the_mode_lets() {
    let operations = [(Operation::Write, 2), (Operation::ChangeEntries, 3), (Operation::Touch, 2)];
    for perms in every_perms() {
        plain(perms, |object| {
            for mut who in every_asker() {
                for (operation, wanted) in operations {
                    let owner = operation == Operation::Touch && who.uid == OWNER;
                    let may = perms.allow(&who, OWNER, wanted) || owner;
                    for admin in ADMIN {
                        who.admin = admin;
                        let got = decide(&who, object, ScopeState::Alive, &Noon, operation);
                        let right = match admin {
                            Some(true) => got.is_ok(),
                            Some(false) => got.is_ok() == may,
                            // Doubt may cost an admin his exemption; it gives nobody one.
                            None => got.is_err() || may,
                        };
                        assert!(right, "{who:?} {operation:?} {perms:?}: {got:?}");
                    }
                }
            }
        });
    }
}

#[test]
fn only_what_opens_content_needs_the_key() {
    let who = fake(OWNER, OTHER_GROUP, &[]);
    plain(Perms { owner: 7, group: 0, other: 0, named: None }, |object| {
        for state in STATES {
            for (operation, content) in [
                (Operation::Read, true),
                (Operation::Write, true),
                (Operation::ChangeEntries, false),
                (Operation::ChangeMeta, false),
                (Operation::Touch, false),
                (Operation::ChangeOwner { uid: None, gid: None }, false),
                (Operation::RemoveFromSticky { directory: Uid(OWNER) }, false),
            ] {
                match decide(&who, object, state, &Noon, operation) {
                    Ok(grant) => assert_eq!(
                        (grant.opens_content(), state),
                        (content, if content { ScopeState::Alive } else { state })
                    ),
                    Err(denial) => assert_eq!(Some(denial), key(state).filter(|_| content), "{operation:?}"),
                }
            }
        }
    });
}

#[test]
fn metadata_is_the_owners_and_the_admins() {
    let open = Perms { owner: 7, group: 7, other: 7, named: None };
    for asker in every_asker() {
        for admin in ADMIN {
            let who = Fake { admin, ..asker.clone() };
            let (owns, rules) = (who.uid == OWNER, admin == Some(true));
            // Whether somebody is an admin is asked first for a chown: without an answer there is none.
            let gives = owns && admin.is_some();
            plain(open, |object| {
                let may = |operation| decide(&who, object, ScopeState::Alive, &Noon, operation).is_ok();
                let chown = |uid: Option<u32>, gid: Option<u32>| {
                    may(Operation::ChangeOwner { uid: uid.map(Uid), gid: gid.map(Gid) })
                };
                assert_eq!(may(Operation::ChangeConditions), rules, "{who:?}");
                assert_eq!(chown(Some(STRANGER), None), rules, "{who:?}");
                assert_eq!(chown(Some(STRANGER), Some(GROUP)), rules, "{who:?}");
                assert_eq!(chown(Some(OWNER), Some(NAMED_GROUP)), rules || gives && who.is_in(NAMED_GROUP), "{who:?}");
                assert_eq!(chown(None, Some(GROUP)), rules || gives, "{who:?}");
                assert_eq!(may(Operation::ChangeMeta), rules || owns, "{who:?}");
                let sticky = |directory| may(Operation::RemoveFromSticky { directory: Uid(directory) });
                assert_eq!(sticky(STRANGER), rules || owns || who.uid == STRANGER, "{who:?}");
            });
        }
    }
}

/// uid 0 of a container has the owner's rights over root's files nowhere but in reading what root may read.
#[test]
fn a_root_that_is_no_admin_does_not_own_what_root_owns() {
    let perms = Perms { owner: 6, group: 0, other: 0, named: None };
    for admin in [Some(false), None] {
        let who = Fake { admin, ..fake(0, 0, &[]) };
        with(perms, 0, &Scope::Host, Conditions::default(), |object| {
            let may = |operation| decide(&who, object, ScopeState::Alive, &Noon, operation).is_ok();
            assert!(may(Operation::Read));
            assert!(!may(Operation::ChangeMeta));
            assert!(!may(Operation::ChangeConditions));
            assert!(!may(Operation::ChangeOwner { uid: Some(Uid(STRANGER)), gid: None }));
        });
    }
}

#[test]
fn conditions_restrict_further_and_a_doubt_is_a_refusal() {
    let perms = Perms { owner: 4, group: 0, other: 0, named: None };
    let (noon, later) = ("2026-01-01T12:00:01Z", "2026-01-01T12:00:02Z");
    let its_units = [Ok(None), Ok(Some("right.service")), Ok(Some("wrong.service")), Err(())];
    for unit in [None, Some("right.service"), Some("\u{fffd}"), Some("")] {
        for exe in [None, Some("/usr/bin/right"), Some("/usr/bin/none"), Some("")] {
            for expires in [None, Some(noon), Some(later), Some("2025-01-01T00:00:00Z"), Some("tomorrow"), Some("")] {
                with(perms, OWNER, &Scope::Host, Conditions { unit, exe, expires, label: None }, |object| {
                    for (uid, its_unit) in [OWNER, STRANGER].into_iter().flat_map(|u| its_units.map(|i| (u, i))) {
                        for its_exe in [Ok(1), Ok(2), Err(())] {
                            let who = Fake { unit: its_unit, exe: its_exe, ..fake(uid, OTHER_GROUP, &[]) };
                            let may = uid == OWNER
                                && unit.is_none_or(|u| u == "right.service" && its_unit == Ok(Some(u)))
                                && exe.is_none_or(|e| e == "/usr/bin/right" && its_exe == Ok(1))
                                && expires.is_none_or(|t| t == later);
                            let got = decide(&who, object, ScopeState::Alive, &Noon, Operation::Read);
                            assert_eq!(got.is_ok(), may, "{who:?} with {unit:?} {exe:?} {expires:?}: {got:?}");
                        }
                    }
                });
            }
        }
    }
}

#[test]
fn a_label_is_the_kernels_word_and_a_doubt_is_a_refusal() {
    let perms = Perms { owner: 4, group: 0, other: 0, named: None };
    for (wanted, given, may) in [
        ("/usr/sbin/right", Ok("/usr/sbin/right (enforce)\n"), true),
        ("/usr/sbin/*", Ok("/usr/sbin/right (enforce)\n"), true),
        ("right_t", Ok("system_u:system_r:right_t:s0\0"), true),
        ("/usr/sbin/right", Ok("/usr/sbin/right (complain)\n"), false),
        ("/usr/sbin/right", Ok("unconfined\n"), false),
        ("*", Ok("unconfined\n"), false),
        ("/usr/sbin/right", Ok(""), false),
        ("/usr/sbin/right", Err(()), false),
        ("*", Err(()), false),
        ("\u{fffd}", Ok("/usr/sbin/right (enforce)\n"), false),
    ] {
        let conditions = Conditions { label: Some(wanted), ..Conditions::default() };
        with(perms, OWNER, &Scope::Host, conditions, |object| {
            for uid in [OWNER, STRANGER] {
                let who = Fake { label: given, ..fake(uid, OTHER_GROUP, &[]) };
                let got = decide(&who, object, ScopeState::Alive, &Noon, Operation::Read);
                assert_eq!(got.is_ok(), may && uid == OWNER, "{wanted} {given:?}: {got:?}");
                // Without the condition the label is not looked at.
                let plain = Object { conditions: Conditions::default(), ..*object };
                let got = decide(&who, &plain, ScopeState::Alive, &Noon, Operation::Read);
                assert_eq!(got.is_ok(), uid == OWNER, "{given:?}: {got:?}");
            }
        });
    }
}

/// Whatever a process says of itself: who may not without a condition may not with it, by any operation.
#[test]
fn no_condition_ever_widens() {
    let perms = |owner, group, other| Perms { owner, group, other, named: None };
    let all_conditions = [
        Conditions { unit: Some("right.service"), ..Conditions::default() },
        Conditions { exe: Some("/usr/bin/right"), ..Conditions::default() },
        Conditions { label: Some("right"), ..Conditions::default() },
        Conditions { expires: Some("2030-01-01T00:00:00Z"), ..Conditions::default() },
    ];
    let mut refused = 0;
    for kind in every_kind() {
        let instance = match kind.stands {
            Stands::Host => Ok(None),
            Stands::Inside(scope) => Ok(Some(scope)),
            Stands::Nowhere => Err(()),
        };
        let who = Fake {
            instance,
            admin: Some(kind.admin),
            daemon: kind.daemon,
            unit: Ok(Some("right.service")),
            exe: Ok(1),
            label: Ok("right (enforce)"),
            ..fake(kind.uid, OTHER_GROUP, &[GROUP])
        };
        for perms in [perms(6, 4, 0), perms(0, 0, 0), perms(4, 0, 6), perms(0, 7, 0)] {
            for (owner, conditions) in [0, OWNER, MAPPED_ROOT].into_iter().flat_map(|o| all_conditions.map(|c| (o, c)))
            {
                for scope in [Scope::Host, Scope::container("web").unwrap()] {
                    with(perms, owner, &scope, conditions, |object| {
                        let plain = Object { conditions: Conditions::default(), ..*object };
                        for operation in every_operation() {
                            let ask = |object| decide(&who, object, ScopeState::Alive, &Noon, operation).is_ok();
                            assert!(ask(&plain) || !ask(object), "{kind:?} {operation:?} {perms:?} {conditions:?}");
                            refused += u32::from(!ask(&plain));
                        }
                    });
                }
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_containers_secret_opens_inside_it_alone() {
    let perms = Perms { owner: 4, group: 4, other: 4, named: None };
    let web = Scope::container("web").unwrap();
    for uid in [0, OWNER, STRANGER] {
        for (instance, inside) in
            [(Ok(Some("web")), true), (Ok(Some("db")), false), (Ok(None), false), (Err(()), false)]
        {
            for admin in ADMIN {
                let who = Fake { instance, admin, ..fake(uid, OTHER_GROUP, &[]) };
                with(perms, OWNER, &web, Conditions::default(), |object| {
                    let got = decide(&who, object, ScopeState::Alive, &Noon, Operation::Read);
                    assert_eq!(got.is_ok(), inside, "{who:?}: {got:?}");
                });
            }
        }
    }
}

#[test]
fn the_daemon_passes_the_same_door_and_needs_the_key_too() {
    let perms = Perms { owner: 0, group: 0, other: 0, named: None };
    let daemon = Fake { daemon: true, ..fake(0, 0, &[]) };
    with(perms, OWNER, &Scope::container("web").unwrap(), Conditions::default(), |object| {
        for state in STATES {
            match decide(&daemon, object, state, &Noon, Operation::Read) {
                Ok(grant) => assert_eq!((grant.rule(), state), (Rule::Daemon, ScopeState::Alive)),
                Err(denial) => assert_eq!(Some(denial), key(state)),
            }
        }
    });
}

/// Where somebody stands, for the table below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// On the host, outside every container.
    Host,
    /// Inside an attached instance of this scope.
    Inside(&'static str),
    /// Nobody can say.
    Nowhere,
}

/// A row of the table: a kind of caller.
#[derive(Debug, Clone, Copy)]
struct Kind {
    stands: Stands,
    uid: u32,
    admin: bool,
    daemon: bool,
}

/// Whose secret it is: the host's, or that of `web` with these properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Host,
    Web {
        writable: bool,
        /// What uid 0 inside is outside.
        root: u32,
    },
}

/// What uid 0 inside is outside, with and without a user namespace, and where the map has none.
const ROOTS: [u32; 3] = [0, 100_000, u32::MAX];
const MAPPED_ROOT: u32 = 100_000;

fn every_kind() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for stands in [Stands::Host, Stands::Inside("web"), Stands::Inside("db"), Stands::Nowhere] {
        for uid in [0, OWNER, STRANGER, MAPPED_ROOT] {
            let admin = stands == Stands::Host && uid == 0;
            kinds.push(Kind { stands, uid, admin, daemon: false });
        }
    }
    // A member of the admin group, through the control socket; and the daemon itself.
    kinds.push(Kind { stands: Stands::Host, uid: STRANGER, admin: true, daemon: false });
    kinds.push(Kind { stands: Stands::Host, uid: 0, admin: true, daemon: true });
    kinds
}

fn every_operation() -> Vec<Operation> {
    let chown = |uid: Option<u32>, gid: Option<u32>| Operation::ChangeOwner { uid: uid.map(Uid), gid: gid.map(Gid) };
    vec![
        Operation::Read,
        Operation::List,
        Operation::Search,
        Operation::Look,
        Operation::ReadAttribute,
        Operation::ReadCondition,
        Operation::ShowPassword,
        Operation::Write,
        Operation::WriteNew,
        Operation::ChangeEntries,
        Operation::ChangeMeta,
        Operation::Touch,
        chown(Some(STRANGER), None),
        chown(None, Some(GROUP)),
        chown(Some(OWNER), Some(NAMED_GROUP)),
        Operation::ChangeConditions,
        Operation::RemoveFromSticky { directory: Uid(STRANGER) },
        Operation::RemoveFromSticky { directory: Uid(MAPPED_ROOT) },
    ]
}

/// The table, as the design says it (section 3), the key's state apart.
fn the_table_says(kind: Kind, who: &Fake, whose: Whose, perms: Perms, owner: u32, operation: Operation) -> bool {
    let posix = |wanted| perms.allow(who, owner, wanted);
    let inside = kind.stands == Stands::Inside("web");
    if operation == Operation::Read {
        // No admin reads; a container's secret nobody but those inside.
        return kind.daemon || (posix(4) && (whose == Whose::Host || inside));
    }
    match operation {
        // Nobody is exempt; whose scope it is does not matter for what is no content.
        Operation::List | Operation::ReadAttribute => return kind.daemon || posix(4),
        Operation::Search => return kind.daemon || posix(1),
        Operation::Look => return true,
        // In doubt whether he is an admin, he is told nothing.
        Operation::ReadCondition => {
            return kind.admin || (kind.uid != 0 || kind.stands != Stands::Nowhere) && posix(4);
        }
        _ => {}
    }
    if operation == Operation::ShowPassword {
        // Nobody but an admin, whatever the mode, and never what is a container's.
        return kind.admin && whose == Whose::Host;
    }
    // An admin changes everything. Nobody is one of whom it cannot be said, and only uid 0 is in question.
    if kind.admin {
        return true;
    }
    if kind.uid == 0 && kind.stands == Stands::Nowhere {
        // In doubt whether he is an admin: whoever made it may still write through the descriptor he made it with, and
        // who owns the sticky directory or the file needs no exemption, but 0 of somewhere is nobody's owner.
        return whose == Whose::Host && operation == Operation::WriteNew && owner == 0
            || whose == Whose::Host && operation == Operation::Touch && posix(2);
    }
    // On the host's own files, uid 0 of a container has no owner's rights; inside its own scope it has, and root's.
    let (owns, roots) = match whose {
        Whose::Host => (kind.uid == owner && kind.uid != 0, false),
        Whose::Web { writable, root } => {
            if !inside || !writable {
                return false;
            }
            (kind.uid == owner, kind.uid == root)
        }
    };
    match operation {
        Operation::Read
        | Operation::ShowPassword
        | Operation::List
        | Operation::Search
        | Operation::Look
        | Operation::ReadAttribute
        | Operation::ReadCondition => false,
        Operation::Write => posix(2),
        Operation::WriteNew => kind.uid == owner || posix(2),
        Operation::ChangeEntries => posix(3),
        Operation::ChangeMeta => owns || roots,
        Operation::Touch => owns || roots || posix(2),
        Operation::ChangeOwner { uid, gid } => {
            let keeps = uid.is_none_or(|uid| uid.0 == owner) && gid.is_none_or(|g| g.0 == GROUP || who.is_in(g.0));
            roots || owns && keeps
        }
        Operation::ChangeConditions => false,
        Operation::RemoveFromSticky { directory } => {
            let owns_directory = kind.uid == directory.0 && (whose != Whose::Host || kind.uid != 0);
            owns || roots || owns_directory
        }
    }
}

/// Caller × whose secret × state of the entry × operation, over some modes and owners.
#[test]
fn the_matrix_of_callers_scopes_and_entries() {
    let web = Scope::container("web").unwrap();
    let mut whose = vec![Whose::Host];
    whose.extend(ROOTS.iter().flat_map(|root| [false, true].map(|writable| Whose::Web { writable, root: *root })));
    let perms = |owner, group, other| Perms { owner, group, other, named: None };
    let all_perms = [perms(6, 4, 0), perms(6, 0, 0), perms(0, 0, 0), perms(7, 7, 7), perms(4, 6, 6), perms(0, 0, 3)];
    let (mut allowed, mut denied) = (0u32, 0u32);
    for kind in every_kind() {
        let instance = match kind.stands {
            Stands::Host => Ok(None),
            Stands::Inside(scope) => Ok(Some(scope)),
            Stands::Nowhere => Err(()),
        };
        // Only of uid 0 is there a question; of one who stands nowhere it has no answer.
        let admin = if kind.uid == 0 && kind.stands == Stands::Nowhere { None } else { Some(kind.admin) };
        let who = Fake { instance, admin, daemon: kind.daemon, ..fake(kind.uid, OTHER_GROUP, &[GROUP]) };
        for (whose, perms) in whose.iter().flat_map(|w| all_perms.map(|p| (*w, p))) {
            for owner in [0, OWNER, MAPPED_ROOT, u32::MAX] {
                let (scope, root, writable) = match whose {
                    Whose::Host => (&Scope::Host, 0, false),
                    Whose::Web { writable, root } => (&web, root, writable),
                };
                let object = Object {
                    ino: Ino(5000),
                    scope,
                    uid: Uid(owner),
                    gid: Gid(GROUP),
                    mode: perms.mode(),
                    acl: None,
                    conditions: Conditions::default(),
                    root: Uid(root),
                    writable,
                };
                for (operation, state) in every_operation().into_iter().flat_map(|o| STATES.map(|s| (o, s))) {
                    let may = the_table_says(kind, &who, whose, perms, owner, operation);
                    let content = matches!(
                        operation,
                        Operation::Read | Operation::ShowPassword | Operation::Write | Operation::WriteNew
                    );
                    let got = decide(&who, &object, state, &Noon, operation);
                    let told =
                        format!("{kind:?}: {operation:?} of {whose:?}, owner {owner}, {perms:?}, {state:?}: {got:?}");
                    match (may, key(state).filter(|_| content)) {
                        (true, None) => assert!(got.is_ok(), "{told}"),
                        (true, Some(dead)) => assert_eq!(got.as_ref().err(), Some(&dead), "{told}"),
                        (false, _) => {
                            let told_of_the_key =
                                matches!(got, Err(Denial::NoKey | Denial::KeyRevoked | Denial::KeyExpired));
                            assert!(got.is_err() && !told_of_the_key, "{told}");
                        }
                    }
                    *(if got.is_ok() { &mut allowed } else { &mut denied }) += 1;
                }
            }
        }
    }
    assert!(allowed > 3_000 && denied > 3_000, "the matrix must hold both answers: {allowed} and {denied}");
}

/// The lines that matter most, by hand: nothing of them follows from the oracle above.
#[test]
fn the_rows_that_must_never_change() {
    let web = Scope::container("web").unwrap();
    let object = |writable| Object {
        ino: Ino(5000),
        scope: &web,
        uid: Uid(MAPPED_ROOT),
        gid: Gid(MAPPED_ROOT),
        mode: 0o777,
        acl: None,
        conditions: Conditions::default(),
        root: Uid(MAPPED_ROOT),
        writable,
    };
    let at = |uid, instance, admin| Fake { instance, admin: Some(admin), ..fake(uid, OTHER_GROUP, &[]) };
    let ask = |who: &Fake, writable, operation| decide(who, &object(writable), ScopeState::Alive, &Noon, operation);
    let host_root = at(0, Ok(None), true);
    assert_eq!(ask(&host_root, true, Operation::Read).unwrap_err(), Denial::OutsideScope);
    assert_eq!(ask(&host_root, false, Operation::Write).unwrap().rule(), Rule::Admin);
    let root_inside = at(MAPPED_ROOT, Ok(Some("web")), false);
    assert!(ask(&root_inside, false, Operation::Read).is_ok());
    assert_eq!(ask(&root_inside, false, Operation::Write).unwrap_err(), Denial::ReadOnlyScope);
    assert!(ask(&root_inside, true, Operation::Write).is_ok());
    let chown = Operation::ChangeOwner { uid: Some(Uid(STRANGER)), gid: None };
    assert_eq!(ask(&root_inside, true, chown).unwrap().rule(), Rule::ContainerRoot);
    // Looking goes by the mode alone.
    let looks =
        [Operation::List, Operation::Search, Operation::Look, Operation::ReadAttribute, Operation::ReadCondition];
    for outsider in [at(MAPPED_ROOT, Ok(Some("db")), false), at(MAPPED_ROOT, Ok(None), false)] {
        assert!(looks.iter().all(|look| ask(&outsider, true, *look).is_ok()));
        let others = every_operation().into_iter().filter(|o| *o != Operation::ChangeConditions && !looks.contains(o));
        for operation in others {
            assert_eq!(ask(&outsider, true, operation).unwrap_err(), Denial::OutsideScope, "{outsider:?}");
        }
    }
    let nowhere = at(MAPPED_ROOT, Err(()), false);
    assert!(matches!(ask(&nowhere, true, Operation::Read), Err(Denial::Doubt(_))));
    assert!(matches!(ask(&nowhere, true, Operation::Write), Err(Denial::Doubt(_))));
}

#[test]
fn looking_follows_acl_5_for_everybody_and_a_condition_is_seen_by_admins() {
    for perms in every_perms() {
        plain(perms, |object| {
            for mut who in every_asker() {
                for admin in ADMIN {
                    who.admin = admin;
                    let look = |operation| decide(&who, object, ScopeState::Missing, &Noon, operation).is_ok();
                    assert_eq!(look(Operation::List), perms.allow(&who, OWNER, 4), "{who:?} lists {perms:?}");
                    assert_eq!(look(Operation::ReadAttribute), perms.allow(&who, OWNER, 4), "{who:?} {perms:?}");
                    assert_eq!(look(Operation::Search), perms.allow(&who, OWNER, 1), "{who:?} searches {perms:?}");
                    assert!(look(Operation::Look));
                    let condition = admin == Some(true) || admin == Some(false) && perms.allow(&who, OWNER, 4);
                    assert_eq!(look(Operation::ReadCondition), condition, "{who:?} {perms:?}");
                }
            }
        });
    }
}

/// What of the three directories above `a/b/c` may be searched by others: all are Owner's, 0700 or 0711.
fn reaches(who: &Fake, open: [bool; 3], scopes: [&Scope; 4]) -> Result<(), Denial> {
    let directory = |i: usize| Object {
        ino: Ino(5000 + i as u64),
        scope: scopes[i],
        uid: Uid(OWNER),
        gid: Gid(GROUP),
        mode: if open[i] { 0o711 } else { 0o700 },
        acl: None,
        conditions: Conditions::default(),
        root: Uid::ROOT,
        writable: false,
    };
    let directories = [0, 1, 2].map(directory);
    may_reach(who, &Way { directories: &directories, path: "a/b/c", scope: scopes[3] }, &Noon)
}

#[test]
fn who_passes_directories_needs_each_of_them_that_is_on_his_way() {
    for bits in 0..8u8 {
        let open = [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0];
        // The deepest that is closed: a mount has to begin below it.
        let closed = open.iter().rposition(|open| !open);
        for uid in [0, STRANGER] {
            let who = |passes, mounted| Fake { passes, mounted, ..fake(uid, OTHER_GROUP, &[]) };
            let host = [&Scope::Host; 4];
            assert!(reaches(&who(Ok(false), 0), open, host).is_ok(), "the kernel has judged him");
            for mounted in 0..4 {
                let got = reaches(&who(Ok(true), mounted), open, host);
                assert_eq!(got.is_ok(), closed.is_none_or(|closed| closed < mounted), "{open:?} {mounted}: {got:?}");
                let doubt = reaches(&who(Err(()), mounted), open, host);
                assert_eq!(doubt.is_ok(), closed.is_none(), "{open:?} {mounted}: {doubt:?}");
            }
            // Inside, his container's folder is the root: here the second directory.
            let web = Scope::container("web").expect("a good name");
            let inside = [&Scope::Host, &web, &web, &web];
            for (instance, is) in
                [(Ok(Some("web")), true), (Ok(Some("db")), false), (Ok(None), false), (Err(()), false)]
            {
                let got = reaches(&Fake { instance, ..who(Ok(true), 0) }, open, inside);
                let from = usize::from(is);
                assert_eq!(got.is_ok(), closed.is_none_or(|closed| closed < from), "{open:?} {instance:?}: {got:?}");
            }
        }
        assert!(reaches(&Fake { passes: Ok(true), ..fake(OWNER, OTHER_GROUP, &[]) }, open, [&Scope::Host; 4]).is_ok());
    }
    let refused = reaches(&Fake { passes: Ok(true), ..fake(0, 0, &[]) }, [true, false, true], [&Scope::Host; 4]);
    assert_eq!(refused.unwrap_err().to_string(), "the directory '/a' on the way: not allowed: other");
}
