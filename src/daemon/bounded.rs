//! Bounds what the daemon tells of itself: a caller who causes the same message again and again fills no journal.
//!
//! So many a second for each place in the code; the next second says how many more there were. The audit log's own lines are bounded where
//! they are made.

use crate::lock::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Messages of one place within [`WINDOW`].
const MOST: u64 = 20;
const WINDOW: Duration = Duration::from_secs(1);
/// The audit log's target.
const AUDIT: &str = "pinfold::audit";

/// See the module.
#[derive(Default)]
pub struct Bounded {
    // As many as there are places in the code.
    places: Mutex<HashMap<Identifier, Callsite>>,
}

struct Callsite {
    since: Instant,
    told: u64,
}

impl Callsite {
    /// Whether one more may be told, and how many were not in the second that is over.
    fn admit(&mut self, now: Instant) -> (bool, u64) {
        let mut hidden = 0;
        if now.duration_since(self.since) >= WINDOW {
            hidden = self.told.saturating_sub(MOST);
            *self = Callsite { since: now, told: 0 };
        }
        self.told += 1;
        (self.told <= MOST, hidden)
    }
}

impl<S: Subscriber> Layer<S> for Bounded {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let meta = event.metadata();
        if meta.target() == AUDIT {
            return true;
        }
        let now = Instant::now();
        let mut places = self.places.lock();
        let (admitted, hidden) = places.entry(meta.callsite()).or_insert(Callsite { since: now, told: 0 }).admit(now);
        drop(places);
        if hidden > 0 {
            tracing::warn!("{hidden} more messages like the next one were not told");
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<u8>>>);
    impl Write for Heard {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_place_is_told_so_often_and_others_are_still_heard() {
        let heard = Heard::default();
        let out = heard.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || out.clone()).with_ansi(false);
        let subscriber = tracing_subscriber::registry().with(Bounded::default()).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..1000 {
                tracing::warn!("flood");
            }
            tracing::warn!("something else");
            for _ in 0..100 {
                tracing::warn!(target: AUDIT, "line");
            }
        });
        let text = String::from_utf8(heard.0.lock().clone()).unwrap();
        // A second may end in the middle.
        assert!((20..=60).contains(&text.matches("flood").count()), "{text}");
        assert_eq!((text.matches("something else").count(), text.matches("line").count()), (1, 100));
    }

    #[test]
    fn the_second_after_says_how_many_were_hidden() {
        let now = Instant::now();
        let mut place = Callsite { since: now, told: 0 };
        assert_eq!((0..50).filter(|_| place.admit(now).0).count() as u64, MOST);
        assert_eq!(place.admit(now + WINDOW), (true, 30));
        assert_eq!(place.admit(now + WINDOW), (true, 0));
    }
}
