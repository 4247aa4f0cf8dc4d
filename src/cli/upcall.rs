//! `pinfold upcall`, which request-key(8) starts: it has no terminal, and what it says goes to the system's log.

use super::Failure;
use super::args::Upcall;
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::upcall::{self, Answer, Asked};
use crate::wire::KeyRequest;
use std::path::Path;

/// `pinfold upcall`
pub fn upcall(config: &Config, args: Upcall) -> Result<Exit, Failure> {
    let slots = config.control.parent().unwrap_or(Path::new("/")).to_owned();
    let config = config.clone();
    let ask = move |asked: Asked| {
        let request = KeyRequest { path: asked.path, tid: asked.tid, key: asked.key, auth: asked.auth };
        let answer = Client::connect(&config).and_then(|mut client| client.call(&request));
        answer.map(|a| Answer { content: a.content, timeout: a.timeout }).map_err(|e| e.to_string())
    };
    upcall::make(args.key, &slots, ask).map_err(|error| Failure::new(Exit::Refused, error.to_string()))?;
    Ok(Exit::Ok)
}
