//! The race: every method on a thread of its own, answers judged one at a time in the order in which they come.
//!
//! Owns who runs, who is told to stop, and how often anything is tried. A method that answers wrongly, hangs, floods or
//! dies harms itself alone; deriving a key from a passphrase is slow on purpose, so nothing is judged beside anything else
//! and each method gets one try, a prompt three.

use super::method::{Kind, Method, MethodError, Stop};
use crate::secret::Secret;
use crate::wire::UnlockWith;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many wrong answers are taken from people, in all.
const PROMPTS: usize = 3;
/// How long people wait for the methods that answer at once. A file on a dead network filesystem must not keep them.
const READY: Duration = Duration::from_secs(5);

/// What the judge says of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It opened the identity.
    Opens,
    /// It did not.
    Wrong,
    /// There is nothing to win any more: it was opened by somebody else, or cannot be by anybody.
    Over,
}

/// How long a race may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// All of it.
    pub overall: Duration,
    /// One method.
    pub method: Duration,
}

/// How a race ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Somebody won: the method's name.
    Won(String),
    /// The judge, or the canceller, called it off.
    Over,
    /// Nobody won, and nobody is left or the time is up.
    Lost,
}

enum News {
    Answer(usize, UnlockWith),
    Ended(usize, Result<(), MethodError>),
    Cancel,
}

/// Calls a race off, from wherever.
#[derive(Debug, Clone)]
pub struct Canceller(Sender<News>);

impl Canceller {
    /// Now. A race that is over does not mind.
    pub fn cancel(&self) {
        let _ = self.0.send(News::Cancel);
    }
}

/// A race to be run.
pub struct Race {
    timing: Timing,
    sender: Sender<News>,
    news: Receiver<News>,
    settled: Option<Box<dyn FnOnce() + Send>>,
    failed: Box<Failed>,
}

/// Hears of methods that have no answer.
type Failed = dyn FnMut(&str, &MethodError) + Send;

/// A method that runs.
struct Runner {
    name: String,
    kind: Kind,
    stop: Stop,
    verdicts: Sender<Verdict>,
    thread: JoinHandle<()>,
    running: bool,
}

impl Race {
    /// With these bounds.
    pub fn new(timing: Timing) -> Self {
        let (sender, news) = mpsc::channel();
        let failed = |method: &str, error: &MethodError| match error {
            MethodError::Nothing => tracing::debug!(method, "a way to unlock has no answer"),
            error => tracing::warn!(method, %error, "a way to unlock failed"),
        };
        Race { timing, sender, news, settled: None, failed: Box::new(failed) }
    }

    /// Called once, when the methods that answer at once have been judged, or the race is over.
    pub fn on_settled(mut self, call: impl FnOnce() + Send + 'static) -> Self {
        self.settled = Some(Box::new(call));
        self
    }

    /// Called with each method that has no answer, instead of a line in the log.
    pub fn on_failed(mut self, call: impl FnMut(&str, &MethodError) + Send + 'static) -> Self {
        self.failed = Box::new(call);
        self
    }

    /// What calls it off.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.sender.clone())
    }

    /// Runs them all. Returns when every one of them has ended, and everything it had started.
    pub fn run(mut self, methods: Vec<Box<dyn Method>>, judge: &mut dyn FnMut(&str, &UnlockWith) -> Verdict) -> Ended {
        let (prompts, at_once): (Vec<_>, Vec<_>) = methods.into_iter().partition(|m| m.kind() == Kind::Prompt);
        let end = Instant::now() + self.timing.overall;
        let settle_by = (Instant::now() + READY).min(end);
        let mut prompts = Some(prompts);
        let mut runners = Vec::new();
        for method in at_once {
            self.start(method, end, &mut runners);
        }
        let mut wrong_typed = 0;
        let ended = loop {
            let ready = runners.iter().any(|r| r.running && r.kind == Kind::Ready);
            if prompts.is_some() && (!ready || Instant::now() >= settle_by) {
                self.settle();
                for method in prompts.take().into_iter().flatten() {
                    self.start(method, end, &mut runners);
                }
            }
            if !runners.iter().any(|r| r.running) {
                break Ended::Lost;
            }
            let until = if prompts.is_some() { settle_by } else { end };
            match self.news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(News::Cancel) => break Ended::Over,
                Ok(News::Ended(n, result)) => {
                    runners[n].running = false;
                    if let Err(error) = result {
                        (self.failed)(&runners[n].name, &error);
                    }
                }
                Ok(News::Answer(n, answer)) => {
                    let runner = &runners[n];
                    if runner.kind == Kind::Prompt && wrong_typed >= PROMPTS {
                        // It was on its way when the tries were used up.
                        let _ = runner.verdicts.send(Verdict::Over);
                        continue;
                    }
                    let mut verdict = judge_twice(&runner.name, answer, judge);
                    match verdict {
                        Verdict::Opens => break Ended::Won(runner.name.clone()),
                        Verdict::Over => break Ended::Over,
                        Verdict::Wrong if runner.kind == Kind::Prompt => {
                            wrong_typed += 1;
                            if wrong_typed >= PROMPTS {
                                verdict = Verdict::Over;
                                runners.iter().filter(|r| r.kind == Kind::Prompt).for_each(|r| r.stop.cancel());
                            }
                        }
                        Verdict::Wrong => verdict = Verdict::Over,
                    }
                    // A thread that is gone will say so by News::Ended.
                    let _ = runners[n].verdicts.send(verdict);
                }
                Err(RecvTimeoutError::Timeout) if prompts.is_none() => break Ended::Lost,
                Err(_) => {}
            }
        };
        self.settle();
        for runner in &runners {
            runner.stop.cancel();
        }
        for runner in runners {
            drop(runner.verdicts);
            // One that panicked has said so on stderr.
            let _ = runner.thread.join();
        }
        ended
    }

    fn settle(&mut self) {
        if let Some(call) = self.settled.take() {
            call();
        }
    }

    fn start(&self, mut method: Box<dyn Method>, end: Instant, runners: &mut Vec<Runner>) {
        let (name, kind, n) = (method.name().to_owned(), method.kind(), runners.len());
        let (verdicts, hears) = mpsc::channel();
        let begun = Stop::new((Instant::now() + self.timing.method).min(end)).and_then(|stop| {
            let (report, theirs) = (Report { n, to: self.sender.clone(), said: false }, stop.clone());
            let thread = std::thread::Builder::new()
                .name(format!("unlock-{name}").chars().take(15).collect())
                .spawn(move || report.work(&mut *method, &theirs, &hears))?;
            Ok((stop, thread))
        });
        match begun {
            Ok((stop, thread)) => runners.push(Runner { name, kind, stop, verdicts, thread, running: true }),
            Err(error) => tracing::error!(method = %name, %error, "a way to unlock cannot be tried"),
        }
    }
}

/// Says that a method has ended, however that came about.
struct Report {
    n: usize,
    to: Sender<News>,
    said: bool,
}

impl Report {
    fn work(mut self, method: &mut dyn Method, stop: &Stop, verdicts: &Receiver<Verdict>) {
        loop {
            match method.answer(stop) {
                Ok(answer) => {
                    let sent = self.to.send(News::Answer(self.n, answer));
                    // Only after a wrong answer of a prompt is there another go.
                    if sent.is_err() || verdicts.recv() != Ok(Verdict::Wrong) {
                        return self.say(Ok(()));
                    }
                }
                Err(MethodError::Stopped) => return self.say(Ok(())),
                Err(error) => return self.say(Err(error)),
            }
        }
    }

    fn say(&mut self, result: Result<(), MethodError>) {
        self.said = true;
        let _ = self.to.send(News::Ended(self.n, result));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.said {
            self.say(Err(MethodError::Failed("it panicked".into())));
        }
    }
}

/// As it is, and if that is wrong once more without a newline at the end: programs that print end lines.
fn judge_twice(name: &str, answer: UnlockWith, judge: &mut dyn FnMut(&str, &UnlockWith) -> Verdict) -> Verdict {
    let verdict = judge(name, &answer);
    let UnlockWith::Passphrase(mut bytes) = answer else { return verdict };
    if verdict != Verdict::Wrong || bytes.expose().last() != Some(&b'\n') {
        return verdict;
    }
    if bytes.resize(without_newline(&bytes)).is_err() || bytes.is_empty() {
        return verdict;
    }
    judge(name, &UnlockWith::Passphrase(bytes))
}

fn without_newline(secret: &Secret) -> usize {
    let text = secret.expose();
    text.strip_suffix(b"\n").map_or(text, |t| t.strip_suffix(b"\r").unwrap_or(t)).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Timing = Timing { overall: Duration::from_secs(60), method: Duration::from_secs(60) };

    /// Says what it was given, one thing after the other, then waits to be stopped.
    struct Says(&'static str, Kind, Vec<&'static str>);

    impl Method for Says {
        fn name(&self) -> &str {
            self.0
        }
        fn kind(&self) -> Kind {
            self.1
        }
        fn answer(&mut self, stop: &Stop) -> Result<UnlockWith, MethodError> {
            match self.2.pop() {
                Some("panic") => panic!("as it was told to"),
                Some(word) => Ok(UnlockWith::Passphrase(Secret::copy_of(word.as_bytes())?)),
                None => stop.wait([]).map(|_| unreachable!("nothing else to wait for")),
            }
        }
    }

    fn race(timing: Timing, methods: Vec<Says>) -> (Ended, Vec<String>) {
        let mut seen = Vec::new();
        let boxed = methods.into_iter().map(|m| Box::new(m) as Box<dyn Method>).collect();
        let ended = Race::new(timing).run(boxed, &mut |name, answer| {
            let UnlockWith::Passphrase(p) = answer else { panic!("a passphrase was said") };
            let word = String::from_utf8(p.expose().to_vec()).unwrap();
            seen.push(format!("{name}:{}", word.escape_default()));
            match word.as_str() {
                "right" => Verdict::Opens,
                "over" => Verdict::Over,
                _ => Verdict::Wrong,
            }
        });
        (ended, seen)
    }

    #[test]
    fn the_first_that_opens_wins_whoever_spoke_before() {
        let (ended, seen) = race(
            LONG,
            vec![
                Says("a", Kind::Unattended, vec!["wrong"]),
                Says("b", Kind::Prompt, vec!["right"]),
                Says("c", Kind::Unattended, vec![]),
                Says("d", Kind::Unattended, vec!["panic"]),
            ],
        );
        assert_eq!(ended, Ended::Won("b".into()));
        assert!(seen.contains(&"b:right".into()), "{seen:?}");
    }

    #[test]
    fn people_get_three_tries_and_programs_one() {
        let many = || vec!["w9", "w8", "w7", "w6", "w5", "w4", "w3", "w2", "w1"];
        let (ended, seen) = race(LONG, vec![Says("p", Kind::Prompt, many()), Says("q", Kind::Prompt, many())]);
        assert_eq!((ended, seen.len()), (Ended::Lost, 3), "{seen:?}");
        let (ended, seen) = race(LONG, vec![Says("p", Kind::Unattended, many())]);
        assert_eq!((ended, seen), (Ended::Lost, vec!["p:w1".to_owned()]));
    }

    #[test]
    fn one_newline_is_forgiven_once() {
        for (said, tries) in [
            ("right\n", vec!["p:right\\n", "p:right"]),
            ("right\r\n", vec!["p:right\\r\\n", "p:right"]),
            ("no\n", vec!["p:no\\n", "p:no"]),
            ("right\n\n", vec!["p:right\\n\\n", "p:right\\n"]),
            ("\n", vec!["p:\\n"]),
        ] {
            assert_eq!(race(LONG, vec![Says("p", Kind::Unattended, vec![said])]).1, tries);
        }
    }

    #[test]
    fn time_the_judge_and_the_canceller_end_it() {
        let short = Timing { overall: Duration::from_millis(50), ..LONG };
        assert_eq!(race(short, vec![Says("p", Kind::Unattended, vec![])]).0, Ended::Lost);
        let short = Timing { method: Duration::from_millis(50), ..LONG };
        assert_eq!(race(short, vec![Says("p", Kind::Prompt, vec!["wrong"])]).0, Ended::Lost);
        assert_eq!(race(LONG, vec![Says("p", Kind::Unattended, vec!["over"])]).0, Ended::Over);
        assert_eq!(race(LONG, Vec::new()).0, Ended::Lost);
        let race = Race::new(LONG);
        race.canceller().cancel();
        let ended = race.run(vec![Box::new(Says("p", Kind::Unattended, vec![]))], &mut |_, _| Verdict::Wrong);
        assert_eq!(ended, Ended::Over);
    }

    #[test]
    fn nobody_is_asked_before_what_is_there_was_judged() {
        let (settled, when) = mpsc::channel();
        let judged = settled.clone();
        let race = Race::new(LONG).on_settled(move || settled.send("settled").unwrap());
        let methods: Vec<Box<dyn Method>> = vec![
            Box::new(Says("typed", Kind::Prompt, vec!["right"])),
            Box::new(Says("file", Kind::Ready, vec!["wrong"])),
        ];
        let ended = race.run(methods, &mut |name, _| {
            judged.send(if name == "file" { "file" } else { "typed" }).unwrap();
            if name == "file" { Verdict::Wrong } else { Verdict::Opens }
        });
        assert_eq!(ended, Ended::Won("typed".into()));
        assert_eq!(when.try_iter().collect::<Vec<_>>(), ["file", "settled", "typed"]);
    }
}
