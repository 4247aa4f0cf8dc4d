//! The commands about keys: publish, unpublish, published, keyring ls.
//!
//! Owns what they ask and their columns. Users go to the daemon as they were typed: it is the one that looks them up.

use super::args::{Json, Keyring, KeyringAction, Publish, Unpublish};
use super::names::Names;
use super::show::{self, Side, visible};
use super::{Failure, tree, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::wire::{self, GetPublished, HeldKey, KeyringList, PublicationInfo, PublicationState};

/// `pinfold publish`
pub fn publish(config: &Config, args: Publish) -> Result<Exit, Failure> {
    let asked = wire::Publish {
        path: tree::path(&args.path, config)?,
        to: args.to,
        instance: args.which.instance,
        container: args.which.container,
        description: args.which.description,
        preset: args.which.preset,
        timeout: args.timeout,
    };
    let reply = Client::connect(config)?.call(&asked)?;
    with_stdout(|out| {
        if args.json {
            return show::json(out, &reply);
        }
        let rows: Vec<Vec<String>> = reply.keys.iter().map(|info| row(info, &mut Names::default())).collect();
        Ok(show::columns(out, &COLUMNS, &rows)?)
    })?;
    Ok(Exit::Ok)
}

/// `pinfold unpublish`
pub fn unpublish(config: &Config, args: Unpublish) -> Result<Exit, Failure> {
    let asked = wire::Unpublish {
        path: tree::path(&args.path, config)?,
        to: args.to,
        instance: args.which.instance,
        container: args.which.container,
        description: args.which.description,
        preset: args.which.preset,
    };
    let reply = Client::connect(config)?.call(&asked)?;
    if args.json {
        with_stdout(|out| show::json(out, &reply))?;
    }
    Ok(Exit::Ok)
}

/// `pinfold published`
pub fn published(config: &Config, args: Json) -> Result<Exit, Failure> {
    let all = Client::connect(config)?.call(&GetPublished {})?.publications;
    let mut names = Names::default();
    with_stdout(|out| {
        if args.json {
            return show::json(out, &all);
        }
        let rows: Vec<Vec<String>> = all.iter().map(|info| row(info, &mut names)).collect();
        Ok(show::columns(out, &COLUMNS, &rows)?)
    })?;
    Ok(Exit::Ok)
}

/// `pinfold keyring`
pub fn keyring(config: &Config, args: Keyring) -> Result<Exit, Failure> {
    let KeyringAction::Ls(args) = args.action;
    let all = Client::connect(config)?.call(&KeyringList {})?.keys;
    let mut names = Names::default();
    with_stdout(|out| {
        if args.json {
            return show::json(out, &all);
        }
        let rows: Vec<Vec<String>> = all.iter().map(|key| held(key, &mut names)).collect();
        Ok(show::columns(out, &[Side::Left; 8], &rows)?)
    })?;
    Ok(Exit::Ok)
}

/// State, path, user, container, version, serial, expiry, description, and what is to be known.
const COLUMNS: [Side; 9] =
    [Side::Left, Side::Left, Side::Left, Side::Left, Side::Right, Side::Right, Side::Left, Side::Left, Side::Left];

fn row(info: &PublicationInfo, names: &mut Names) -> Vec<String> {
    let state = match info.state {
        PublicationState::Published => "published",
        PublicationState::Waiting => "waiting",
        PublicationState::Refused => "refused",
        PublicationState::Failed => "failed",
        PublicationState::Expired => "expired",
    };
    // A number of a container is not a user of this machine.
    let user = match (&info.container, &info.attached, info.uid) {
        (None, None, Some(uid)) => names.user_or_number(uid),
        _ => info.to.clone(),
    };
    let mut notes: Vec<String> = info.reason.iter().map(|r| visible(r).into_owned()).collect();
    if info.put_back > 0 {
        notes.push(format!("put back {} times", info.put_back));
    }
    vec![
        state.into(),
        visible(&info.path).into_owned(),
        visible(&user).into_owned(),
        or_dash(info.attached.as_ref().or(info.container.as_ref())),
        or_dash(info.version.map(|v| format!("v{v}")).as_ref()),
        or_dash(info.serial.map(|s| s.to_string()).as_ref()),
        info.expires.map_or_else(|| "-".into(), show::time),
        format!("'{}'", visible(&info.description)),
        notes.join("; "),
    ]
}

fn held(key: &HeldKey, names: &mut Names) -> Vec<String> {
    vec![
        key.kind.clone(),
        key.serial.to_string(),
        key.state.clone(),
        visible(&key.scope).into_owned(),
        or_dash(key.instance.as_ref()),
        key.uid.map_or_else(|| "-".into(), |uid| names.user_or_number(uid)),
        key.expires.map_or_else(|| "-".into(), show::time),
        format!("'{}'", visible(&key.description)),
    ]
}

fn or_dash(text: Option<&String>) -> String {
    text.map_or_else(|| "-".into(), |text| visible(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_the_user_the_key_and_the_reason() {
        let info = PublicationInfo {
            path: "svc/pin".into(),
            to: "0".into(),
            uid: Some(0),
            container: None,
            attached: None,
            description: "a\u{1b}; b".into(),
            state: PublicationState::Refused,
            reason: Some("not allowed: other".into()),
            serial: None,
            version: None,
            expires: None,
            put_back: 2,
        };
        let mut names = Names::default();
        let expected =
            ["refused", "svc/pin", "root", "-", "-", "-", "-", "'a\\u{1b}; b'", "not allowed: other; put back 2 times"];
        assert_eq!(row(&info, &mut names), expected);
        let inside = PublicationInfo { container: Some("web".into()), attached: Some("0a1b".into()), ..info };
        assert_eq!(row(&inside, &mut names)[2..4], ["0", "0a1b"]);
    }
}
