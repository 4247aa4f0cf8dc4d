//! The table of attacks in `docs/threat-model.md`: every row names a test, and the test exists.
//!
//! Reads text only. A row whose test was renamed or removed fails here, and so does a file of attacks that no row names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const HEADING: &str = "## Attacks tried, and the test of each";

/// One test: the parts of its file's path, and its name.
struct Test {
    file: PathBuf,
    name: String,
}

#[test]
fn every_row_names_a_test_that_exists() {
    let tests = tests();
    let mut wrong = Vec::new();
    let rows = rows();
    assert!(!rows.is_empty(), "the table was not found");
    for row in &rows {
        let cells: Vec<&str> = cells(row);
        let [tried, stops, named] = cells[..] else {
            wrong.push(format!("not three columns: {row}"));
            continue;
        };
        if tried.is_empty() || stops.is_empty() {
            wrong.push(format!("an empty column: {row}"));
        }
        let names: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("no test: {row}"));
        }
        wrong.extend(names.iter().filter(|name| !exists(&tests, name)).map(|name| format!("no such test: {name}")));
    }
    assert!(wrong.is_empty(), "docs/threat-model.md:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_of_attacks_has_rows() {
    let named = rows().concat();
    let without: BTreeSet<String> = tests()
        .iter()
        .filter(|test| test.file.starts_with("tests/attacks") && !test.file.ends_with("page.rs"))
        .map(|test| test.file.file_stem().expect("a file of Rust").to_string_lossy().into_owned())
        .filter(|theme| !named.contains(&format!("::{theme}::")))
        .collect();
    assert!(without.is_empty(), "no row of docs/threat-model.md names a test of: {without:?}");
}

/// The rows of the section, without the headings of its tables.
fn rows() -> Vec<String> {
    let page = std::fs::read_to_string("docs/threat-model.md").expect("the page");
    let (_, section) = page.split_once(HEADING).expect("the section of attacks");
    let section = section.split("\n## ").next().unwrap_or(section);
    let lines: Vec<&str> = section.lines().collect();
    let rule = |line: &str| line.starts_with("|") && line.chars().all(|c| "|-: ".contains(c));
    (0..lines.len())
        .filter(|&n| lines[n].starts_with('|') && !rule(lines[n]) && !lines.get(n + 1).is_some_and(|next| rule(next)))
        .map(|n| lines[n].to_owned())
        .collect()
}

fn cells(row: &str) -> Vec<&str> {
    row.trim().trim_matches('|').split(" | ").map(str::trim).collect()
}

/// `a::b::name`: a test of that name in a file whose path has each part but `tests`.
fn exists(tests: &[Test], path: &str) -> bool {
    let parts: Vec<&str> = path.split("::").collect();
    let Some((name, modules)) = parts.split_last() else { return false };
    tests.iter().any(|test| {
        test.name == *name
            && !modules.is_empty()
            && modules.iter().filter(|part| **part != "tests").all(|part| {
                let part = part.strip_prefix("lab_attacks").map_or(*part, |_| "attacks");
                test.file.iter().any(|piece| Path::new(piece).file_stem().is_some_and(|stem| stem == part))
            })
    })
}

/// Every function under `#[test]`, and those of proptest, in `src` and `tests`.
fn tests() -> Vec<Test> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src"), PathBuf::from("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let mut armed = false;
                for line in text.lines().map(str::trim) {
                    if line == "#[test]" {
                        armed = true;
                    } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| armed) {
                        let name = rest.split('(').next().unwrap_or(rest).to_owned();
                        found.push(Test { file: path.clone(), name });
                        armed = false;
                    } else if !line.starts_with("#[") && !line.starts_with("//") {
                        armed = false;
                    }
                }
            }
        }
    }
    found
}
