//! The way to a node: whether the plain uid, with its groups and without capabilities, could have come there.
//!
//! The kernel asks search permission of every directory that is walked through; a capability passes them all, and nobody
//! tells the daemon. What of a way is not walked is left out: the directories above a mount that begins below them, and
//! those above the folder of the caller's own container. Of a caller without the capability the kernel has judged what he
//! did walk, whatever he came by.

use super::posix::{self, SEARCH};
use super::{Denial, Object, World, may_search, must_be_inside};
use crate::model::{Gid, Scope, Subject, Uid};

/// The directories from the root of the tree to a node.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// The root first, the one that the node is in last; empty for the root itself.
    pub directories: &'a [Object<'a>],
    /// The node's path in the tree, without a leading slash: one name more than there are directories below the root.
    pub path: &'a str,
    /// Whom the node is sealed to.
    pub scope: &'a Scope,
}

/// Whether the uid alone says that this directory may be searched: then nothing is to be asked.
pub fn is_open_to(uid: Uid, directory: &Object<'_>) -> bool {
    let nobodys = || directory.acl.is_none() && directory.gid == Gid::NOBODYS && directory.mode & 1 != 0;
    match posix::by_uid(uid, directory, SEARCH) {
        Some(said) => said.is_ok(),
        None => nobodys(),
    }
}

/// Whether the subject could have come to the node without a capability.
///
/// # Errors
/// [`Denial::OutOfReach`] with the directory nearest to the node that it may not search; [`Denial::Doubt`].
pub fn may_reach<S: Subject + ?Sized>(subject: &S, way: &Way<'_>, world: &impl World) -> Result<(), Denial> {
    let uid = subject.uid();
    let open = |directories: &[Object<'_>]| directories.iter().all(|directory| is_open_to(uid, directory));
    if subject.is_daemon() || open(way.directories) {
        return Ok(());
    }
    // Inside, the scope's own folder is the root.
    let top = match way.scope {
        Scope::Host => 0,
        Scope::Container(_) => way.directories.iter().filter(|directory| directory.scope != way.scope).count(),
    };
    let is_inside = || top > 0 && must_be_inside(subject, way.scope).is_ok();
    if open(&way.directories[top..]) && is_inside() {
        return Ok(());
    }
    if !subject.passes_directories()? {
        return Ok(());
    }
    let closed = way.directories.iter().enumerate().rev();
    let mut closed =
        closed.filter_map(|(depth, directory)| may_search(subject, directory).err().map(|why| (depth, why)));
    let Some((depth, why)) = closed.next() else { return Ok(()) };
    if depth < top && is_inside() || depth < subject.mounted_past(world.tree()?, way.path)? {
        return Ok(());
    }
    let directory = way.path.split('/').take(depth).collect::<Vec<_>>().join("/");
    Err(Denial::OutOfReach { directory, why: Box::new(why) })
}
