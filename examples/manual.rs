//! Writes what a package holds beside the binary: manual pages, completions, an example configuration. `make man` runs it.
//!
//! Owns the sections of the pages. The words are those of the command definitions and of docs/configuration.md.

use clap::{Command, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// The table of keys, for readers.
const CONFIGURATION: &str = include_str!("../docs/configuration.md");
/// Commands about secrets are for everybody's manual; the others are for whoever runs the machine (man-pages(7)).
const SECTION_1: [&str; 8] = ["ls", "put", "cat", "rm", "history", "rollback", "who", "status"];

fn main() -> io::Result<()> {
    let out = PathBuf::from(std::env::args_os().nth(1).expect("manual FOLDER: where everything is written"));
    let command = pinfold::cli::command();
    pages(&out.join("man"), &command)?;
    write(&out.join("man/pinfold.toml.5"), &configuration_page())?;
    write(&out.join("pinfold.toml"), &example())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let folder = out.join("completions").join(shell.to_possible_value().expect("none is hidden").get_name());
        std::fs::create_dir_all(&folder)?;
        clap_complete::generate_to(shell, &mut command.clone(), "pinfold", folder)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    std::fs::create_dir_all(file.parent().expect("it is in a folder"))?;
    std::fs::write(file, text)
}

/// One page for the whole, one for each command with those below it.
fn pages(folder: &Path, command: &Command) -> io::Result<()> {
    let mut built = command.clone().disable_help_subcommand(true);
    built.build();
    page(folder, &built, "pinfold", "1", &built)?;
    for sub in built.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let section = section(sub.get_name());
        page(folder, sub, &format!("pinfold-{}", sub.get_name()), section, &built)?;
        for below in sub.get_subcommands().filter(|below| !below.is_hide_set()) {
            page(folder, below, &format!("pinfold-{}-{}", sub.get_name(), below.get_name()), section, &built)?;
        }
    }
    Ok(())
}

fn section(name: &str) -> &'static str {
    if SECTION_1.contains(&name) { "1" } else { "8" }
}

fn page(folder: &Path, command: &Command, name: &str, section_of_page: &str, all: &Command) -> io::Result<()> {
    let mut bytes = Vec::new();
    Man::new(command.clone())
        .title(name.to_uppercase())
        .section(section_of_page)
        .source(format!("pinfold {}", env!("CARGO_PKG_VERSION")))
        .manual("pinfold")
        .render(&mut bytes)?;
    let mut text = String::from_utf8(bytes).expect("a page is text");
    // What is said of other pages names the section of this one.
    for sub in all.get_subcommands() {
        let sub = sub.get_name();
        let named = format!("pinfold\\-{}({section_of_page})", sub.replace('-', "\\-"));
        text = text.replace(&named, &named.replace(&format!("({section_of_page})"), &format!("({})", section(sub))));
    }
    text += ".SH \"SEE ALSO\"\n\\fBpinfold\\fR(1), \\fBpinfold.toml\\fR(5), \\fBmount.pinfold\\fR(8), /usr/share/doc/pinfold\n";
    write(&folder.join(format!("{name}.{section_of_page}")), &text)
}

/// A row of the table: key, default, bounds, meaning.
fn rows() -> impl Iterator<Item = [String; 4]> {
    CONFIGURATION.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let mut cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', ""));
        std::array::from_fn(|_| cells.next().expect("a row has four cells"))
    })
}

/// The paragraphs before the table.
fn introduction() -> String {
    let text: Vec<&str> = CONFIGURATION.lines().skip(1).take_while(|line| !line.starts_with('|')).collect();
    text.join("\n").trim().replace('`', "")
}

fn configuration_page() -> String {
    let mut page = Roff::new();
    let version = format!("pinfold {}", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["PINFOLD.TOML", "5", "", version.as_str(), "pinfold"]);
    page.control("SH", ["NAME"]).text([roman("pinfold.toml - the configuration of pinfold")]);
    page.control("SH", ["SYNOPSIS"]).text([roman("/etc/pinfold/pinfold.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    for paragraph in introduction().split("\n\n") {
        page.control("PP", []).text([roman(paragraph.replace('\n', " "))]);
    }
    page.control("SH", ["KEYS"]);
    for [key, default, bounds, meaning] in rows() {
        page.control("TP", []).text([bold(key), roman(format!(" = {default}"))]);
        page.text([roman(format!("{} ({bounds})", capital(&meaning)))]);
    }
    page.control("SH", ["SEE ALSO"]).text([
        bold("pinfold"),
        roman("(1), "),
        bold("pinfold-check-config"),
        roman("(8)"),
    ]);
    page.to_roff()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Every key with its default, commented out: whoever uncomments nothing has what is there without the file.
fn example() -> String {
    let mut text =
        String::from("# The configuration of pinfold: see pinfold.toml(5). Every key is shown with its default.\n");
    let mut table = String::new();
    // Keys of tables come last: what follows a table's head belongs to it.
    let (inner, outer): (Vec<_>, Vec<_>) = rows().partition(|[key, ..]| key.contains('.'));
    for [key, default, bounds, meaning] in outer.into_iter().chain(inner) {
        let name = match key.rsplit_once('.') {
            Some((head, name)) => {
                if head != table {
                    let _ = write!(text, "\n[{head}]");
                    table = head.to_owned();
                    text.push('\n');
                }
                name.to_owned()
            }
            None => key,
        };
        let shown = if default == "none" { String::new() } else { format!(" {default}") };
        let _ = write!(text, "\n# {} ({bounds})\n#{name} ={shown}\n", capital(&meaning));
    }
    text
}
