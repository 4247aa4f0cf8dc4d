//! The commands that change or open what is in the tree: put, cat, rm, rollback.
//!
//! Owns what they ask and say. Content passes through locked memory only, past the buffers of the standard library.

use super::args::{Cat, Put, Rm, Rollback};
use super::{Failure, names, show, take, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::model::SecretPath;
use crate::wire::{self, FrameWriter, Remove, Reveal, limit_for};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// What was typed as a path, with or without the mount point before it.
///
/// # Errors
/// A usage error for what is no path of the tree.
pub fn path(typed: &str, config: &Config) -> Result<SecretPath, Failure> {
    SecretPath::parse_below(typed, &config.mountpoint.to_string_lossy())
        .map_err(|e| Failure::usage(e.to_string()).about(&format!("'{typed}'")))
}

/// As [`path`], and not the root.
fn node(typed: &str, config: &Config) -> Result<SecretPath, Failure> {
    let path = path(typed, config)?;
    if path.is_root() { Err(Failure::usage(format!("'{typed}' is the root of the tree"))) } else { Ok(path) }
}

/// `pinfold put`
pub fn put(config: &Config, args: Put) -> Result<Exit, Failure> {
    let path = node(&args.path, config)?;
    let uid = args.owner.as_deref().map(names::uid).transpose()?;
    let gid = args.group.as_deref().map(names::gid).transpose()?;
    let content = take::content(config)?;
    if content.is_empty() && !args.allow_empty {
        return Err(Failure::usage("stdin is empty: nothing was enrolled").hint("--allow-empty, if that is meant"));
    }
    let put = wire::Put { path, uid, gid, mode: args.mode, parents: args.parents, content };
    let committed = Client::connect(config)?.call(&put)?;
    if args.json {
        with_stdout(|out| show::json(out, &committed))?;
    }
    Ok(Exit::Ok)
}

/// `pinfold cat`
pub fn cat(config: &Config, args: Cat) -> Result<Exit, Failure> {
    let path = node(&args.path, config)?;
    if !args.reveal {
        return Err(Failure::usage("cat shows a secret's content, which has to be asked for")
            .hint(format!("pinfold cat --reveal {}", args.path)));
    }
    let asked = Reveal { path: path.clone(), version: args.version };
    let grant = format!(
        "set allow_reveal = true in the configuration, or let a user read it: setfacl -m u:USER:r {}/{path}",
        config.mountpoint.display()
    );
    let revealed = Client::connect(config)?.call(&asked).map_err(|e| Failure::from(e).hint_if(Exit::Refused, grant))?;
    // Past the buffer of std's stdout, in which the content would stay.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if args.json {
        #[derive(Serialize)]
        struct Shown<'p> {
            path: &'p SecretPath,
            #[serde(flatten)]
            revealed: wire::Revealed,
        }
        let mut frame = FrameWriter::new(limit_for(config.max_secret_size)).map_err(io::Error::other)?;
        serde_json::to_writer(&mut frame, &Shown { path: &path, revealed })?;
        frame.write_all(b"\n")?;
        out.write_all(frame.bytes())?;
    } else {
        out.write_all(revealed.content.expose())?;
    }
    Ok(Exit::Ok)
}

/// `pinfold rm`
pub fn rm(config: &Config, args: Rm) -> Result<Exit, Failure> {
    let paths: Vec<SecretPath> = args.paths.iter().map(|p| node(p, config)).collect::<Result<_, _>>()?;
    let mut client = Client::connect(config)?;
    for path in paths {
        let about = path.to_string();
        let remove = Remove { path, purge: args.purge, recursive: args.recursive };
        client.call(&remove).map_err(|e| Failure::from(e).about(&about))?;
    }
    Ok(Exit::Ok)
}

/// `pinfold rollback`
pub fn rollback(config: &Config, args: Rollback) -> Result<Exit, Failure> {
    let path = node(&args.path, config)?;
    let hint = format!("pinfold history {}", args.path);
    let committed = Client::connect(config)?
        .call(&wire::Rollback { path, version: args.version })
        .map_err(|e| Failure::from(e).hint_if(Exit::NotFound, hint))?;
    with_stdout(|out| Ok(writeln!(out, "v{} is as v{} was", committed.version, args.version)?))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_tree() {
        let config = Config { mountpoint: "/mnt/s".into(), ..Config::default() };
        assert_eq!(path("/mnt/s/svc/pin", &config).unwrap().to_string(), "svc/pin");
        assert_eq!(path("svc/pin", &config).unwrap().to_string(), "svc/pin");
        assert!(path("/mnt/s", &config).unwrap().is_root());
        for bad in ["../x", "a/../../x", "/mnt/s/.."] {
            assert_eq!(path(bad, &config).unwrap_err().exit(), Exit::Usage, "{bad}");
        }
        assert_eq!(node("/mnt/s/", &config).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn cat_without_reveal_asks_nobody() {
        let config = Config { control: "/nonexistent/socket".into(), ..Config::default() };
        let cat = |reveal| Cat { path: "svc/pin".into(), reveal, version: None, json: false };
        assert_eq!(super::cat(&config, cat(false)).unwrap_err().exit(), Exit::Usage);
        assert_eq!(super::cat(&config, cat(true)).unwrap_err().exit(), Exit::Unreachable);
    }
}
