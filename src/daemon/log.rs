//! What the daemon tells: to journald as fields under systemd, to stderr as text otherwise.

use super::bounded::Bounded;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// Sets it up, once. `PINFOLD_LOG` is a filter as in `debug` or `pinfold=debug,fuser=warn`.
pub fn start() {
    let journald = is_journal().then(tracing_journald::layer).and_then(Result::ok);
    // fuser warns of every request that is answered with ENOSYS, as some are meant to be.
    // On a terminal the audit log's own lines would drown everything else; they are in their file.
    let default = if journald.is_some() { "info,fuser=error" } else { "info,fuser=error,pinfold::audit=warn" };
    let filter = EnvFilter::try_from_env("PINFOLD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let registry = tracing_subscriber::registry().with(filter).with(Bounded::default());
    let done = match journald {
        Some(layer) => registry.with(layer).try_init(),
        None => registry
            .with({
                use std::io::IsTerminal;
                fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).with_target(false)
            })
            .try_init(),
    };
    // It fails only where somebody set one up before, as a test may have.
    drop(done);
}

/// Whether stderr is the journal's (systemd.exec(5), `$JOURNAL_STREAM`): the variable alone may be inherited by a shell
/// that redirected it.
fn is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stderr) = nix::sys::stat::fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}
