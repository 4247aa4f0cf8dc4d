//! The policy as a user meets it: the table against an evaluation that is written otherwise, and `pinfold policy`.
//!
//! Owns no store and starts no daemon.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use pinfold::model::HostName;
use pinfold::policy::Policy;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

/// A policy as data: groups hold numbers of things and of groups with higher numbers, so that there is no circle.
#[derive(Debug, Clone)]
struct Model {
    host_groups: Vec<(Vec<usize>, Vec<usize>)>,
    user_groups: Vec<(Vec<usize>, Vec<usize>)>,
    manages: Vec<Line>,
    /// In which order the lines are written.
    order: Vec<prop::sample::Index>,
    windows: bool,
}

/// Hosts, host groups, users, user groups.
#[derive(Debug, Clone)]
struct Line(Vec<usize>, Vec<usize>, Vec<usize>, Vec<usize>);

fn word(kind: &str, number: usize) -> String {
    format!("{kind}{number}")
}

impl Model {
    /// The lines of the file, in some order.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let words = |kind: &str, of: &[usize]| of.iter().map(|n| word(kind, *n)).collect::<Vec<_>>();
        for (of, groups, (one, many)) in
            [("hostgroup", &self.host_groups, ("h", "H")), ("usergroup", &self.user_groups, ("u", "U"))]
        {
            for (n, (things, nested)) in groups.iter().enumerate() {
                let deeper: Vec<usize> = nested.iter().filter(|m| **m > n && **m < groups.len()).copied().collect();
                let members = [words(many, &deeper), words(one, things)].concat();
                lines.push(format!("{of}  {} :\t{} # a group", word(many, n), members.join(" ")));
            }
        }
        for (n, Line(hosts, host_groups, users, user_groups)) in self.manages.iter().enumerate() {
            let left = [words("h", hosts), words("H", host_groups)].concat().join(" ");
            let right = [words("u", users), words("U", user_groups)].concat().join(" ");
            lines.push(format!("manage {left} : {right} #note {n}"));
        }
        let mut ordered = Vec::new();
        for index in &self.order {
            if !lines.is_empty() {
                ordered.push(lines.swap_remove(index.index(lines.len())));
            }
        }
        ordered.append(&mut lines);
        ordered
    }
}

/// Who is where by which notes, worked out from the text by substitution until nothing changes: no graph, no indices.
fn naive(lines: &[String]) -> BTreeMap<(String, String), Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let split = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
    for line in lines {
        let (said, _) = line.split_once('#').unwrap();
        let (left, right) = said.split_once(':').unwrap();
        if !left.starts_with("manage") {
            groups.insert(split(left)[1].clone(), split(right));
        }
    }
    let flat = |words: Vec<String>| {
        let mut words = words;
        while let Some(at) = words.iter().position(|word| groups.contains_key(word)) {
            let group = words.swap_remove(at);
            words.extend(groups[&group].clone());
            words.sort();
            words.dedup();
        }
        words.into_iter().collect::<BTreeSet<_>>()
    };
    let mut table: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.starts_with("manage")) {
        let (said, note) = line.split_once('#').unwrap();
        let (left, right) = said.split_once(':').unwrap();
        for user in flat(split(right)) {
            for host in flat(split(left)[1..].to_vec()) {
                table.entry((user.clone(), host)).or_default().push(note.to_owned());
            }
        }
    }
    table
}

fn few(below: usize, most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..below, 0..=most)
}

fn model() -> impl Strategy<Value = Model> {
    let group = || (few(8, 4), few(7, 3));
    let line = (prop::collection::vec(0..8usize, 1..3), few(7, 2), prop::collection::vec(0..8usize, 1..3), few(7, 2))
        .prop_map(|(h, hg, u, ug)| Line(h, hg, u, ug));
    (
        prop::collection::vec(group(), 7),
        prop::collection::vec(group(), 7),
        prop::collection::vec(line, 0..8),
        prop::collection::vec(any::<prop::sample::Index>(), 24),
        any::<bool>(),
    )
        .prop_map(|(host_groups, user_groups, manages, order, windows)| Model {
            host_groups,
            user_groups,
            manages,
            order,
            windows,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_table_is_what_the_lines_say(model in model()) {
        let lines = model.lines();
        let policy = Policy::parse(&lines.join(if model.windows { "\r\n" } else { "\n" }), Path::new("p")).unwrap();
        let expected = naive(&lines);
        let mut found = BTreeMap::new();
        for row in policy.table() {
            for (host, because) in row.hosts {
                let notes: Vec<String> = because.iter().map(|b| b.note.clone()).collect();
                prop_assert!(found.insert((row.user.to_owned(), host.to_owned()), notes).is_none());
            }
        }
        prop_assert_eq!(&found, &expected);
        // The other way round: by host, the first line alone.
        let mut by_host = BTreeMap::new();
        for host in policy.machines() {
            for (user, because) in policy.admins_of(&HostName::parse(host).unwrap()) {
                let ending = format!("#{}", because.note);
                prop_assert!(lines[because.line as usize - 1].ends_with(&ending));
                by_host.insert((user.to_owned(), host.to_owned()), because.note.clone());
            }
        }
        let first: BTreeMap<_, _> = expected.into_iter().map(|(key, notes)| (key, notes[0].clone())).collect();
        prop_assert_eq!(by_host, first);
    }

    /// Whatever bytes come: a policy or faults, each within the text.
    #[test]
    fn no_text_breaks_the_parser(text in "(hostgroup|usergroup|manage|host|share|[a-c: \t#*\\[=]|\n|\r\n|\u{feff}|é|\\PC){0,60}") {
        match Policy::parse(&text, Path::new("p")) {
            Ok(policy) => prop_assert!(policy.table().count() <= text.len()),
            Err(error) => {
                let told = error.to_string();
                prop_assert!(told.contains('^'));
            }
        }
    }
}

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new(policy: &str) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy");
        std::fs::write(&file, policy).unwrap();
        std::fs::write(dir.path().join("pinfold.toml"), format!("policy = \"{}\"\n", file.display())).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        Rig { dir }
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let config = self.dir.path().join("pinfold.toml");
        let out: Output = Command::new(env!("CARGO_BIN_EXE_pinfold"))
            .arg("--config")
            .arg(config)
            .arg("policy")
            .args(args)
            .output()
            .unwrap();
        let here =
            |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&format!("{}/", self.dir.path().display()), "");
        (out.status.code().unwrap(), here(out.stdout), here(out.stderr))
    }
}

const EXAMPLE: &str = "\
hostgroup hg1 : h1 h2
hostgroup hg2 : h3 hg1
hostgroup hg3 : h1 h3
usergroup ug1 : u1 u2 u3
usergroup ug2 : u4
manage hg3 : u1 u2 #A
manage h4 : ug1 u5 #B
manage hg2 : ug2 u3 #C
";

#[test]
fn the_table_is_shown() {
    let rig = Rig::new(EXAMPLE);
    let (code, out, err) = rig.run(&["show"]);
    let expected = "\
USER  HOST  LINE  NOTE
u1    h1       6  A
u1    h3       6  A
u1    h4       7  B
u2    h1       6  A
u2    h3       6  A
u2    h4       7  B
u3    h1       8  C
u3    h2       8  C
u3    h3       8  C
u3    h4       7  B
u4    h1       8  C
u4    h2       8  C
u4    h3       8  C
u5    h4       7  B
";
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""));
    let (_, out, _) = rig.run(&["show", "--host", "h2"]);
    assert_eq!(out, "USER  HOST  LINE  NOTE\nu3    h2       8  C\nu4    h2       8  C\n");
    let (_, out, _) = rig.run(&["show", "--user", "u5", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        json["admins"],
        serde_json::json!([{"user": "u5", "host": "h4", "because": [{"line": 7, "note": "B"}]}])
    );
    for none in [["--host", "h9"], ["--user", "u9"], ["--host", "hg1"]] {
        let (code, out, err) = rig.run(&["show", none[0], none[1]]);
        assert_eq!((code, out.as_str()), (6, ""), "{err}");
    }
}

#[test]
fn hosts_and_shares_are_shown() {
    let rig =
        Rig::new("host a age1x deliver=dir:/in # x\nhostgroup g : a b\nshare g : svc/* **/*.pem # why\nmanage a : u\n");
    let (code, out, err) = rig.run(&["show"]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (
            0,
            "USER  HOST  LINE  NOTE\nu     a        4\n\nHOST  PATTERN   LINE  NOTE\na     svc/*        3  why\n\
             a     **/*.pem     3  why\nb     svc/*        3  why\nb     **/*.pem     3  why\n",
            ""
        )
    );
    let (_, out, _) = rig.run(&["show", "--json", "--host", "a"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        json["hosts"],
        serde_json::json!([{"name": "a", "recipient": "age1x", "options": {"deliver": "dir:/in"}, "line": 1, "note": "x"}])
    );
    assert_eq!(
        json["shares"][0],
        serde_json::json!({"host": "a", "pattern": "svc/*", "because": [{"line": 3, "note": "why"}]})
    );
    assert_eq!(json["shares"].as_array().unwrap().len(), 2);
}

#[test]
fn mistakes_are_shown_with_their_line_and_a_caret() {
    let rig = Rig::new("hostgroup a : b\nhostgroup b : a\nmanage a : 7\n");
    let (code, out, err) = rig.run(&["check"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert_eq!(
        err,
        "pinfold: error: policy:2:15: groups in a circle: a -> b -> a\n  hostgroup b : a\n                ^\n\
         pinfold: error: policy:3:12: '7' is no user's name: that is up to 32 of A-Z a-z 0-9 . _ -, and not a number\n  \
         manage a : 7\n             ^\n\
         pinfold: error: policy: 2 errors, so it is not in force\n"
    );
    let (code, out, err) = rig.run(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, json["errors"][0]["line"].as_u64(), json["errors"][1]["column"].as_u64()),
        (2, Some(2), Some(12))
    );
    assert_eq!(err, "pinfold: error: policy: 2 errors, so it is not in force\n");
    assert_eq!(rig.run(&["show"]).0, 2);
}

/// A recipient nobody has the key of.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

#[test]
fn a_right_policy_is_counted_and_doubts_are_told() {
    let rig = Rig::new(&format!("host a {RECIPIENT}\nmanage a b : u v\n"));
    let (code, out, err) = rig.run(&["check"]);
    assert_eq!((code, out.as_str()), (0, "policy: 1 host, 2 admins\n"), "{err}");
    assert!(err.starts_with("pinfold: warning: policy:2:10: 'b' has no host line"), "{err}");
    assert!(err.ends_with("pinfold: hint: host b RECIPIENT\n"), "{err}");
    let missing = rig.run(&["check", "/nonexistent/policy"]);
    assert_eq!(missing.0, 6, "{missing:?}");
    std::fs::set_permissions(rig.dir.path().join("policy"), std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .unwrap();
    let (code, _, err) = rig.run(&["show"]);
    assert!(code == 3 && err.contains("others can write it") && err.contains("hint: chown root"), "{code} {err}");
}

#[test]
fn a_bad_recipient_or_address_is_told_and_harms_its_host_alone() {
    let rig = Rig::new(&format!(
        "\u{feff}host a age1oops # typed\r\nhost b ssh-rsa AAAA deliver=dir:/x/../y\r\n\
         host c {RECIPIENT} deliver=sftp://-oX@h/in ack-from=dir:/out ack=ssh-ed25519:oops\r\nmanage a b c : u\r\n"
    ));
    let (code, out, err) = rig.run(&["check"]);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    let (_, json, _) = rig.run(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["in_force"], true);
    let places: Vec<(u64, u64)> = json["host_errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["line"].as_u64().unwrap(), e["column"].as_u64().unwrap()))
        .collect();
    assert_eq!(places[..3], [(1, 8), (2, 8), (2, 29)]);
    let line = format!("host c {RECIPIENT} deliver=sftp://-oX@h/in ack-from=dir:/out ack=ssh-ed25519:oops");
    let at = |text: &str| line.find(text).unwrap() as u64 + 1;
    assert_eq!(places[3..], [(3, at("sftp:")), (3, at("ssh-ed25519:oops"))], "{err}");
    assert!(err.contains("policy:1:8: host a: ") && err.contains("  host a age1oops # typed\n         ^\n"), "{err}");
    assert!(err.ends_with("pinfold: error: policy: 5 errors of hosts; the others get what is theirs\n"), "{err}");
}
