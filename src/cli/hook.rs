//! `pinfold oci-hook STAGE`: what a container runtime runs when a container is made and after it has ended.
//!
//! Owns the reading of the state that the runtime hands over (OCI runtime specification, "State" and "POSIX-platform
//! Hooks"). It attaches and detaches through the control socket like everybody; a container without the annotation is
//! none of its business.

use super::Failure;
use super::args::{OciHook, Stage};
use super::show::visible;
use crate::config::Config;
use crate::control::client::{Client, ClientError};
use crate::exit::Exit;
use crate::wire::{self, CallError, Fault};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// The annotation that names the container's scope.
const SCOPE: &str = "org.pinfold.scope";
/// How long a container's start or end may wait for the daemon.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a container's id is said.
const ID_SHOWN: usize = 128;
/// The longest state, and the longest configuration of a container, that are read.
const STATE_MAX: u64 = 1 << 20;
const CONFIG_MAX: u64 = 16 << 20;

/// What the runtime says of the container. It says more.
#[derive(Debug, Deserialize)]
struct State {
    id: String,
    /// Its first process; none once it has ended.
    #[serde(default)]
    pid: Option<u32>,
    /// The folder with its `config.json`.
    #[serde(default)]
    bundle: Option<PathBuf>,
    /// The specification lets a runtime leave them out.
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// The part of `config.json` that is asked for.
#[derive(Debug, Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// What is to be asked of the daemon.
#[derive(Debug, PartialEq, Eq)]
enum HookCall {
    Nothing,
    Attach(wire::Attach),
    Detach(wire::Detach),
}

/// Runs the hook: whatever it says on stderr, the runtime passes on, and with a status other than 0 at `createRuntime`
/// the container does not start.
pub fn oci_hook(config: &Config, args: OciHook) -> Result<Exit, Failure> {
    let config = config.clone();
    let (tell, told) = mpsc::channel();
    // Nothing here can be interrupted, but the process can end while it waits.
    std::thread::spawn(move || tell.send(run(&config, args.stage, std::io::stdin())));
    let late = || Failure::new(Exit::Unreachable, format!("neither runtime nor daemon was done within {TIMEOUT:?}"));
    let done = told.recv_timeout(TIMEOUT).unwrap_or_else(|_| Err(late()));
    done.inspect_err(log)
}

/// Says it in the system's log, too: crun throws away what a hook writes to stderr.
fn log(failure: &Failure) {
    // <27>: an error, of a daemon (RFC 3164). Where nobody listens there is stderr alone.
    let line = format!("<27>pinfold-oci-hook: {}", visible(failure.message()));
    let _ = UnixDatagram::unbound().and_then(|socket| {
        socket.set_write_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(line.as_bytes(), "/dev/log")
    });
}

fn run(config: &Config, stage: Stage, input: impl Read) -> Result<Exit, Failure> {
    let state = read(input, STATE_MAX).and_then(|bytes| Ok(serde_json::from_slice::<State>(&bytes)?));
    let state = state.map_err(|e| Failure::usage(format!("the container's state on stdin: {e}")))?;
    // Enough to know it by: what is longer than any id would take the reason out of the system's log.
    let about = format!("container {}", state.id.chars().take(ID_SHOWN).collect::<String>());
    match wanted(stage, state).map_err(|failure| failure.about(&about))? {
        HookCall::Nothing => {}
        HookCall::Attach(attach) => {
            let scope = attach.scope.clone();
            let asked = Client::connect(config).and_then(|mut daemon| daemon.call(&attach));
            asked.map_err(|error| {
                let failure = Failure::from(error).hint_if(Exit::NotFound, format!("pinfold scope add {scope}"));
                failure.about(&format!("{about} is not attached to the scope {scope}"))
            })?;
        }
        HookCall::Detach(detach) => {
            match Client::connect(config).and_then(|mut daemon| daemon.call(&detach)) {
                Ok(_) => {}
                // It was detached when its first process ended, or by an admin.
                Err(ClientError::Call(CallError::Fault(Fault::NotFound(_) | Fault::NothingToDo(_)))) => {}
                // Nothing is open to it without a daemon, and the next one looks who is still there.
                Err(ClientError::Unreachable { .. } | ClientError::Gone) => {}
                Err(error) => return Err(Failure::from(error).about(&format!("{about} is not detached"))),
            }
        }
    }
    Ok(Exit::Ok)
}

fn wanted(stage: Stage, state: State) -> Result<HookCall, Failure> {
    let annotations = match (state.annotations, &state.bundle) {
        (Some(annotations), _) => annotations,
        (None, Some(bundle)) => bundle_annotations(bundle)?,
        (None, None) => BTreeMap::new(),
    };
    let Some(scope) = annotations.get(SCOPE) else { return Ok(HookCall::Nothing) };
    Ok(match stage {
        Stage::CreateRuntime => {
            let pid = state.pid.filter(|pid| *pid > 0);
            let pid = pid.ok_or_else(|| Failure::usage("its state has no process yet"))?;
            HookCall::Attach(wire::Attach { scope: scope.clone(), pid, id: Some(state.id), timeout_seconds: None })
        }
        Stage::Poststop => HookCall::Detach(wire::Detach { id: state.id }),
    })
}

fn bundle_annotations(bundle: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let path = bundle.join("config.json");
    let lost = |e: std::io::Error| Failure::usage(format!("{}: {e}", path.display()));
    let bytes = std::fs::File::open(&path).and_then(|file| read(file, CONFIG_MAX)).map_err(lost)?;
    let parsed: Bundle = serde_json::from_slice(&bytes).map_err(|e| lost(e.into()))?;
    Ok(parsed.annotations.unwrap_or_default())
}

/// All of it, if it is no longer than `max`.
fn read(from: impl Read, max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(std::io::Error::other(format!("it is longer than {max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(stage: Stage, json: &str) -> Result<HookCall, Failure> {
        wanted(stage, serde_json::from_str(json).unwrap())
    }

    fn attach(scope: &str) -> HookCall {
        HookCall::Attach(wire::Attach { scope: scope.into(), pid: 112, id: Some("ea46".into()), timeout_seconds: None })
    }

    #[test]
    fn a_container_with_the_annotation_is_attached_and_detached() {
        // As runc 1.1 says it at both stages, shortened.
        let created = r#"{"ociVersion":"1.0.2-dev","id":"ea46","status":"creating","pid":112,
            "bundle":"/nonexistent","annotations":{"io.container.manager":"libpod","org.pinfold.scope":"web"}}"#;
        assert_eq!(of(Stage::CreateRuntime, created).unwrap(), attach("web"));
        let stopped = r#"{"ociVersion":"1.0.2-dev","id":"ea46","status":"stopped",
            "bundle":"/nonexistent","annotations":{"org.pinfold.scope":"web"}}"#;
        assert_eq!(of(Stage::Poststop, stopped).unwrap(), HookCall::Detach(wire::Detach { id: "ea46".into() }));
        let failure = of(Stage::CreateRuntime, stopped).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
    }

    #[test]
    fn one_without_is_none_of_our_business() {
        for json in [
            r#"{"id":"ea46","pid":112,"annotations":{"org.pinfold.other":"web"}}"#,
            r#"{"id":"ea46","pid":112,"annotations":{},"bundle":"/nonexistent"}"#,
            r#"{"id":"ea46","pid":112}"#,
        ] {
            assert_eq!(of(Stage::CreateRuntime, json).unwrap(), HookCall::Nothing, "{json}");
            assert_eq!(of(Stage::Poststop, json).unwrap(), HookCall::Nothing, "{json}");
        }
    }

    #[test]
    fn what_the_state_leaves_out_is_looked_up_in_the_bundle() {
        let bundle = tempfile::tempdir().unwrap();
        let state = format!(r#"{{"id":"ea46","pid":112,"bundle":{:?}}}"#, bundle.path());
        let asked = || of(Stage::CreateRuntime, &state);
        assert!(asked().is_err(), "a bundle that cannot be read is a doubt, not a no");
        let write = |text: &str| std::fs::write(bundle.path().join("config.json"), text).unwrap();
        write(r#"{"ociVersion":"1.0.2","process":{},"annotations":{"org.pinfold.scope":"db"}}"#);
        assert_eq!(asked().unwrap(), attach("db"));
        write(r#"{"ociVersion":"1.0.2"}"#);
        assert_eq!(asked().unwrap(), HookCall::Nothing);
        write("{");
        assert!(asked().is_err());
    }

    #[test]
    fn the_input_is_bounded_and_must_make_sense() {
        assert_eq!(read(&[1u8; 8][..], 8).unwrap().len(), 8);
        assert!(read(&[1u8; 9][..], 8).is_err());
        let config = Config::default();
        for bad in ["", "{", "[]", r#"{"pid":1}"#, r#"{"id":"a","pid":-1}"#, r#"{"id":"a","annotations":{"b":1}}"#] {
            assert_eq!(run(&config, Stage::CreateRuntime, bad.as_bytes()).unwrap_err().exit(), Exit::Usage, "{bad}");
        }
        let endless = std::io::repeat(b' ');
        assert_eq!(run(&config, Stage::Poststop, endless).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn without_a_daemon_a_start_fails_and_an_end_does_not() {
        let config = Config { control: "/nonexistent/control.sock".into(), ..Config::default() };
        let state = r#"{"id":"ea46","pid":112,"annotations":{"org.pinfold.scope":"web"}}"#;
        assert_eq!(run(&config, Stage::CreateRuntime, state.as_bytes()).unwrap_err().exit(), Exit::Unreachable);
        assert_eq!(run(&config, Stage::Poststop, state.as_bytes()).unwrap(), Exit::Ok);
    }
}
