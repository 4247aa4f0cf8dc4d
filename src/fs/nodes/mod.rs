//! The numbers by which the kernel knows a secret: one at first, and another where two versions of it are open at once.
//!
//! The kernel keeps one set of pages for each number, filled by whichever handle faults first, whatever handle looks at them later. So no two
//! versions may ever be open for mapping under one number, and what can be written is never mapped. A number is given up only when that would happen,
//! not at each commit: a watcher (inotify), a lock and a bind mount of a single file hang on it.
//!
//! Owns who is open under which number. An open that does not fit under the number it came by is sent elsewhere (ESTALE): the kernel looks
//! the name up once more and is given the fitting one. What cannot go elsewhere (`/proc/self/fd`, a bind mount) is let in unmappable, if the number has no pages.
//!
//! A number: 0 ‖ 23 bits of a counter, 0 at first ‖ 40 bits of the inode. `st_ino` is the inode alone.

mod spread;
#[cfg(test)]
mod tests;

use super::register::{Entry, Register, Spread as Row};
use crate::lock::Mutex;
use crate::model::Ino;
use crate::store::BlobKey;
use spread::{FIRST, Held, LAST, Spread};
use std::collections::HashMap;
use std::time::{Duration, Instant};

const INO_BITS: u32 = 40;
const INO_MASK: u64 = (1 << INO_BITS) - 1;
/// How long who was sent elsewhere is remembered: it comes back at once.
const MEMORY: Duration = Duration::from_secs(10);
/// How many are remembered at once.
const MAX_SENT: usize = 4096;
/// How many of a secret's latest numbers are told of its changes.
const MAX_TOLD: u32 = 64;

/// What the kernel knows a secret, or anything else in the tree, by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// Which it is.
    pub ino: Ino,
    /// 0, or the number of times that another number was needed before.
    pub counter: u32,
}

impl Node {
    /// From the kernel's number.
    pub fn of(id: u64) -> Self {
        Node { ino: Ino(id & INO_MASK), counter: (id >> INO_BITS) as u32 & LAST }
    }

    /// The kernel's number.
    pub fn id(self) -> u64 {
        u64::from(self.counter) << INO_BITS | self.ino.0
    }
}

impl From<Ino> for Node {
    fn from(ino: Ino) -> Self {
        Node { ino, counter: 0 }
    }
}

/// What an open is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Reading this content; `None` before the first version.
    Show(Option<BlobKey>),
    /// Reading this content and no other: it is composed already.
    Just(Option<BlobKey>),
    /// Reading what changes.
    Plain,
    /// Writing alone: nothing is mapped through it.
    Write,
}

/// It does not fit under the number it came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elsewhere;

/// Where an open was let in: counted until it is taken back or released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    pub node: Node,
    /// Nothing is ever mapped through it.
    pub plain: bool,
    /// It is to show another content than it came for: it came when that one was current.
    pub instead: Option<Option<BlobKey>>,
    /// Whether it is counted at all: a writer among readers is not.
    counted: bool,
}

impl Admitted {
    /// Of a file of pinfold's own.
    pub fn own(node: Node) -> Self {
        Admitted { node, plain: true, instead: None, counted: true }
    }
}

#[derive(Debug, Clone, Copy)]
struct Open {
    place: Admitted,
    instance: Option<Ino>,
    filled: bool,
}

struct Sent {
    to: u32,
    want: Want,
    when: Instant,
}

#[derive(Default)]
struct Inner {
    secrets: HashMap<Ino, Spread>,
    open: HashMap<u64, Open>,
    /// By thread.
    sent: HashMap<(u32, Ino), Sent>,
    /// What a secret's number begins with that nothing is known of.
    base: u32,
}

/// All of them. Innermost lock but for the register's: nothing else is called while it is held.
#[derive(Default)]
pub(super) struct Nodes(Mutex<Inner>);

impl Nodes {
    /// As the daemon before this one left them.
    pub fn of(register: &Register) -> Self {
        let mut inner = Inner { base: register.first_counter().min(LAST), ..Inner::default() };
        for Row { node, filled, shown, had_pages, last } in register.spreads() {
            let spread = inner.secrets.entry(node.ino).or_default();
            (spread.current, spread.had_pages, spread.last) = (node.counter, had_pages, last.min(LAST));
            spread.nodes.insert(node.counter, Held { filled, shown, ..Held::default() });
        }
        for (number, entry) in register.entries() {
            let Entry { node, plain, filled, instance, blob, .. } = entry;
            let place =
                Admitted { node, plain, instead: None, counted: plain || !crate::fs::handle::is_writer(number) };
            if !place.counted || node.ino < Ino::FIRST {
                continue;
            }
            let spread = inner.spread(node.ino);
            let held = spread.nodes.entry(node.counter).or_default();
            if plain {
                held.plain += 1;
                held.lost |= crate::fs::handle::is_writer(number);
            } else {
                held.readers += 1;
                held.shown = blob;
            }
            held.filled |= filled;
            if filled && node.counter < FIRST {
                spread.had_pages |= 1 << node.counter;
            }
            inner.open.insert(number, Open { place, instance, filled });
        }
        Nodes(Mutex::new(inner))
    }

    /// The number that whoever looks the name up is given. A thread that was sent elsewhere is given that.
    pub fn named(&self, ino: Ino, tid: u32) -> Node {
        let inner = self.0.lock();
        let sent = inner.sent.get(&(tid, ino)).filter(|sent| sent.when.elapsed() < MEMORY).map(|sent| sent.to);
        let current = || inner.secrets.get(&ino).map_or(inner.base, |spread| spread.current);
        Node { ino, counter: if ino < Ino::FIRST { 0 } else { sent.unwrap_or_else(current) } }
    }

    /// Every number that the kernel may have of it, this one left out.
    pub fn others(&self, node: Node) -> Vec<Node> {
        self.all(node.ino).into_iter().filter(|other| *other != node).collect()
    }

    /// Every number that the kernel may have of it.
    pub fn all(&self, ino: Ino) -> Vec<Node> {
        let inner = self.0.lock();
        let mut all = vec![0, inner.base];
        if let Some(spread) = inner.secrets.get(&ino) {
            all.extend((0..FIRST).filter(|counter| *counter <= spread.last));
            all.extend(spread.last.saturating_sub(MAX_TOLD)..=spread.last);
            all.extend(spread.nodes.keys());
        }
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|counter| Node { ino, counter }).collect()
    }

    /// Whether the kernel may have more than one number of it.
    pub fn is_spread(&self, ino: Ino) -> bool {
        self.0.lock().secrets.get(&ino).is_some_and(|spread| spread.last > 0)
    }

    /// Lets an open in under the number it came by, or sends this thread elsewhere.
    pub fn place(&self, register: &Register, asked: Node, tid: u32, want: Want) -> Result<Admitted, Elsewhere> {
        let mut inner = self.0.lock();
        let sent = inner.sent.remove(&(tid, asked.ino)).filter(|sent| sent.when.elapsed() < MEMORY);
        let spread = inner.spread(asked.ino);
        let held = spread.at(asked.counter);
        let returned = sent.as_ref().is_some_and(|sent| sent.to == asked.counter);
        let home = spread.home(want);
        let here = match want {
            Want::Write => !held.lost,
            Want::Show(_) | Want::Just(_) | Want::Plain => {
                held.is_home(want) || held.fits(want) && (returned || home.is_none() && asked.counter == spread.current)
            }
        };
        if here {
            return Ok(inner.enter(asked, want, None));
        }
        if let Some(sent) = sent {
            return inner.without_choice(asked, want, sent.want);
        }
        let to = match home {
            Some(home) => home,
            None if asked.counter != spread.current && spread.at(spread.current).fits(want) => spread.current,
            None => {
                let another = spread.another();
                register.spread(spread.row(asked.ino));
                another
            }
        };
        if inner.sent.len() >= MAX_SENT {
            inner.sent.retain(|_, sent| sent.when.elapsed() < MEMORY);
        }
        if inner.sent.len() < MAX_SENT {
            inner.sent.insert((tid, asked.ino), Sent { to, want, when: Instant::now() });
        }
        Err(Elsewhere)
    }

    /// It came to nothing.
    pub fn take_back(&self, place: Admitted) {
        self.0.lock().leave(place);
    }

    /// It has this number from now on.
    pub fn keep(&self, number: u64, place: Admitted, instance: Option<Ino>) {
        if place.counted {
            self.0.lock().open.insert(number, Open { place, instance, filled: false });
        }
    }

    /// Whether nothing may be mapped through this handle.
    pub fn is_plain(&self, number: u64) -> bool {
        self.0.lock().open.get(&number).is_some_and(|open| open.place.plain)
    }

    /// It was decided anew, for somebody inside that instance.
    pub fn decided(&self, number: u64, instance: Option<Ino>) {
        if let Some(open) = self.0.lock().open.get_mut(&number) {
            open.instance = instance;
        }
    }

    /// The kernel is about to be given pages of what is open under this number; whether it may.
    pub fn fill(&self, register: &Register, number: u64) -> bool {
        let mut inner = self.0.lock();
        let Some(open) = inner.open.get(&number).copied() else { return false };
        let node = open.place.node;
        let Some(spread) = inner.secrets.get_mut(&node.ino) else { return false };
        let Some(held) = spread.nodes.get_mut(&node.counter) else { return false };
        if open.place.plain || held.plain > 0 || held.lost {
            return false;
        }
        if !held.filled {
            held.filled = true;
            if node.counter < FIRST {
                spread.had_pages |= 1 << node.counter;
            }
            register.spread(spread.row(node.ino));
        }
        if !open.filled {
            register.filled(number);
            inner.open.insert(number, Open { filled: true, ..open });
        }
        true
    }

    /// It was released. Its number, if the kernel was given pages through it.
    pub fn release(&self, number: u64) -> Option<Node> {
        let mut inner = self.0.lock();
        let open = inner.open.remove(&number)?;
        inner.leave(open.place);
        open.filled.then_some(open.place.node)
    }

    /// The numbers that the kernel has pages of, through handles that are open.
    pub fn filled(&self, of: impl Fn(Option<Ino>) -> bool) -> Vec<Node> {
        let inner = self.0.lock();
        let mut all: Vec<_> =
            inner.open.values().filter(|o| o.filled && of(o.instance)).map(|o| o.place.node).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Inner {
    fn spread(&mut self, ino: Ino) -> &mut Spread {
        let base = self.base;
        // Where not all found room in the register, what the first numbers had is not known.
        let had_pages = if base > 0 { u8::MAX } else { 0 };
        self.secrets.entry(ino).or_insert_with(|| Spread { current: base, last: base, had_pages, ..Spread::default() })
    }

    fn enter(&mut self, node: Node, want: Want, instead: Option<Option<BlobKey>>) -> Admitted {
        let spread = self.spread(node.ino);
        let held = spread.nodes.entry(node.counter).or_default();
        let plain = held.plain > 0 || want == Want::Plain;
        let counted = plain || want != Want::Write;
        if plain {
            held.plain += 1;
        } else if let Want::Show(what) | Want::Just(what) = want {
            held.readers += 1;
            held.shown = instead.unwrap_or(what);
        }
        let place = Admitted { node, plain, instead, counted };
        if !counted {
            self.tidy(node);
        }
        place
    }

    /// The kernel came by this number again, or by the one it was sent to, which is another's by now. `first` is what it came for then: what was
    /// current when it began is as good.
    fn without_choice(&mut self, asked: Node, want: Want, first: Want) -> Result<Admitted, Elsewhere> {
        let held = self.spread(asked.ino).at(asked.counter);
        match want {
            _ if held.lost => Err(Elsewhere),
            // Whatever pages there are were dropped when the kernel opened it.
            Want::Show(_) | Want::Just(_) if held.is_free() => Ok(self.enter(asked, want, None)),
            Want::Show(what) if held.plain == 0 && first == Want::Show(held.shown) && held.readers > 0 => {
                Ok(self.enter(asked, want, Some(held.shown).filter(|shown| *shown != what)))
            }
            Want::Plain if held.readers == 0 => Ok(self.enter(asked, want, None)),
            Want::Show(_) | Want::Just(_) | Want::Plain if !held.filled => Ok(self.enter(asked, Want::Plain, None)),
            Want::Show(_) | Want::Just(_) | Want::Plain | Want::Write => Err(Elsewhere),
        }
    }

    fn leave(&mut self, place: Admitted) {
        if !place.counted {
            return;
        }
        if let Some(held) = self.secrets.get_mut(&place.node.ino).and_then(|s| s.nodes.get_mut(&place.node.counter)) {
            let count = if place.plain { &mut held.plain } else { &mut held.readers };
            *count = count.saturating_sub(1);
            held.lost &= held.plain > 0;
        }
        self.tidy(place.node);
    }

    /// Forgets what says nothing.
    fn tidy(&mut self, node: Node) {
        let base = self.base;
        let Some(spread) = self.secrets.get_mut(&node.ino) else { return };
        if spread
            .nodes
            .get(&node.counter)
            .is_some_and(|held| held.is_free() && !(held.filled && spread.current == node.counter))
        {
            spread.nodes.remove(&node.counter);
        }
        if spread.nodes.is_empty() && spread.last == 0 && spread.had_pages == 0 && base == 0 {
            self.secrets.remove(&node.ino);
        }
    }
}
