//! Numbers that move, and who is let in where.

use super::*;
use crate::model::VersionNo;

const SECRET: Ino = Ino(2000);

struct Rig {
    register: Register,
    nodes: Nodes,
}

impl Rig {
    fn new() -> Self {
        let register = Register::new().unwrap();
        Rig { nodes: Nodes::of(&register), register }
    }

    /// What the kernel does: one try, another look, one more try. The number of the handle, and where it is.
    fn open(&mut self, tid: u32, want: Want) -> Result<(u64, Admitted), Elsewhere> {
        let first = self.nodes.named(SECRET, 0);
        let place = self.nodes.place(&self.register, first, tid, want).or_else(|_| {
            let second = self.nodes.named(SECRET, tid);
            self.nodes.place(&self.register, second, tid, want)
        })?;
        Ok((self.keep(place, want == Want::Plain || want == Want::Write), place))
    }

    /// A name that cannot lead elsewhere.
    fn reopen(&mut self, node: Node, tid: u32, want: Want) -> Result<(u64, Admitted), Elsewhere> {
        let place = self.nodes.place(&self.register, node, tid, want);
        let place = place.or_else(|_| self.nodes.place(&self.register, node, tid, want))?;
        Ok((self.keep(place, want != Want::Show(None)), place))
    }

    fn keep(&self, place: Admitted, writes: bool) -> u64 {
        let Admitted { node, plain, .. } = place;
        let (blob, instance) = (None, None);
        let entry = Entry { node, blob, instance, locked_since: false, plain, filled: false };
        let number = self.register.add(entry, writes);
        self.nodes.keep(number, place, None);
        number
    }

    fn release(&self, number: u64) -> Option<Node> {
        self.register.remove(number);
        self.nodes.release(number)
    }

    fn fill(&self, number: u64) -> bool {
        self.nodes.fill(&self.register, number)
    }
}

fn show(version: u64) -> Want {
    Want::Show(Some(BlobKey { ino: SECRET, version: VersionNo(version) }))
}

#[test]
fn a_number_is_an_inode_and_a_counter() {
    let node = Node { ino: SECRET, counter: 7 };
    assert_eq!(Node::of(node.id()), node);
    assert_eq!(Node::from(SECRET).id(), SECRET.0, "the first is the inode");
    assert_eq!(Node::from(Ino::ROOT).id(), 1);
    let last = Node { ino: Ino(INO_MASK), counter: LAST };
    assert_eq!(Node::of(last.id()), last);
}

#[test]
fn one_version_after_the_other_keeps_its_number() {
    let mut rig = Rig::new();
    for version in 1..5 {
        let (first, place) = rig.open(1, show(version)).unwrap();
        let (second, _) = rig.open(2, show(version)).unwrap();
        assert_eq!((place.node.counter, place.plain), (0, false));
        assert_eq!((rig.release(first), rig.release(second)), (None, None));
    }
    assert!(!rig.nodes.is_spread(SECRET));
}

#[test]
fn two_versions_at_once_have_two_numbers_and_so_has_what_is_written() {
    let mut rig = Rig::new();
    let (old, place) = rig.open(1, show(1)).unwrap();
    assert_eq!(place.node.counter, 0);
    let (new, place) = rig.open(1, show(2)).unwrap();
    assert_eq!(place.node.counter, 1);
    let (writer, place) = rig.open(1, Want::Plain).unwrap();
    assert_eq!((place.node.counter, place.plain), (2, true));
    for (want, counter) in [(show(2), 1), (show(1), 0), (Want::Plain, 2), (show(3), 3)] {
        let (number, place) = rig.open(1, want).unwrap();
        assert_eq!(place.node.counter, counter, "{want:?}: with its like");
        rig.release(number);
    }
    assert!(rig.fill(old) && rig.fill(new) && !rig.fill(writer));
    assert_eq!(rig.nodes.filled(|_| true).len(), 2);
    assert_eq!(rig.release(old), Some(Node::from(SECRET)));
    assert_eq!(rig.nodes.all(SECRET).len(), 4, "all are told of a change");
    let (_, place) = rig.open(1, show(4)).unwrap();
    assert_eq!(place.node.counter, 3, "one that had no pages is used again");
}

#[test]
fn a_number_with_pages_is_given_to_no_other_version() {
    let mut rig = Rig::new();
    let (old, _) = rig.open(1, show(1)).unwrap();
    assert!(rig.fill(old));
    rig.release(old);
    let (again, place) = rig.open(1, show(1)).unwrap();
    assert_eq!(place.node.counter, 0, "the same version may");
    rig.release(again);
    assert_eq!(rig.open(1, show(2)).unwrap().1.node.counter, 1);
}

#[test]
fn what_cannot_go_elsewhere_is_let_in_unmappable_or_not_at_all() {
    let mut rig = Rig::new();
    let (old, place) = rig.open(1, show(1)).unwrap();
    let (_, beside) = rig.reopen(place.node, 2, show(2)).unwrap();
    assert!(beside.plain && beside.node == place.node);
    assert!(!rig.fill(old), "from now on nobody gets pages");
    let mut rig = Rig::new();
    let (old, place) = rig.open(1, show(1)).unwrap();
    assert!(rig.fill(old));
    assert_eq!(rig.reopen(place.node, 2, show(2)), Err(Elsewhere));
    assert_eq!(rig.reopen(place.node, 3, Want::Plain), Err(Elsewhere));
    rig.release(old);
    assert!(!rig.reopen(place.node, 2, show(2)).unwrap().1.plain, "nobody is there any more");
}

#[test]
fn who_was_sent_elsewhere_and_finds_another_there_gets_what_it_came_for() {
    let mut rig = Rig::new();
    let (_old, place) = rig.open(1, show(1)).unwrap();
    assert!(rig.nodes.place(&rig.register, place.node, 5, show(2)).is_err());
    let target = rig.nodes.named(SECRET, 5);
    let (other, there) = rig.open(6, show(2)).unwrap();
    assert_eq!(there.node, target);
    assert!(rig.fill(other));
    // A third version came meanwhile.
    let place = rig.nodes.place(&rig.register, target, 5, show(3)).unwrap();
    assert_eq!(place.instead, Some(Some(BlobKey { ino: SECRET, version: VersionNo(2) })));
}

#[test]
fn who_was_sent_elsewhere_with_what_is_composed_already_is_let_in_beside_another_unmappable() {
    let mut rig = Rig::new();
    let just = |version| match show(version) {
        Want::Show(blob) => Want::Just(blob),
        other => other,
    };
    let (_old, place) = rig.open(1, just(1)).unwrap();
    assert!(rig.nodes.place(&rig.register, place.node, 5, just(2)).is_err());
    let target = rig.nodes.named(SECRET, 5);
    let (other, there) = rig.open(6, just(2)).unwrap();
    assert_eq!(there.node, target);
    // The sources changed meanwhile: what it would have shown before is not composed again.
    let place = rig.nodes.place(&rig.register, target, 5, just(3)).unwrap();
    assert_eq!((place.plain, place.instead), (true, None));
    assert!(!rig.fill(other), "from now on nobody gets pages");
}

#[test]
fn the_next_daemon_keeps_versions_apart_and_lets_nobody_beside_a_writer_that_is_gone() {
    let mut rig = Rig::new();
    let (old, _) = rig.open(1, show(1)).unwrap();
    let words = |rig: &Rig| Register::of(rig.register.fd().try_clone_to_owned().unwrap()).unwrap();
    // The register has the blob from the vault; here it is written down as none.
    assert!(rig.fill(old));
    let (writer, place) = rig.open(1, Want::Plain).unwrap();
    assert_eq!(place.node.counter, 1);
    let register = words(&rig);
    let mut next = Rig { nodes: Nodes::of(&register), register };
    assert_eq!(next.nodes.named(SECRET, 0).counter, 1);
    let (_, place) = next.open(1, Want::Plain).unwrap();
    assert_eq!(place.node.counter, 2, "not with the writer that is gone");
    assert_eq!(next.open(1, Want::Write).unwrap().1.node.counter, 2);
    assert_eq!(next.reopen(Node { ino: SECRET, counter: 1 }, 1, Want::Write), Err(Elsewhere));
    assert_eq!(next.open(1, show(2)).unwrap().1.node.counter, 3);
    assert_eq!(next.nodes.named(SECRET, 0).counter, 3);
    assert_eq!(next.nodes.filled(|_| true), [Node::from(SECRET)], "pages from before are known");
    next.release(writer);
    assert!(next.reopen(Node { ino: SECRET, counter: 1 }, 1, Want::Write).is_ok(), "it was closed");
}
