//! The commands about containers: scope, attach, detach, instances.
//!
//! Owns their columns.

use super::args::{Attach, Detach, Json, Scope, ScopeAction};
use super::show::{self, Side, visible};
use super::{Failure, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::wire::{self, InstanceEntry, Instances, ScopeAdd, ScopeEntry, ScopeList, ScopeRemove, UidMap};

/// `pinfold scope`
pub fn scope(config: &Config, args: Scope) -> Result<Exit, Failure> {
    let mut client = Client::connect(config)?;
    match args.action {
        ScopeAction::Add { name, write, uid_map } => {
            client.call(&ScopeAdd { name, write: Some(write), uid_map: Some(uid_map) })?;
        }
        ScopeAction::Rm { name, purge } => {
            let removed = client.call(&ScopeRemove { name, purge: Some(purge) })?;
            if removed.purged > 0 {
                with_stdout(|out| Ok(writeln!(out, "{} versions are gone for good", removed.purged)?))?;
            }
        }
        ScopeAction::Ls(Json { json }) => {
            let scopes = client.call(&ScopeList {})?.scopes;
            with_stdout(|out| {
                if json {
                    return show::json(out, &scopes);
                }
                let rows: Vec<Vec<String>> = scopes.iter().map(scope_row).collect();
                Ok(show::columns(out, &[Side::Left; 6], &rows)?)
            })?;
        }
    }
    Ok(Exit::Ok)
}

fn scope_row(scope: &ScopeEntry) -> Vec<String> {
    vec![
        visible(&scope.name).into_owned(),
        if scope.write { "writable" } else { "read-only" }.into(),
        match scope.uid_map {
            UidMap::Auto => "ids as inside",
            UidMap::Host => "ids as on the host",
        }
        .into(),
        format!("{} secrets", scope.secrets),
        format!("{} instances", scope.instances),
        format!("key {}", visible(&scope.key)),
    ]
}

/// `pinfold attach`
pub fn attach(config: &Config, args: Attach) -> Result<Exit, Failure> {
    let asked = wire::Attach {
        scope: args.scope.clone(),
        pid: args.pid,
        id: args.id,
        timeout_seconds: args.timeout.map(|t| t.as_secs()),
    };
    let attached = Client::connect(config)?
        .call(&asked)
        .map_err(|error| Failure::from(error).hint_if(Exit::NotFound, format!("pinfold scope add {}", args.scope)))?;
    with_stdout(|out| match args.json {
        true => show::json(out, &attached),
        false => Ok(writeln!(out, "{}", visible(&attached.id))?),
    })?;
    Ok(Exit::Ok)
}

/// `pinfold detach`
pub fn detach(config: &Config, args: Detach) -> Result<Exit, Failure> {
    let asked = wire::Detach { id: args.id };
    Client::connect(config)?
        .call(&asked)
        .map_err(|error| Failure::from(error).hint_if(Exit::NotFound, "pinfold instances"))?;
    Ok(Exit::Ok)
}

/// `pinfold instances`
pub fn instances(config: &Config, args: Json) -> Result<Exit, Failure> {
    let instances = Client::connect(config)?.call(&Instances {})?.instances;
    with_stdout(|out| {
        if args.json {
            return show::json(out, &instances);
        }
        let rows: Vec<Vec<String>> = instances.iter().map(instance_row).collect();
        let sides = [Side::Left, Side::Left, Side::Left, Side::Right, Side::Left, Side::Left, Side::Left];
        Ok(show::columns(out, &sides, &rows)?)
    })?;
    Ok(Exit::Ok)
}

fn instance_row(instance: &InstanceEntry) -> Vec<String> {
    vec![
        visible(&instance.id).into_owned(),
        visible(&instance.scope).into_owned(),
        visible(&instance.state).into_owned(),
        instance.pid.to_string(),
        format!("since {}", show::time(instance.attached)),
        instance.expires.map_or_else(|| "no end set".into(), |at| format!("until {}", show::time(at))),
        visible(instance.cgroup.as_deref().unwrap_or("(no cgroup of its own)")).into_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn an_instance_shows_what_it_is_known_by() {
        let at = Timestamp { secs: 1_700_000_000, nanos: 0 };
        let instance = InstanceEntry {
            id: "web-1".into(),
            scope: "web".into(),
            pid: 4711,
            start: 1,
            cgroup: None,
            user_ns: 1,
            pid_ns: 2,
            attached: at,
            expires: Some(at),
            state: "alive".into(),
            key_serial: Some(3),
        };
        let row = instance_row(&instance);
        assert_eq!(row[..4], ["web-1", "web", "alive", "4711"]);
        assert_eq!(row[4..], ["since 2023-11-14T22:13:20Z", "until 2023-11-14T22:13:20Z", "(no cgroup of its own)"]);
    }
}
