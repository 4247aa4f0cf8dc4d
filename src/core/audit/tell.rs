//! Tells journald (or whoever listens to `tracing`) what the log recorded, off the path of those who wait.
//!
//! Best effort by intent: when the listener is slow, lines are dropped here and counted, never in the file.

use super::event::Decision;
use super::line::Record;
use crate::lock::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// The target of every event told.
pub(super) const TARGET: &str = "pinfold::audit";
/// Bytes of lines that may wait to be told.
const ROOM: usize = 1 << 20;
/// How long lines are gathered before they are told, so that not every line wakes a thread.
const GATHER: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Default)]
pub(super) struct Teller {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    written: Vec<u8>,
    /// Lines that are not in the file: only their refusals are told, for what was to be allowed was perhaps not.
    unwritten: Vec<u8>,
    dropped: u64,
    stop: bool,
}

impl Teller {
    /// Takes lines over, if somebody listens to such: allowed events are *info*, `refusals` are *warn*. Never waits.
    pub fn tell(&self, lines: &[u8], written: bool, refusals: bool) {
        let heard = tracing::enabled!(target: TARGET, tracing::Level::INFO)
            || (refusals && tracing::enabled!(target: TARGET, tracing::Level::WARN));
        if lines.is_empty() || !heard {
            return;
        }
        let mut state = self.lock();
        if state.written.len() + state.unwritten.len() + lines.len() > ROOM {
            state.dropped += lines.iter().filter(|b| **b == b'\n').count() as u64;
            return;
        }
        let idle = state.written.is_empty() && state.unwritten.is_empty();
        if written { &mut state.written } else { &mut state.unwritten }.extend_from_slice(lines);
        drop(state);
        if idle {
            self.news.notify_one();
        }
    }

    /// Tells until [`Teller::stop`].
    pub fn run(&self) {
        let (mut written, mut unwritten) = (vec![], vec![]);
        loop {
            let mut state = self.lock();
            while state.written.is_empty() && state.unwritten.is_empty() && !state.stop {
                state = self.news.wait(state);
            }
            if !state.stop {
                (state, _) = self.news.wait_timeout_while(state, GATHER, |state| !state.stop);
            }
            std::mem::swap(&mut state.written, &mut written);
            std::mem::swap(&mut state.unwritten, &mut unwritten);
            let (dropped, stop) = (std::mem::take(&mut state.dropped), state.stop);
            drop(state);
            for (lines, kept) in [(&mut written, true), (&mut unwritten, false)] {
                for line in lines.split(|b| *b == b'\n') {
                    tell_line(line, kept);
                }
                lines.clear();
            }
            if dropped > 0 {
                tracing::warn!(target: TARGET, dropped, "{dropped} audit lines are in the file only");
            }
            if stop {
                return;
            }
        }
    }

    /// Ends [`Teller::run`] when it has told what there is.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// One line as one event: fields of its own, and a sentence.
fn tell_line(line: &[u8], written: bool) {
    let Some(r) = Record::parse(line) else { return };
    let (uid, pid, count) = (r.uid.unwrap_or_default(), r.pid.unwrap_or_default(), r.count.unwrap_or(1));
    let text = |t: &Option<String>| t.as_deref().unwrap_or_default().escape_debug().to_string();
    let (path, reason, exe, unit) = (text(&r.path), text(&r.reason), text(&r.exe), text(&r.unit));
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: TARGET,
                seq = r.seq, op = r.op, path, version = r.version, uid, gid = r.gid, pid, exe, unit,
                container = text(&r.container), label = text(&r.label), reason, errno = r.errno, count, written,
                "{} {} '{path}' for uid {uid} pid {pid}: {reason}",
                r.decision.map_or("noted", Decision::as_str), r.op,
            )
        };
    }
    match r.decision {
        Some(Decision::Allowed) if written => event!(info),
        Some(Decision::Allowed) => {}
        Some(Decision::Denied) | None => event!(warn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Mutex;
    use std::io::Write;
    use std::sync::Arc;
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<u8>>>);
    impl Write for Heard {
        fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(b)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl<'a> MakeWriter<'a> for Heard {
        type Writer = Heard;
        fn make_writer(&'a self) -> Heard {
            self.clone()
        }
    }

    fn heard(act: impl FnOnce()) -> String {
        let heard = Heard::default();
        let subscriber = tracing_subscriber::fmt().with_writer(heard.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, act);
        let bytes = heard.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    const DENIED: &[u8] = br#"{"time":"t","seq":4,"op":"open","path":"a\nb","uid":33,"gid":33,"pid":7,"decision":"denied","reason":"no rule","hash":""}"#;
    const ALLOWED: &[u8] = br#"{"time":"t","seq":5,"op":"open","path":"a","uid":33,"gid":33,"pid":7,"decision":"allowed","reason":"owner","hash":""}"#;

    #[test]
    fn refusals_are_warnings_and_a_path_cannot_end_the_line() {
        let text = heard(|| tell_line(DENIED, true));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("WARN pinfold::audit: denied open 'a\\nb' for uid 33 pid 7: no rule"), "{text}");
    }

    #[test]
    fn allowed_events_nobody_listens_to_cost_nothing() {
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(Heard::default());
        tracing::subscriber::with_default(subscriber.finish(), || {
            let teller = Teller::default();
            teller.tell(ALLOWED, true, false);
            assert!(teller.lock().written.is_empty());
            teller.tell(DENIED, true, true);
            assert_eq!(teller.lock().written, DENIED);
        });
    }

    #[test]
    fn what_was_not_written_is_not_told_as_allowed() {
        assert_eq!(heard(|| tell_line(ALLOWED, false)), "");
        assert!(heard(|| tell_line(ALLOWED, true)).contains("INFO"));
        assert!(heard(|| tell_line(DENIED, false)).contains("written=false"));
    }

    #[test]
    fn a_listener_that_is_away_costs_lines_not_memory_or_time() {
        let teller = Teller::default();
        let text = heard(|| {
            let line = [DENIED, b"\n"].concat();
            for _ in 0..20_000 {
                teller.tell(&line, true, true);
            }
            assert!(teller.lock().written.len() <= ROOM);
            teller.stop();
            teller.run();
        });
        assert!(text.contains("audit lines are in the file only"));
    }
}
