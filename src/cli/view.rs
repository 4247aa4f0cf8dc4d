//! `pinfold view`: defining, listing and removing views.
//!
//! Owns what they ask and say. Before a view is made, what it would show to whom is listed.

use super::args::{View, ViewAction, ViewAdd};
use super::names::{self, Names};
use super::show::{self, Side, visible};
use super::{Failure, take, tree, with_stdout};
use crate::config::Config;
use crate::control::client::Client;
use crate::exit::Exit;
use crate::view::MAX_TEMPLATE;
use crate::wire::{self, ViewAdded, ViewInfo, ViewList, ViewRemove};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

/// `pinfold view`
pub fn view(config: &Config, args: View) -> Result<Exit, Failure> {
    match args.action {
        ViewAction::Add(args) => add(config, &args),
        ViewAction::Ls(args) => ls(config, args.json),
        ViewAction::Rm { path } => {
            let path = tree::path(&path, config)?;
            Client::connect(config)?.call(&ViewRemove { path })?;
            Ok(Exit::Ok)
        }
    }
}

fn add(config: &Config, args: &ViewAdd) -> Result<Exit, Failure> {
    let template = args.template().map(|file| text(&file)).transpose()?;
    if args.kind == "template" && template.is_none() {
        return Err(Failure::usage("template takes one file").hint("pinfold view add PATH template FILE"));
    }
    let path = tree::path(&args.path, config)?;
    let named = |arg: &String| in_scope(arg, &path.to_string(), config);
    let asked = wire::ViewAdd {
        kind: args.kind.clone(),
        args: if template.is_some() { Vec::new() } else { args.args.iter().map(named).collect() },
        template,
        uid: args.owner.as_deref().map(names::uid).transpose()?,
        gid: args.group.as_deref().map(names::gid).transpose()?,
        mode: args.mode,
        parents: args.parents,
        pretend: true,
        path: path.clone(),
    };
    let hint = |e| Failure::from(e).hint_if(Exit::NotFound, "--parents makes missing folders");
    let preview = Client::connect(config)?.call(&asked).map_err(hint)?;
    if !args.json {
        with_stdout(|out| preview_of(out, &preview))?;
    }
    if args.pretend || (args.json && !args.yes) {
        return match args.json {
            true => with_stdout(|out| show::json(out, &preview)).map(|()| Exit::Ok),
            false => Ok(Exit::Ok),
        };
    }
    if !args.yes {
        confirm()?;
    }
    let made = Client::connect(config)?.call(&wire::ViewAdd { pretend: false, ..asked }).map_err(hint)?;
    if args.json {
        with_stdout(|out| show::json(out, &made))?;
    }
    Ok(Exit::Ok)
}

/// What was typed as a source, as the view's scope names it: the mount point and a container's folder may stand before.
fn in_scope(arg: &str, view: &str, config: &Config) -> String {
    let mount = config.mountpoint.to_string_lossy();
    let inner = arg.strip_prefix(mount.trim_end_matches('/')).and_then(|rest| rest.strip_prefix('/')).unwrap_or(arg);
    let mut names = view.split('/');
    let folder = match (names.next(), names.next()) {
        (Some("containers"), Some(scope)) => format!("containers/{scope}/"),
        _ => return inner.to_owned(),
    };
    inner.strip_prefix(&folder).unwrap_or(inner).to_owned()
}

/// A template's text; `-` is stdin.
fn text(file: &Path) -> Result<String, Failure> {
    let shown = file.display().to_string();
    let opened = if file == Path::new("-") {
        take::stdin()?
    } else {
        File::open(file).map_err(|e| Failure::from(e).about(&shown))?
    };
    let content = take::all(&mut &opened, MAX_TEMPLATE)?;
    let content =
        content.ok_or_else(|| Failure::usage(format!("{shown}: a template has {MAX_TEMPLATE} bytes at most")))?;
    let text = std::str::from_utf8(content.expose()).map_err(|_| Failure::usage(format!("{shown}: not UTF-8")))?;
    Ok(text.to_owned())
}

fn preview_of(out: &mut dyn Write, preview: &ViewAdded) -> Result<(), Failure> {
    let view = &preview.view;
    let mut names = Names::default();
    writeln!(out, "{} is composed from", visible(&view.path))?;
    let rows: Vec<Vec<String>> = view
        .sources
        .iter()
        .map(|source| {
            let owner = match (source.uid, view.scope.as_str()) {
                (None, _) => "-".into(),
                (Some(uid), "host") => names.user_or_number(uid),
                (Some(uid), _) => uid.to_string(),
            };
            let mut notes = Vec::new();
            if source.version.is_none() {
                notes.push("missing: until it is there, the view does not open");
            }
            if source.conditions {
                notes.push("its conditions do not hold for readers of the view");
            }
            vec![
                format!("  {}", visible(&source.path)),
                source.version.map_or_else(|| "-".into(), |v| format!("v{v}")),
                owner,
                source.mode.map_or_else(|| "-".into(), |mode| format!("{mode:04o}")),
                notes.join("; "),
            ]
        })
        .collect();
    show::columns(out, &[Side::Left, Side::Right, Side::Left, Side::Left, Side::Left], &rows)?;
    if rows.is_empty() {
        writeln!(out, "  nothing as yet")?;
    }
    writeln!(out, "and shows it to")?;
    let rules: Vec<Vec<String>> = preview
        .readers
        .iter()
        .map(|r| {
            let may = if r.allowed { "  may read" } else { "  may not" };
            vec![may.into(), visible(&names.explain(&r.who)).into_owned(), visible(&r.rule).into_owned()]
        })
        .collect();
    show::columns(out, &[Side::Left; 3], &rules)?;
    if let Some(problem) = &view.problem {
        writeln!(out, "it would not open now: {}", visible(problem))?;
    }
    Ok(())
}

fn confirm() -> Result<(), Failure> {
    let tty = File::options().read(true).write(true).open("/dev/tty");
    let tty = tty.map_err(|_| Failure::usage("there is no terminal to ask on").hint("--yes, if that is meant"))?;
    (&tty).write_all(b"Make it? [y/N] ")?;
    let mut answer = String::new();
    BufReader::new(&tty).read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Refused, "not made")),
    }
}

fn ls(config: &Config, json: bool) -> Result<Exit, Failure> {
    let views = Client::connect(config)?.call(&ViewList {})?.views;
    let mut names = Names::default();
    with_stdout(|out| {
        if json {
            return show::json(out, &views);
        }
        let rows: Vec<Vec<String>> = views.iter().map(|view| row(view, &mut names)).collect();
        Ok(show::columns(out, &COLUMNS, &rows)?)
    })?;
    Ok(Exit::Ok)
}

/// Path, owner, group, mode, size, definition, what is wrong.
const COLUMNS: [Side; 7] = [Side::Left, Side::Left, Side::Left, Side::Left, Side::Right, Side::Left, Side::Left];

fn row(view: &ViewInfo, names: &mut Names) -> Vec<String> {
    let on_host = view.scope == "host";
    vec![
        visible(&view.path).into_owned(),
        if on_host { names.user_or_number(view.uid) } else { view.uid.to_string() },
        if on_host { names.group_or_number(view.gid) } else { view.gid.to_string() },
        format!("{:04o}", view.mode),
        view.size.map_or_else(|| "-".into(), |size| size.to_string()),
        visible(&view.definition).into_owned(),
        view.problem.as_ref().map(|p| format!("does not open: {}", visible(p))).unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_named_as_their_scope_names_them() {
        let config = Config { mountpoint: "/mnt/s".into(), ..Config::default() };
        assert_eq!(in_scope("/mnt/s/tls/key.pem", "tls/all.pem", &config), "tls/key.pem");
        assert_eq!(in_scope("tls/*.pem", "tls/all.pem", &config), "tls/*.pem");
        assert_eq!(in_scope("/mnt/sx/key", "a", &config), "/mnt/sx/key");
        assert_eq!(in_scope("/mnt/s/containers/web/db", "containers/web/v", &config), "db");
        assert_eq!(in_scope("db", "containers/web/v", &config), "db");
        assert_eq!(in_scope("containers/other/db", "containers/web/v", &config), "containers/other/db");
        assert_eq!(in_scope("Internal (Software) Token", "a", &config), "Internal (Software) Token");
    }

    #[test]
    fn a_row_says_why_a_view_does_not_open() {
        let view = ViewInfo {
            path: "a".into(),
            kind: "concat".into(),
            definition: "concat b".into(),
            scope: "web".into(),
            uid: 0,
            gid: 5,
            mode: 0o440,
            size: None,
            sources: Vec::new(),
            problem: Some("it cannot be composed: 'b' is not there".into()),
        };
        let row = row(&view, &mut Names::default());
        assert_eq!(row[..6], ["a", "0", "5", "0440", "-", "concat b"]);
        assert_eq!(row[6], "does not open: it cannot be composed: 'b' is not there");
    }
}
