//! What is wrong with a policy, and where.
//!
//! Owns how a place in the file is shown: the line, and a caret below it. It never shows more than a window of a line,
//! and nothing that could drive a terminal.

use std::fmt;
use std::fmt::Write as _;
use std::path::PathBuf;
use thiserror::Error;

/// How many faults are told one by one.
pub const FAULTS_MAX: usize = 100;
/// How much of a long line is shown before and after the place, in characters.
const BEFORE: usize = 60;
const AFTER: usize = 50;

/// Why there is no policy.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Somebody else could have written it, or it is no file.
    #[error("{}: {reason}", path.display())]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// Who could.
        reason: String,
    },
    /// The text is wrong.
    #[error("{}", told(path, faults))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the file's order.
        faults: Faults,
    },
}

/// One thing that is wrong, or doubtful, at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFault {
    /// The line, from 1.
    pub line: u32,
    /// The character in it, from 1.
    pub column: u32,
    /// What is wrong, in one line, lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line as it can be shown, or a window of it.
    text: String,
    /// How many characters of `text` are before the place.
    caret: usize,
}

/// Some faults, and how many more there were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// The first hundred, in the file's order.
    pub told: Vec<PolicyFault>,
    /// How many more there are.
    pub untold: usize,
}

impl PolicyFault {
    /// At this character (from 1) of this line.
    pub fn at(line: u32, column: u32, text: &str, message: impl Into<String>) -> Self {
        let before = usize::try_from(column).map_or(0, |c| c.saturating_sub(1));
        let skipped = before.saturating_sub(BEFORE);
        let mut shown: String = if skipped > 0 { "…".into() } else { String::new() };
        let caret = before - skipped + usize::from(skipped > 0);
        let mut rest = text.chars().skip(skipped);
        shown.extend(rest.by_ref().take(BEFORE.min(before) + AFTER).map(harmless));
        if rest.next().is_some() {
            shown.push('…');
        }
        PolicyFault { line, column, message: message.into(), hint: None, text: shown, caret }
    }

    /// With something to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The line, or a window of it, and below it a caret at the place; both end in a newline.
    pub fn picture(&self) -> String {
        let pad: String = self.text.chars().take(self.caret).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        format!("  {}\n  {pad}^\n", self.text)
    }
}

/// One character in the place of one, so that the caret stays below what it means.
fn harmless(c: char) -> char {
    let hidden = c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    if hidden && c != '\t' { '\u{fffd}' } else { c }
}

impl fmt::Display for PolicyFault {
    /// `LINE:COLUMN: message`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl Faults {
    /// The one of bytes that are no text: where they stop to be.
    pub(super) fn of_no_text(error: &std::string::FromUtf8Error) -> Faults {
        let bytes = error.as_bytes();
        let at = error.utf8_error().valid_up_to();
        let start = bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        let end = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n);
        let column = String::from_utf8_lossy(&bytes[start..at]).chars().count() + 1;
        let line = bytes[..start].iter().filter(|b| **b == b'\n').count() + 1;
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut faults = Faults::default();
        let text = String::from_utf8_lossy(&bytes[start..end]);
        faults.push(|| PolicyFault::at(number(line), number(column), &text, "these bytes are not UTF-8"));
        faults
    }

    /// One more; it is made only if it will be told, since each costs about what its line is long.
    pub fn push(&mut self, fault: impl FnOnce() -> PolicyFault) {
        if self.told.len() < FAULTS_MAX {
            self.told.push(fault());
        } else {
            self.untold += 1;
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// How many there are, the untold ones too.
    pub fn count(&self) -> usize {
        self.told.len() + self.untold
    }

    /// In the file's order.
    pub fn sort(&mut self) {
        self.told.sort_by_key(|fault| (fault.line, fault.column));
    }
}

fn told(path: &std::path::Path, faults: &Faults) -> String {
    let mut all = String::new();
    for (i, fault) in faults.told.iter().enumerate() {
        let _ =
            write!(all, "{}{}:{fault}\n{}", if i > 0 { "\n" } else { "" }, path.display(), fault.picture().trim_end());
    }
    if faults.untold > 0 {
        let _ = write!(all, "\nand {} more", faults.untold);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_is_below_what_it_means() {
        let fault = PolicyFault::at(3, 9, "manage\thx : u1", "no");
        assert_eq!(fault.picture(), "  manage\thx : u1\n        \t ^\n");
        assert_eq!(fault.to_string(), "3:9: no");
        let long = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let shown = PolicyFault::at(1, 501, &long, "no").picture();
        let (line, caret) = shown.trim_end().split_once('\n').unwrap();
        assert_eq!(line.chars().position(|c| c == 'X'), caret.chars().position(|c| c == '^'));
        assert!(line.chars().count() < 130 && line.contains('…'));
    }

    #[test]
    fn nothing_that_is_shown_drives_a_terminal() {
        let shown = PolicyFault::at(1, 1, "\u{1b}[2J\u{202e}x", "no").picture();
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'));
    }

    #[test]
    fn faults_are_bounded() {
        let mut faults = Faults::default();
        (0..250).for_each(|n| faults.push(|| PolicyFault::at(n, 1, "x", "no")));
        assert_eq!((faults.told.len(), faults.untold, faults.count()), (100, 150, 250));
        assert!(told("p".as_ref(), &faults).ends_with("and 150 more"));
    }
}
