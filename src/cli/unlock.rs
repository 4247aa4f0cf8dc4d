//! `pinfold unlock`: what was named, or every configured way and the terminal at once.
//!
//! Owns the race's judge on this side of the socket: the daemon opens the identity, or says no.

use super::args::Key;
use super::prompt::{self, Terminal};
use super::show::visible;
use super::{Failure, take};
use crate::config::Config;
use crate::control::client::{Client, ClientError};
use crate::exit::Exit;
use crate::unlock::{Ended, From, Method, MethodError, Race, Timing, Verdict, Where, methods};
use crate::wire::{CallError, Fault, GetStatus, Unlock, UnlockWith};
use std::io::{self, Write};

/// `pinfold unlock`
pub fn unlock(config: &Config, args: Key) -> Result<Exit, Failure> {
    let status = Client::connect(config)?.call(&GetStatus {})?;
    // A scope whose key was revoked or spoiled comes back by an unlock.
    if !status.locked && status.scopes.iter().all(|scope| scope.key == "alive") {
        return Err(Failure::new(Exit::NothingToDo, "the store is unlocked already"));
    }
    // Connected anew each time: the daemon does not wait while somebody types.
    if let Some(with) = take::named(&args)? {
        Client::connect(config)?.call(&request(&with, None)?)?;
        return Ok(Exit::Ok);
    }
    race(config)
}

/// All at once.
fn race(config: &Config) -> Result<Exit, Failure> {
    let mut all = methods(config, &Where::of_this_process(), From::Terminal);
    if let Some(terminal) = Terminal::new() {
        all.push(Box::new(terminal) as Box<dyn Method>);
    } else if all.is_empty() {
        // It says what can be done without a terminal.
        return prompt::ask("").map(|_| Exit::Failed);
    }
    let mut last = None;
    let timing = Timing { overall: config.unlock.timeout, method: config.unlock.method_timeout };
    let race = Race::new(timing).on_failed(|method, error| {
        if let MethodError::Nothing = error {
            return;
        }
        // Where stderr is closed there is nobody to tell.
        let _ = writeln!(io::stderr(), "pinfold: {}: {}", visible(method), visible(&error.to_string()));
    });
    let ended = race.run(all, &mut |method, answer| match try_it(config, method, answer) {
        Ok(()) => Verdict::Opens,
        Err(Refused::Wrong(failure)) => {
            last = Some(failure);
            Verdict::Wrong
        }
        Err(Refused::Over(failure)) => {
            last = Some(failure);
            Verdict::Over
        }
    });
    match (ended, last) {
        (Ended::Won(_), _) => Ok(Exit::Ok),
        (_, Some(failure)) => Err(failure),
        (_, None) => Err(Failure::new(Exit::Refused, "nothing that is configured had an answer")
            .hint("pinfold unlock --passphrase-file FILE, or - for stdin")),
    }
}

/// Why an answer did not unlock.
enum Refused {
    /// It does not open the identity.
    Wrong(Failure),
    /// Another one would not either.
    Over(Failure),
}

fn try_it(config: &Config, method: &str, answer: &UnlockWith) -> Result<(), Refused> {
    let request = request(answer, Some(method)).map_err(Refused::Over)?;
    let done = Client::connect(config).and_then(|mut client| client.call(&request));
    done.map(drop).map_err(|error| match error {
        ClientError::Call(CallError::Fault(Fault::Refused(_))) => Refused::Wrong(error.into()),
        other => Refused::Over(other.into()),
    })
}

fn request(with: &UnlockWith, method: Option<&str>) -> Result<Unlock, Failure> {
    let copy = |secret: &crate::secret::Secret| crate::secret::Secret::copy_of(secret.expose());
    // The daemon takes 64 bytes of a name.
    let method = method.map(|m| m.chars().filter(|c| !c.is_control()).take(16).collect());
    let unlock = Unlock { method, ..Unlock::default() };
    Ok(match with {
        UnlockWith::Passphrase(p) => Unlock { passphrase: Some(copy(p)?), ..unlock },
        UnlockWith::Identity(i) => Unlock { identity: Some(copy(i)?), ..unlock },
        UnlockWith::Recovery(r) => Unlock { recovery: Some(copy(r)?), ..unlock },
    })
}
