//! What docs/architecture.md says of threads and locks, held against the source.

use crate::layers::{is_test, sources, without_tests};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What is in the files of `src` that are not tests alone, before their tests; each with its module's path below its crate.
fn modules() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in sources(&root().join("src")) {
        let name = file.strip_prefix(root()).expect("it was found there").to_string_lossy().into_owned();
        if is_test(&name) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a file of ours");
        let names =
            name.trim_start_matches("src/").trim_end_matches(".rs").split('/').filter(|n| *n != "mod" && *n != "lib");
        let names = names.enumerate().filter(|(at, n)| *at > 0 || !["base", "core", "formats"].contains(n));
        found.push((names.map(|(_, n)| n).collect::<Vec<_>>().join("::"), without_tests(&text).to_owned()));
    }
    found
}

/// What stands in backticks in the first column of the table below a heading.
fn first_column(heading: &str) -> BTreeSet<String> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("the page");
    let section = page.split(&format!("\n## {heading}\n")).nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    cells.flat_map(quoted).collect()
}

/// The names that threads are given: what follows `mark` up to its closing quote, or to what is put in there.
fn names(text: &str, mark: &str) -> Vec<String> {
    let rests = text.split(mark).skip(1).filter_map(|rest| rest.split('"').next());
    rests.map(|name| name.split('{').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_thread_is_on_the_page() {
    let mut given = BTreeSet::new();
    for (_, text) in modules() {
        for mark in [".name(\"", ".name(format!(\"", "(\"audit-"] {
            let found = names(&text, mark).into_iter();
            given.extend(found.map(|name| if mark.contains("audit") { format!("audit-{name}") } else { name }));
        }
    }
    // A name that ends in a number or a word of its own is on the page with that in capitals.
    let told: BTreeSet<String> =
        first_column("Threads").iter().map(|name| name.trim_end_matches(char::is_uppercase).to_owned()).collect();
    assert_eq!(given, told);
}

#[test]
fn every_lock_is_on_the_page() {
    let told = first_column("Locks");
    let has_lock = |text: &str| {
        let mut fields = text
            .lines()
            .map(str::trim)
            .filter(|line| !["//", "let "].iter().any(|no| line.starts_with(no)) && !line.contains("fn "));
        fields.any(|line| {
            ["Mutex<", "RwLock<"]
                .iter()
                .any(|lock| line.contains(&format!(": {lock}")) || line.contains(&format!("({lock}")))
        })
    };
    // Of the large ones it names the module itself; of the others the part.
    let is_told = |module: &str| match module.split("::").next() {
        Some("fs" | "vault") | None => told.contains(module),
        Some(part) => told.contains(part),
    };
    let with_locks = modules().into_iter().filter(|(_, text)| has_lock(text)).map(|(module, _)| module);
    assert_eq!(with_locks.filter(|module| !is_told(module)).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn a_thread_that_is_not_on_the_page_is_found() {
    assert_eq!(names(r#"Builder::new().name("secret".into())"#, ".name(\""), ["secret"]);
    assert_eq!(names(r#"Builder::new().name(format!("unlock-{name}"))"#, ".name(format!(\""), ["unlock-"]);
}
