//! The table of modules, and what each may do: looks at the source text, so that a step upwards fails the build's tests.
//!
//! Owns design section 8 as code. It reads `src` only, comments and strings taken out, and compiles nothing. That no
//! crate reaches up is Cargo's to hold; the ranks are for the modules inside of each, and told from above and below.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates below `src`, each in a folder of its name, with its modules. The modules of no other are in that folder.
const CRATES: &[(&str, &[&str])] = &[
    ("base", &["secret", "sys", "exit", "aead", "lock", "model", "random_access", "hex", "trust", "stream", "run"]),
    ("formats", &["bundle", "cert", "enrol", "policy", "times", "view", "wire"]),
    ("core", &["access", "audit", "caller", "keyring", "meter", "seal", "store"]),
];

/// Macros that others may use: wherever they are made, the language has them at the crate's root.
const MACROS: &[&str] = &["serves", "for_each_method"];

/// Every module of every crate, and its rank. A module uses modules of lower rank only. What is not here may not be there.
const RANKS: &[(u8, &[&str])] = &[
    (0, &["secret", "sys", "exit", "aead", "lock", "random_access", "hex", "trust", "testkit"]),
    (1, &["model", "stream", "run", "meter", "times"]),
    (2, &["config", "policy", "enrol", "view", "wire", "bundle"]),
    (
        3,
        &[
            "access",
            "caller",
            "store",
            "unlock",
            "audit",
            "cert",
            "delivery",
            "policy_file",
            "ssh_agent",
            "upload_check",
        ],
    ),
    (4, &["seal", "keyring"]),
    (5, &["vault"]),
    (6, &["fs", "upcall", "control", "credentials"]),
    (7, &["daemon"]),
    (8, &["cli"]),
];

/// Edges between modules of one rank that are allowed, and why.
const SAME_RANK: &[(&str, &str, &str)] = &[
    ("secret", "sys", "a secret lies in the arena, which is made of system calls; sys knows nothing of secrets"),
    ("times", "model", "it is what the model's moments are in a message; the model knows no messages"),
    ("meter", "model", "who pays is named by the model's numbers; the model knows nothing of bounds"),
];

/// Where an errno is looked at, not chosen: (file, constant, why). Choosing is for `src/fs/fuse*` alone.
const ERRNO_READ: &[(&str, &str, &str)] = &[
    ("src/core/audit/chain.rs", "EIO", "waiting writers share one outcome, and an io::Error cannot be cloned"),
    ("src/core/caller/flush_test.rs", "ENOSYS", "a bare FUSE device that a test answers by hand"),
    ("src/core/caller/handle.rs", "EINVAL", "an older kernel without this use of pidfds"),
    ("src/core/caller/handle.rs", "ENOSYS", "an older kernel without pidfds"),
    ("src/core/caller/handle.rs", "ENOTTY", "an older kernel without PIDFD_GET_INFO"),
    (
        "src/core/caller/handle.rs",
        "ESRCH",
        "pidfd_open(2) says that there is no such process, rather than that it is a thread",
    ),
    ("src/core/store/folder.rs", "EWOULDBLOCK", "flock(2) says that another process has the store"),
    ("src/core/store/ledger.rs", "EIO", "a fault that tests put in"),
    ("src/control/listen.rs", "EADDRINUSE", "bind(2) says that another daemon was faster"),
];

/// The most lines of a file that has more than tests.
const LINES_MAX: usize = 500;

/// The most lines of a block of methods.
const IMPL_MAX: usize = 300;

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: String,
    line: usize,
    what: String,
}

#[test]
fn modules_look_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut findings = Vec::new();
    let mut seen = 0;
    for file in sources(&root.join("src")) {
        let name = file.strip_prefix(root).expect("it was found below").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
        findings.extend(check(&name, &text));
        seen += 1;
    }
    assert!(seen > 20, "only {seen} files of source were found");
    assert!(findings.is_empty(), "{}", told(&findings));
}

#[test]
fn no_file_is_too_long() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lengths = sources(&root.join("src")).into_iter().map(|file| {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let name = file.strip_prefix(root).expect("it was found below").to_string_lossy().into_owned();
        (name, text.lines().count())
    });
    assert_eq!(too_long(&lengths.collect()), [""; 0]);
}

/// Which files are too long.
fn too_long(lengths: &BTreeMap<String, usize>) -> Vec<String> {
    let files = lengths.iter().filter(|(name, lines)| !is_test(name) && **lines > LINES_MAX);
    files.map(|(name, _)| format!("{name}: more than {LINES_MAX} lines: look for the second noun")).collect()
}

#[test]
fn long_files_are_found() {
    let lengths = [("src/a.rs", 501), ("src/b.rs", 500), ("src/tests.rs", 900), ("src/a/tests/b.rs", 900)];
    let lengths = lengths.map(|(name, lines)| (name.to_owned(), lines)).into();
    let found: Vec<_> = too_long(&lengths).iter().map(|f| f[..8].to_owned()).collect();
    assert_eq!(found, ["src/a.rs"]);
}

#[test]
fn no_block_of_methods_is_too_long() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let long: Vec<String> = sources(&root.join("src"))
        .into_iter()
        .filter_map(|file| {
            let name = file.strip_prefix(root).expect("it was found below").to_string_lossy().into_owned();
            let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
            (!is_test(&name)).then(|| long_blocks(&name, without_tests(&text)))
        })
        .flatten()
        .collect();
    assert_eq!(long, [""; 0]);
}

/// The blocks of methods that are too long. What rustfmt has been over begins and ends at the margin.
fn long_blocks(name: &str, text: &str) -> Vec<String> {
    let mut long = Vec::new();
    let mut begun: Option<(usize, &str)> = None;
    for (no, line) in text.lines().enumerate() {
        if line.starts_with("impl") && line.ends_with('{') {
            begun = Some((no, line));
        }
        if line == "}"
            && let Some((from, head)) = begun.take()
            && no - from - 1 > IMPL_MAX
        {
            long.push(format!("{name}:{}: {} lines of {}", from + 1, no - from - 1, head.trim_end_matches(" {")));
        }
    }
    long
}

#[test]
fn long_blocks_of_methods_are_found() {
    let block = |lines: usize| format!("impl A {{\n{}}}\n", "    x();\n".repeat(lines));
    let text = format!("{}fn f() {{\n}}\n{}", block(300), block(301));
    assert_eq!(long_blocks("a.rs", &text), ["a.rs:305: 301 lines of impl A"]);
}

#[test]
fn every_crate_is_built_tested_and_held_to_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = |folder: &str| {
        let text = fs::read_to_string(root.join(folder).join("Cargo.toml")).expect("each crate has one");
        text.parse::<toml::Table>().expect("cargo reads it")
    };
    let top = manifest("");
    let members: Vec<String> = CRATES.iter().map(|(folder, _)| format!("src/{folder}")).collect();
    let listed = |what: &str| -> Vec<String> {
        let list = top["workspace"][what].as_array().expect("a list");
        list.iter().map(|m| m.as_str().expect("a path").to_owned()).collect()
    };
    assert_eq!(listed("members"), members);
    assert_eq!(listed("default-members"), [&[".".to_owned()], members.as_slice()].concat(), "cargo test at the root");
    for folder in std::iter::once("").chain(members.iter().map(String::as_str)) {
        let lints = manifest(folder)["lints"]["workspace"].as_bool();
        assert_eq!(lints, Some(true), "{folder}: the lints of all");
    }
    for file in ["src/lib.rs", "src/main.rs"].map(String::from).into_iter().chain(
        CRATES
            .iter()
            .filter(|(folder, _)| !SYS.starts_with(&format!("src/{folder}/")))
            .map(|(f, _)| format!("src/{f}/lib.rs")),
    ) {
        let text = fs::read_to_string(root.join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.contains("\n#![forbid(unsafe_code)]\n"), "{file} does not forbid unsafe code");
    }
}

#[test]
fn tests_and_benches_say_what_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut findings = Vec::new();
    for folder in ["tests", "benches"] {
        for file in sources(&root.join(folder)) {
            let name = file.strip_prefix(root).expect("it was found below").to_string_lossy().into_owned();
            let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
            findings.extend(opening(&name, &text));
        }
    }
    assert!(findings.is_empty(), "{}", told(&findings));
}

fn told(findings: &[Finding]) -> String {
    findings.iter().fold(String::from("\n"), |mut all, f| {
        let _ = writeln!(all, "{}:{}: {}", f.file, f.line, f.what);
        all
    })
}

/// All Rust files below a folder; none if it is not there.
pub fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("a folder that was opened can be read").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The folder of unsafe code, and of the errnos that come of it.
const SYS: &str = "src/base/sys/";

/// The folder of the crate that a module belongs into; `None` is the package itself.
fn crate_of(module: &str) -> Option<&'static str> {
    CRATES.iter().find(|(_, modules)| modules.contains(&module)).map(|(folder, _)| *folder)
}

/// Whether a word names one of our crates.
fn is_crate(word: &str) -> bool {
    word == "pinfold"
        || word.strip_prefix("pinfold_").is_some_and(|name| CRATES.iter().any(|(folder, _)| *folder == name))
}

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(_, modules)| modules.contains(&module)).map(|(rank, _)| *rank)
}

/// Everything that is wrong with a file of `src`.
fn check(name: &str, text: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = opening(name, text).into_iter().collect();
    let mut found = |line, what: String| findings.push(Finding { file: name.into(), line, what });
    let tokens = tokens(&without_comments_and_strings(text));
    let place = Place::of(name);
    if let Some(module) = &place.module {
        if rank(module).is_none() {
            found(1, format!("the module '{module}' is not in the table"));
        } else if crate_of(module) != place.folder {
            found(1, format!("the module '{module}' belongs into {}", crate_of(module).unwrap_or("the package")));
        }
    }
    let in_fuse = name == "src/fs/fuse.rs" || name.starts_with("src/fs/fuse/") || name.starts_with("src/fs/fuse_");
    for (i, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "unsafe" if !name.starts_with(SYS) => found(token.line, "unsafe outside base's sys".into()),
            "fuser" if !in_fuse => found(token.line, "fuser outside src/fs/fuse".into()),
            // What lies below is had by lib.rs, once: a module says crate:: and need not know in which crate another is.
            name if place.module.is_some() && path_follows(&tokens, i) && is_crate(name) => {
                found(token.line, "a crate by its own name: say crate::".into());
            }
            errno
                if !in_fuse
                    && !name.starts_with(SYS)
                    && is_errno(&tokens, i)
                    && !ERRNO_READ.iter().any(|(file, constant, _)| *file == name && *constant == errno) =>
            {
                found(token.line, format!("{errno} outside src/fs/fuse and base's sys"));
            }
            _ => {}
        }
    }
    for (line, what) in impure(name, text) {
        found(line, what);
    }
    if !may_start_programs(name) {
        // What tests of the file itself start is no child of a daemon.
        let tokens = self::tokens(&without_comments_and_strings(without_tests(text)));
        for (i, token) in tokens.iter().enumerate() {
            let word = |after: usize| self::text(&tokens, i + after);
            let of_a_command = word(0) == "Manner" && matches!(word(2), "Foreground" | "Group");
            if path_follows(&tokens, i) && word(0) == "Command" && word(2) == "new" {
                found(token.line, "a program is started without run".into());
            } else if path_follows(&tokens, i) && of_a_command && !name.starts_with("src/cli/") {
                found(token.line, format!("{}: a program that would inherit the scopes' keys", word(2)));
            }
        }
    }
    if let Some(module) = &place.module {
        for (line, used) in uses(&tokens, place.depth) {
            if let Some(what) = step(module, &used) {
                found(line, what);
            }
        }
    }
    findings
}

/// What of std the formats may not have, as they may not have the clock and system calls. Tests may.
const IMPURE: [&str; 6] = ["fs", "net", "env", "process", "thread", "os"];

/// Where a file of the formats is not pure: `std::fs::read`, `use std::{fs, io}`, `SystemTime::now`.
fn impure(name: &str, text: &str) -> Vec<(usize, String)> {
    if !name.starts_with("src/formats/") || is_test(name) {
        return Vec::new();
    }
    let tokens = tokens(&without_comments_and_strings(without_tests(text)));
    let of_std = |i: usize| {
        // `std::fs`, or a word of a group that begins with `std::{`.
        let group = tokens[..i].iter().rposition(|t| t.text == ";" || t.text == "use").map_or(0, |at| at + 1);
        (i >= 2 && path_follows(&tokens, i - 2) && self::text(&tokens, i - 2) == "std")
            || (self::text(&tokens, group) == "std" && self::text(&tokens, group + 2) == "{")
    };
    let clocks = ["SystemTime", "Instant", "nix", "libc"];
    let found = (0..tokens.len()).filter(|&i| {
        let word = self::text(&tokens, i);
        clocks.contains(&word) || (IMPURE.contains(&word) && of_std(i))
            // The clock by the name of ours.
            || (word == "now" && i >= 2 && path_follows(&tokens, i - 2) && self::text(&tokens, i - 2) == "Timestamp")
    });
    found.map(|i| (tokens[i].line, format!("{} in the formats, which are pure", tokens[i].text))).collect()
}

/// Whether a file starts programs on its own: one place does, by what leaves the keys behind; and tests.
fn may_start_programs(name: &str) -> bool {
    name == "src/base/sys/child.rs" || name.starts_with("src/base/run/") || is_test(name)
}

/// Whether a file has tests alone.
pub fn is_test(name: &str) -> bool {
    name == "src/testkit.rs" || name.ends_with("tests.rs") || name.ends_with("_test.rs") || name.contains("/tests/")
}

/// The text without the tests at its end.
pub fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default()
}

/// What is wrong with `module` using `used`, if anything.
fn step(module: &str, used: &str) -> Option<String> {
    if used == "*" {
        return Some("everything of the crate at once".into());
    }
    if MACROS.contains(&used) {
        return None;
    }
    // An item of lib.rs itself would have to be a module; lib.rs has nothing else.
    let (from, to) = (rank(module)?, rank(used));
    match to {
        None => Some(format!("crate::{used} is not a module of the table")),
        Some(_) if used == module => None,
        Some(to) if to < from => None,
        Some(to) if to == from && SAME_RANK.iter().any(|(a, b, _)| (*a, *b) == (module, used)) => None,
        Some(to) => Some(format!("'{module}' (rank {from}) uses '{used}' (rank {to})")),
    }
}

/// A file's crate, its module at the top of that, and how deep below the crate the file itself is.
struct Place {
    /// The crate's folder below `src`; `None` for the package itself.
    folder: Option<&'static str>,
    module: Option<String>,
    depth: usize,
}

impl Place {
    fn of(name: &str) -> Place {
        let inner = name.trim_start_matches("src/").trim_end_matches(".rs");
        let mut parts: Vec<&str> = inner.split('/').collect();
        let folder = CRATES.iter().map(|(folder, _)| *folder).find(|folder| parts.first() == Some(folder));
        if folder.is_some() {
            parts.remove(0);
        }
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        if parts == ["lib"] || parts == ["main"] {
            return Place { folder, module: None, depth: 0 };
        }
        Place { folder, module: parts.first().map(|p| (*p).to_owned()), depth: parts.len() }
    }
}

/// The first line that says something must say what the file is.
fn opening(name: &str, text: &str) -> Option<Finding> {
    let first = text.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
    let what = "does not open with //!: what it owns and what it never does".into();
    (!first.starts_with("//!")).then(|| Finding { file: name.into(), line: 1, what })
}

/// The same text with blanks in the place of comments and of what is in strings and characters; lines stay.
fn without_comments_and_strings(text: &str) -> String {
    let source: Vec<char> = text.chars().collect();
    let at = |i: usize| source.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < source.len() {
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => (i..source.len()).find(|j| at(*j) == '\n').unwrap_or(source.len()),
            ('/', '*') => end_of_comment(&source, i),
            ('"', _) => end_of_string(&source, i + 1),
            ('r', '"' | '#') if i == 0 || !is_word(at(i - 1)) || at(i - 1) == 'b' || at(i - 1) == 'c' => {
                match end_of_raw(&source, i + 1) {
                    Some(end) => end,
                    None => i,
                }
            }
            ('\'', '\\') => (i + 3..source.len()).find(|j| at(*j) == '\'').map_or(source.len(), |j| j + 1),
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => i,
        };
        if end == i {
            out.push(at(i));
            i += 1;
        } else {
            out.extend(source[i..end.min(source.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            i = end;
        }
    }
    out
}

/// Block comments nest.
fn end_of_comment(source: &[char], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0);
    while i < source.len() {
        match (source[i], source.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => {
                (depth, i) = (depth - 1, i + 2);
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    source.len()
}

fn end_of_string(source: &[char], start: usize) -> usize {
    let mut i = start;
    while i < source.len() {
        match source[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    source.len()
}

/// `r"…"`, `r#"…"#`; `None` for a raw identifier.
fn end_of_raw(source: &[char], start: usize) -> Option<usize> {
    let hashes = source[start..].iter().take_while(|c| **c == '#').count();
    if source.get(start + hashes) != Some(&'"') {
        return None;
    }
    let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = start + hashes + 1;
    let end = source[body..].windows(closing.len()).position(|w| w == closing);
    Some(end.map_or(source.len(), |e| body + e + closing.len()))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A word, `::`, or one other character.
#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        }
        if c.is_whitespace() {
            continue;
        }
        let mut word = String::from(c);
        if is_word(c) {
            while let Some(next) = chars.next_if(|n| is_word(*n)) {
                word.push(next);
            }
        } else if c == ':' && chars.next_if_eq(&':').is_some() {
            word.push(':');
        }
        tokens.push(Token { text: word, line });
    }
    tokens
}

fn text(tokens: &[Token], i: usize) -> &str {
    tokens.get(i).map_or("", |t| &t.text)
}

fn path_follows(tokens: &[Token], i: usize) -> bool {
    text(tokens, i + 1) == "::"
}

/// `libc::ENOENT`, `Errno::ENOENT`.
fn is_errno(tokens: &[Token], i: usize) -> bool {
    let word = text(tokens, i);
    let shape =
        word.len() > 2 && word.starts_with('E') && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    shape && i >= 2 && text(tokens, i - 1) == "::" && matches!(text(tokens, i - 2), "libc" | "Errno" | "errno")
}

/// Each use of a module at the top of the crate: by `crate::`, or by as many `super::` as lead there.
fn uses(tokens: &[Token], file_depth: usize) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    // Where inline modules end: the depth of braces at which each began.
    let mut inline: Vec<usize> = Vec::new();
    let mut braces = 0;
    let mut i = 0;
    while i < tokens.len() {
        match text(tokens, i) {
            "{" => {
                if i >= 2 && text(tokens, i - 2) == "mod" {
                    inline.push(braces);
                }
                braces += 1;
            }
            "}" => {
                braces = usize::saturating_sub(braces, 1);
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
            }
            "crate" if path_follows(tokens, i) => roots(tokens, i + 2, &mut used),
            "super" => {
                let mut supers = 1;
                while path_follows(tokens, i) && text(tokens, i + 2) == "super" {
                    (supers, i) = (supers + 1, i + 2);
                }
                if supers >= file_depth + inline.len() && path_follows(tokens, i) {
                    roots(tokens, i + 2, &mut used);
                }
            }
            _ => {}
        }
        i += 1;
    }
    used
}

/// What is named after `crate::`: one word, or the first word of each item of a group.
fn roots(tokens: &[Token], start: usize, used: &mut Vec<(usize, String)>) {
    if text(tokens, start) != "{" {
        if let Some(token) = tokens.get(start) {
            used.push((token.line, token.text.clone()));
        }
        return;
    }
    let (mut depth, mut first) = (0, false);
    for token in &tokens[start..] {
        match token.text.as_str() {
            "{" => (depth, first) = (depth + 1, depth == 0),
            "}" if depth == 1 => return,
            "}" => depth -= 1,
            "," => first = depth == 1,
            word => {
                if first && word != "self" {
                    used.push((token.line, word.to_owned()));
                }
                first = false;
            }
        }
    }
}

fn whats(name: &str, text: &str) -> Vec<(usize, String)> {
    check(name, &format!("//! x\n{text}")).into_iter().map(|f| (f.line - 1, f.what)).collect()
}

#[test]
fn every_module_has_one_rank() {
    let mut seen = BTreeMap::new();
    for (rank, modules) in RANKS {
        for module in *modules {
            assert_eq!(seen.insert(*module, *rank), None, "{module} is there twice");
        }
    }
}

#[test]
fn steps_upwards_and_sideways_are_found() {
    for (name, text, line) in [
        ("src/base/model/path.rs", "use crate::wire::Entry;", 1),
        ("src/base/model/path.rs", "\nfn f() { crate::vault::open() }", 2),
        ("src/formats/wire/mod.rs", "use crate::{model::{Ino, Uid}, secret::Secret,\n  config::Config};", 2),
        ("src/base/exit.rs", "use super::model::Ino;", 1),
        ("src/base/exit.rs", "mod t { use super::super::model; }", 1),
        ("src/config/load.rs", "use super::super::access;", 1),
        ("src/base/sys/arena.rs", "use crate::secret::Secret;", 1),
        ("src/vault/mod.rs", "use crate::*;", 1),
        ("src/vault/mod.rs", "use pinfold::cli;", 1),
        ("src/vault/mod.rs", "use pinfold_base::model::Ino;", 1),
        ("src/base/vault/mod.rs", "", 0),
        ("src/model/path.rs", "", 0),
        ("src/vault/mod.rs", "use crate::helpers::x;", 1),
        ("src/helpers.rs", "", 0),
        ("src/vault/mod.rs", "macro_rules! m { () => { $crate::cli::main() } }", 1),
    ] {
        let found = whats(name, text);
        assert_eq!(found.len(), 1, "{name}: {text}: {found:?}");
        assert_eq!(found[0].0, line, "{name}: {text}");
    }
}

#[test]
fn what_is_forbidden_elsewhere_is_found() {
    for (name, text) in [
        ("src/vault/mod.rs", "unsafe { x() }"),
        ("src/main.rs", "unsafe { x() }"),
        ("src/base/secret.rs", "unsafe { x() }"),
        ("src/fs/tree.rs", "use fuser::Request;"),
        ("src/vault/mod.rs", "Err(libc::EACCES)"),
        ("src/fs/tree.rs", "nix::errno::Errno::ENOENT"),
    ] {
        assert_eq!(whats(name, text).len(), 1, "{name}: {text}");
    }
    assert_eq!(opening("src/x.rs", "\n// x\n//! y\n").unwrap().line, 1);
}

#[test]
fn what_is_allowed_is_not_found() {
    for (name, text) in [
        ("src/formats/wire/mod.rs", "use crate::{model::{Ino, Uid}, secret::Secret, wire::x};"),
        ("src/base/secret.rs", "use crate::sys::arena;"),
        ("src/base/sys/arena.rs", "unsafe { libc::ENOENT }"),
        ("src/fs/fuse.rs", "use fuser::Request; const X: i32 = libc::ENOENT;"),
        ("src/fs/fuse/reply.rs", "fuser::Errno::ENOENT"),
        ("src/lib.rs", "pub mod cli; pub use pinfold_base::{exit, model};"),
        ("src/base/lib.rs", "pub mod exit;"),
        ("src/main.rs", "fn main() { pinfold::cli::main() }"),
        ("src/config/load.rs", "use super::Config; mod tests { use super::super::units; use super::*; }"),
        ("src/base/exit.rs", "mod tests { use super::*; use super::Exit; } pub fn super_() {}"),
        ("src/base/model/mod.rs", "// use crate::cli;\n/* unsafe /* nested */ crate::cli */ let s = \"crate::cli\";"),
        (
            "src/base/model/mod.rs",
            "let s = r#\"unsafe \" crate::cli\"#; let c = '\"'; let d = '\\''; let l: &'a str = b\"fuser\";",
        ),
        ("src/base/model/mod.rs", "let s = \"\\\" unsafe\"; let unsafe_ = 1; let EACCES = 2;"),
        ("src/vault/mod.rs", "pub(crate) fn f() {} pub(super) fn g() {}"),
    ] {
        assert_eq!(whats(name, text), [], "{name}: {text}");
    }
}

#[test]
fn what_is_not_pure_is_found_in_the_formats() {
    for text in [
        "use std::fs::File;",
        "use std::{io, fs};",
        "fn f() { std::net::UdpSocket::bind(x) }",
        "use std::time::SystemTime;",
        "use std::os::unix::fs::FileExt;",
        "fn f() { Timestamp::now() }",
        "fn f() { nix::unistd::getuid() }",
    ] {
        assert_eq!(whats("src/formats/cert/mod.rs", text).len(), 1, "{text}");
        assert_eq!(whats("src/formats/cert/tests.rs", text), [], "{text}");
        assert_eq!(whats("src/vault/mod.rs", text), [], "{text}");
    }
    let fine = "use core::net::IpAddr; use std::io::{self, Read}; use std::path::Path; fn fs(net: Net, made: Timestamp, now: Timestamp) { self.os() }";
    assert_eq!(whats("src/formats/cert/mod.rs", fine), []);
    let tested = "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs::File; }";
    assert_eq!(whats("src/formats/cert/mod.rs", tested), []);
}

#[test]
fn programs_are_started_without_the_scopes_keys() {
    let start = "fn f() { std::process::Command::new(\"x\"); }";
    assert_eq!(whats("src/vault/mod.rs", start).len(), 1);
    assert_eq!(whats("src/vault/mod.rs", &format!("fn g() {{}}\n#[cfg(test)]\nmod tests {{ {start} }}")), []);
    assert_eq!(whats("src/cli/release.rs", start).len(), 1);
    for name in [
        "src/base/sys/child.rs",
        "src/base/run/running.rs",
        "src/core/caller/tests.rs",
        "src/core/caller/flush_test.rs",
    ] {
        assert_eq!(whats(name, start), [], "{name}");
    }
    for shares in ["fn f() { Manner::Group(None) }", "fn f() { run::Manner::Foreground }"] {
        assert_eq!(whats("src/daemon/x.rs", shares).len(), 1, "{shares}");
        assert_eq!(whats("src/cli/x.rs", shares), [], "{shares}");
    }
    assert_eq!(whats("src/daemon/x.rs", "fn f() { Manner::ALONE; Manner::Apart(x) }"), []);
}
