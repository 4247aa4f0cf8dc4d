//! `pinfold password show`: one at a time, on the terminal's other screen, gone with the next key.
//!
//! Owns the screen while a password is on it, and clears it however that ends. How many there may be is the daemon's to
//! say.

use super::super::prompt::{self, Pressed};
use super::args::Show;
use super::{Failure, selected};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::model::check_password;
use crate::secret::Secret;
use crate::wire::{PasswordEntry, PasswordShow, ShownPassword};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};
use zeroize::Zeroize;

/// How long a password stays on the screen.
const SHOWN_FOR: Duration = Duration::from_secs(30);
/// To the other screen, which no scrolling brings back; cleared.
const TAKE_SCREEN: &[u8] = b"\x1b[?1049h\x1b[2J\x1b[H";
/// Cleared, and back.
const GIVE_BACK: &[u8] = b"\x1b[2J\x1b[3J\x1b[H\x1b[?1049l";

pub fn show(config: &Config, args: &Show) -> Result<Exit, Failure> {
    let refused = |what: &str| {
        Failure::new(Exit::Refused, what).hint("a program that needs it gets it in the tree: setfacl, or a view")
    };
    if !io::stdout().is_terminal() {
        return Err(refused("passwords are shown on a terminal only"));
    }
    let tty = File::options().read(true).write(true).open("/dev/tty");
    let tty = tty.map_err(|_| refused("passwords are shown on a terminal only, and there is none"))?;
    let mut client = Client::connect(config)?;
    let entries = selected(&mut client, &args.patterns)?;
    let all = entries.len();
    for (i, entry) in entries.into_iter().enumerate() {
        let show = PasswordShow { name: entry.name.clone(), next: Some(args.next) };
        let shown = client.call(&show).map_err(|e| {
            let hint = "passwords.show_per_minute bounds it; each is recorded: pinfold log";
            Failure::from(e).about(&entry.name.to_string()).hint_if(Exit::Refused, hint)
        })?;
        let pressed = on_screen(&tty, &entry, &shown, (i + 1, all))
            .map_err(|e| Failure::new(Exit::Failed, format!("the terminal: {e}")))?;
        pressed.follow();
        match pressed {
            Pressed::Key(b'q' | b'Q') | Pressed::Signal(_) => break,
            // Nobody sits there: the next would be shown to nobody, or to somebody else.
            Pressed::Nothing => break,
            Pressed::Key(_) => {}
        }
    }
    Ok(Exit::Ok)
}

fn on_screen(
    mut tty: &File,
    entry: &PasswordEntry,
    shown: &ShownPassword,
    (number, all): (usize, usize),
) -> io::Result<Pressed> {
    let lines = page(entry, shown, (number, all)).map_err(io::Error::other)?;
    let _screen = Screen(tty);
    tty.write_all(TAKE_SCREEN)?;
    prompt::pause(tty, lines.expose(), Instant::now() + SHOWN_FOR)
}

/// What is on the screen, in locked memory.
fn page(
    entry: &PasswordEntry,
    shown: &ShownPassword,
    (number, all): (usize, usize),
) -> Result<Secret, crate::sys::arena::ArenaFull> {
    let mut page = Secret::zeroed(0)?;
    let mut add = |text: &[u8]| {
        let at = page.len();
        page.resize(at + text.len())?;
        page.expose_mut()[at..].copy_from_slice(text);
        Ok(())
    };
    add(format!("{}  v{}\n\n    ", entry.name, shown.version).as_bytes())?;
    match check_password(shown.content.expose()) {
        Ok(()) => add(shown.content.expose())?,
        // It came into the tree by another way: what it holds must not drive the terminal.
        Err(_) => {
            for byte in shown.content.expose() {
                let mut escaped = [0; 4];
                let mut len = 0;
                for (to, from) in escaped.iter_mut().zip(std::ascii::escape_default(*byte)) {
                    (*to, len) = (from, len + 1);
                }
                add(&escaped[..len])?;
                escaped.zeroize();
            }
        }
    }
    add(b"\n\n")?;
    if let Some(state) = shown.rotation {
        let text = format!("It is being rotated ({}): the {} one is valid.\n\n", state.as_str(), state.valid());
        add(text.as_bytes())?;
    }
    let keys = if number < all { "any key shows the next one, q ends" } else { "any key clears it" };
    add(format!("{number} of {all}: {keys}; it goes after {} s", SHOWN_FOR.as_secs()).as_bytes())?;
    Ok(page)
}

/// Cleared and given back when dropped.
struct Screen<'t>(&'t File);

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let mut tty = self.0;
        // A terminal that has gone shows nothing any more.
        let _ = tty.write_all(GIVE_BACK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PasswordName, Timestamp};

    #[test]
    fn nothing_that_is_stored_drives_the_terminal() {
        let entry = PasswordEntry {
            name: PasswordName::parse("ui-1").unwrap(),
            version: 1,
            changed: Timestamp::default(),
            open: true,
            rotation: None,
        };
        for (content, is) in [("p\u{e4}ss w", "    p\u{e4}ss w\n"), ("a\u{1b}[2J\n", "    a\\x1b[2J\\n\n")] {
            let content = Secret::copy_of(content.as_bytes()).unwrap();
            let shown = ShownPassword { version: 1, rotation: None, content };
            let page = page(&entry, &shown, (1, 2)).unwrap();
            let text = std::str::from_utf8(page.expose()).unwrap();
            assert!(text.contains(is) && !text.contains('\u{1b}'), "{text:?}");
        }
    }
}
