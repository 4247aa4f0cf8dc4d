//! Random operations. What they act on is a number, taken modulo what there is: so every list of them means something,
//! also a shortened one.

use proptest::prelude::*;

pub const NAMES: [&str; 6] = ["a", "b", "c", "pub", "x.pem", "y.pem"];
pub const PEM: [&[u8]; 2] = [
    b"-----BEGIN PINFOLD TEST-----\nQUFBQQ==\n-----END PINFOLD TEST-----\n",
    b"-----BEGIN PINFOLD TEST-----\nQkJCQkJCQg==\n-----END PINFOLD TEST-----\n",
];

/// A directory and a name in it.
pub type Place = (u8, u8);

#[derive(Debug, Clone)]
pub enum Data {
    Plain(u8, u16),
    Pem(bool),
}

impl Data {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Data::Plain(byte, len) => vec![b'a' + byte % 26; usize::from(*len)],
            Data::Pem(which) => PEM[usize::from(*which)].to_vec(),
        }
    }
}

#[derive(Debug, Clone)]
pub enum Op {
    Mkdir {
        who: u8,
        at: Place,
        mode: u16,
        umask: u16,
    },
    Symlink {
        who: u8,
        at: Place,
    },
    Create {
        who: u8,
        at: Place,
        mode: u16,
        read: bool,
        write: bool,
    },
    Open {
        who: u8,
        node: u8,
        read: bool,
        write: bool,
        truncate: bool,
    },
    Write {
        handle: u8,
        owner: u64,
        offset: u16,
        data: Data,
        append: bool,
    },
    Read {
        handle: u8,
        offset: u16,
        size: u16,
    },
    Flush {
        handle: u8,
        owner: u64,
    },
    Fsync {
        handle: u8,
    },
    Release {
        handle: u8,
    },
    /// open(O_CREAT|O_TRUNC), a shell's flush of the duplicate, write, flush, release.
    Put {
        who: u8,
        at: Place,
        data: Data,
    },
    /// Written under another name, then renamed into place.
    Replace {
        who: u8,
        temporary: Place,
        at: Place,
        data: Data,
    },
    /// The old file is renamed away, a new one written, the old one removed: as editors do.
    Edit {
        who: u8,
        at: Place,
        backup: u8,
        data: Data,
        remove: bool,
    },
    Truncate {
        who: u8,
        node: u8,
        size: u16,
    },
    TruncateHandle {
        handle: u8,
        size: u16,
    },
    Rename {
        who: u8,
        node: u8,
        to: Place,
        replace: bool,
    },
    RenameDirectory {
        who: u8,
        node: u8,
        to: Place,
    },
    Unlink {
        who: u8,
        node: u8,
    },
    Rmdir {
        who: u8,
        node: u8,
    },
    Chmod {
        who: u8,
        node: u8,
        mode: u16,
    },
    Chown {
        who: u8,
        node: u8,
        uid: Option<u8>,
        gid: Option<u8>,
    },
    Times {
        who: u8,
        node: u8,
        atime: Option<Option<u32>>,
        mtime: Option<Option<u32>>,
    },
    SetXattr {
        who: u8,
        node: u8,
        name: u8,
        len: u8,
        mode: u8,
    },
    RemoveXattr {
        who: u8,
        node: u8,
        name: u8,
    },
    SetAcl {
        who: u8,
        node: u8,
        default: bool,
        perms: [u8; 5],
        named: u8,
    },
    RollBack {
        path: u8,
        number: u8,
    },
    Remove {
        path: u8,
        purge: bool,
    },
    Sync,
    LockAndUnlock,
    Reopen,
    Crash {
        go_on: bool,
    },
}

fn place() -> impl Strategy<Value = Place> {
    (0..4u8, 0..6u8)
}

fn data() -> impl Strategy<Value = Data> {
    prop_oneof![
        5 => (any::<u8>(), 0..40u16).prop_map(|(byte, len)| Data::Plain(byte, len)),
        1 => (any::<u8>(), 3000..4200u16).prop_map(|(byte, len)| Data::Plain(byte, len)),
        2 => any::<bool>().prop_map(Data::Pem),
    ]
}

fn who() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0u8), 2 => Just(1u8), 1 => Just(2u8)]
}

fn mode() -> impl Strategy<Value = u16> {
    prop_oneof![2 => Just(0o777u16), 1 => Just(0o600u16), 1 => Just(0o644u16), 1 => Just(0o1777u16), 1 => 0..0o1000u16]
}

pub fn op() -> impl Strategy<Value = Op> {
    let node = any::<u8>;
    let handle = 0..6u8;
    let owner = || 1..4u64;
    let time = || prop::option::weighted(0.7, prop::option::weighted(0.6, any::<u32>()));
    let files = prop_oneof![
        3 => (who(), place(), mode(), any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(who, at, mode, read, write)| Op::Create { who, at, mode, read, write }),
        5 => (who(), node(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.3))
            .prop_map(|(who, node, read, write, trunc)| Op::Open {
                who, node, read: read || !write, write, truncate: write && trunc
            }),
        8 => (handle.clone(), owner(), 0..60u16, data(), prop::bool::weighted(0.3))
            .prop_map(|(handle, owner, offset, data, append)| Op::Write { handle, owner, offset, data, append }),
        3 => (handle.clone(), 0..50u16, 0..5000u16).prop_map(|(handle, offset, size)| Op::Read { handle, offset, size }),
        5 => (handle.clone(), owner()).prop_map(|(handle, owner)| Op::Flush { handle, owner }),
        1 => handle.clone().prop_map(|handle| Op::Fsync { handle }),
        5 => handle.clone().prop_map(|handle| Op::Release { handle }),
        8 => (who(), place(), data()).prop_map(|(who, at, data)| Op::Put { who, at, data }),
        5 => (who(), place(), place(), data())
            .prop_map(|(who, temporary, at, data)| Op::Replace { who, temporary, at, data }),
        4 => (who(), place(), 0..6u8, data(), any::<bool>())
            .prop_map(|(who, at, backup, data, remove)| Op::Edit { who, at, backup, data, remove }),
        2 => (who(), node(), 0..4200u16).prop_map(|(who, node, size)| Op::Truncate { who, node, size }),
        2 => (handle, 0..50u16).prop_map(|(handle, size)| Op::TruncateHandle { handle, size }),
    ];
    let names = prop_oneof![
        3 => (who(), place(), mode(), prop_oneof![Just(0o022u16), Just(0o077u16)])
            .prop_map(|(who, at, mode, umask)| Op::Mkdir { who, at, mode, umask }),
        2 => (who(), place()).prop_map(|(who, at)| Op::Symlink { who, at }),
        8 => (who(), node(), place(), prop::bool::weighted(0.9))
            .prop_map(|(who, node, to, replace)| Op::Rename { who, node, to, replace }),
        2 => (who(), node(), place()).prop_map(|(who, node, to)| Op::RenameDirectory { who, node, to }),
        4 => (who(), node()).prop_map(|(who, node)| Op::Unlink { who, node }),
        1 => (who(), node()).prop_map(|(who, node)| Op::Rmdir { who, node }),
    ];
    let attributes = prop_oneof![
        2 => (who(), node(), mode()).prop_map(|(who, node, mode)| Op::Chmod { who, node, mode }),
        2 => (who(), node(), prop::option::of(0..3u8), prop::option::of(0..4u8))
            .prop_map(|(who, node, uid, gid)| Op::Chown { who, node, uid, gid }),
        1 => (who(), node(), time(), time()).prop_map(|(who, node, atime, mtime)| Op::Times { who, node, atime, mtime }),
        2 => (who(), node(), 0..5u8, any::<u8>(), 0..3u8)
            .prop_map(|(who, node, name, len, mode)| Op::SetXattr { who, node, name, len, mode }),
        1 => (who(), node(), 0..7u8).prop_map(|(who, node, name)| Op::RemoveXattr { who, node, name }),
        2 => (who(), node(), prop::bool::weighted(0.3), prop::array::uniform5(0..8u8), 0..4u8)
            .prop_map(|(who, node, default, perms, named)| Op::SetAcl { who, node, default, perms, named }),
    ];
    let store = prop_oneof![
        3 => (any::<u8>(), any::<u8>()).prop_map(|(path, number)| Op::RollBack { path, number }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(path, purge)| Op::Remove { path, purge }),
        1 => Just(Op::Sync),
        1 => Just(Op::LockAndUnlock),
        1 => Just(Op::Reopen),
        2 => any::<bool>().prop_map(|go_on| Op::Crash { go_on }),
    ];
    prop_oneof![12 => files, 6 => names, 4 => attributes, 3 => store]
}
