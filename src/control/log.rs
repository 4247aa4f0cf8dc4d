//! The audit log, for those who may look and cannot open its files.
//!
//! Owns the size of a part, and that one user reads it once at a time: each reading has a thread and a decompressor.

use super::dispatch::{Conversation, Core, InOwnWay, Stop};
use super::gate::{Gate, Turn};
use super::session::LARGE_PATIENCE;
use crate::wire::{Actor, Call, CallError, Fault, LogLines, LogRead, LogVerify};
use std::io;

/// Lines in one part.
const LINES_AT_ONCE: usize = 500;
/// Bytes of lines in one part, about: the last line may exceed it.
const BYTES_AT_ONCE: usize = 48 << 10;

impl InOwnWay for LogRead {
    fn answer(
        core: &dyn Core,
        actor: &Actor,
        call: &Call<'_>,
        Conversation { gate, out, .. }: &mut Conversation<'_, '_>,
    ) -> Result<(), Stop> {
        let read: LogRead = call.parameters()?;
        if !call.more {
            return Err(CallError::ExpectedMore.into());
        }
        if read.last.is_some() == read.from.is_some() {
            return Err(Fault::Usage("give exactly one of last and from".into()).into());
        }
        let _turn = turn(gate, actor)?;
        let (mut part, mut bytes, mut broken) = (LogLines::default(), 0, None);
        let wanted = out.wanted();
        let next = core.log_read(actor, read, &mut || wanted(), &mut |line| {
            part.lines.push(line.to_owned());
            bytes += line.len();
            if part.lines.len() < LINES_AT_ONCE && bytes < BYTES_AT_ONCE {
                return Ok(());
            }
            let sent = out.plain(&part, true);
            part.lines.clear();
            bytes = 0;
            sent.map_err(|error| io::Error::from(broken.insert(error).kind()))
        });
        if let Some(error) = broken {
            return Err(Stop::Connection(error));
        }
        part.next = Some(next?);
        Ok(out.plain(&part, false)?)
    }
}

impl InOwnWay for LogVerify {
    fn answer(
        core: &dyn Core,
        actor: &Actor,
        call: &Call<'_>,
        Conversation { gate, out, .. }: &mut Conversation<'_, '_>,
    ) -> Result<(), Stop> {
        let LogVerify {} = call.parameters()?;
        let wanted = out.wanted();
        let verified = {
            let _turn = turn(gate, actor)?;
            core.log_verify(actor, &mut || wanted())?
        };
        Ok(out.plain(&verified, false)?)
    }
}

fn turn<'g>(gate: &'g Gate, actor: &Actor) -> Result<Turn<'g>, Fault> {
    let busy = || Fault::Failed("others are reading the audit log: try again".into());
    gate.log(actor.uid, LARGE_PATIENCE).ok_or_else(busy)
}
