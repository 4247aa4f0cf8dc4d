//! Small policies: what they say, what is wrong with them, and how that is shown.

use super::*;

/// The table of the manual of keymgr, by which its grammar is known.
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

fn policy(text: &str) -> Policy {
    Policy::parse(text, Path::new("p")).unwrap_or_else(|error| panic!("{error}"))
}

/// Line, column and message of each fault.
fn faults(text: &str) -> Vec<(u32, u32, String)> {
    match Policy::parse(text, Path::new("p")) {
        Err(PolicyError::Wrong { faults, .. }) => {
            faults.told.into_iter().map(|f| (f.line, f.column, f.message)).collect()
        }
        other => panic!("{text:?} gave {other:?}"),
    }
}

fn table(policy: &Policy) -> Vec<String> {
    let lines = |because: &[&Because]| because.iter().map(|b| b.note.as_str()).collect::<Vec<_>>().join("+");
    let row = |row: Row<'_>| {
        let hosts: Vec<String> = row.hosts.iter().map(|(host, because)| format!("{host} {}", lines(because))).collect();
        format!("{}: {}", row.user, hosts.join(", "))
    };
    policy.table().map(row).collect()
}

fn name(host: &str) -> HostName {
    HostName::parse(host).unwrap()
}

#[test]
fn the_table_is_that_of_the_manual() {
    let expected = [
        "u1: h1 A, h3 A, h4 B",
        "u2: h1 A, h3 A, h4 B",
        "u3: h1 C, h2 C, h3 C, h4 B",
        "u4: h1 C, h2 C, h3 C",
        "u5: h4 B",
    ];
    assert_eq!(table(&policy(EXAMPLE)), expected);
    // A group may be used above its declaration, and files come from other systems.
    let mut lines: Vec<&str> = EXAMPLE.lines().collect();
    lines.reverse();
    let elsewhere = format!("\u{feff}{}", lines.join("\r\n").replace(" : ", "\t:\t"));
    assert_eq!(table(&policy(&elsewhere)), expected);
    assert_eq!(table(&policy(&EXAMPLE.replace(" : ", ":"))), expected);
    let admins = policy(EXAMPLE);
    let of_h1: Vec<_> = admins.admins_of(&name("h1")).into_iter().map(|(u, b)| (u, b.line, &*b.note)).collect();
    assert_eq!(of_h1, [("u1", 6, "A"), ("u2", 6, "A"), ("u3", 8, "C"), ("u4", 8, "C")]);
    assert!(admins.admins_of(&name("hg1")).is_empty() && admins.admins_of(&name("other")).is_empty());
}

#[test]
fn every_line_that_says_so_is_told_and_the_first_is_the_reason() {
    let policy = policy("manage h : u # one\nusergroup g : u u\nmanage h h : g # two\nmanage h : g\n");
    assert_eq!(table(&policy), ["u: h one+two+"]);
    assert_eq!(policy.admins_of(&name("h")), [("u", &Because { line: 1, note: "one".into() })]);
}

#[test]
fn hosts_have_recipients_and_options() {
    let policy = policy(
        "# the machines\n\
         host h1 age1xyz deliver=sftp://up@h1:2222/in user-prefix=adm- on-change=yes # first\n\
         host h2 ssh-ed25519 AAAA+/== ack=ssh-ed25519:AAAA expires=30d retries=3 before=/bin/up after=/bin/down\n\
         hostgroup all: h1 h2\n\
         share all : svc/* **/*.pem #S\n\
         share h1: passwords/db svc:x/y\n",
    );
    let [h1, h2] = policy.hosts() else { panic!("{:?}", policy.hosts()) };
    assert_eq!((h1.name.as_str(), &*h1.recipient, h1.because.line, &*h1.because.note), ("h1", "age1xyz", 2, "first"));
    assert_eq!(h1.deliver.as_deref(), Some("sftp://up@h1:2222/in"));
    assert_eq!((h1.user_prefix.as_deref(), h1.on_change(), h1.retries()), (Some("adm-"), true, None));
    assert_eq!(h1.column("deliver"), 25);
    assert_eq!(h2.recipient, "ssh-ed25519 AAAA+/==");
    assert_eq!(h2.column("recipient"), 9);
    assert_eq!((h2.before(), h2.after(), h2.retries()), (Some("/bin/up"), Some("/bin/down"), Some(3)));
    assert_eq!(h2.expires().map(|d| d.as_secs()), Some(30 * 86_400));
    assert_eq!(policy.host(&name("h2")).unwrap(), h2);
    let shared = |host: &str| -> Vec<String> {
        policy.shares_of(&name(host)).into_iter().map(|(glob, b)| format!("{}:{glob}", b.line)).collect()
    };
    assert_eq!(shared("h1"), ["5:svc/*", "5:**/*.pem", "6:passwords/db", "6:svc:x/y"]);
    assert_eq!(shared("h2"), ["5:svc/*", "5:**/*.pem"]);
    assert!(shared("all").is_empty());
    let warned: Vec<String> = policy.warnings().told.iter().map(PolicyFault::to_string).collect();
    assert_eq!(warned, ["6:11: no host takes what lies in passwords/db: 'passwords/db' sends nothing"]);
    assert_eq!(policy.machines(), ["h1", "h2"]);
}

#[test]
fn nothing_says_nothing() {
    for text in ["", "\n", "# only\n\n\t # this", "\u{feff}", "\r\n\r\n"] {
        let policy = policy(text);
        assert!(policy.hosts().is_empty() && policy.table().next().is_none());
    }
    assert!(Policy::empty().admins_of(&name("h")).is_empty());
    assert_eq!(table(&policy("hostgroup none :\nmanage none : u")), ["u: "]);
}

#[test]
fn faults_have_their_place() {
    for (text, line, at, says) in [
        ("\nmange h : u", 2, 1, "unknown word 'mange'"),
        ("  Manage h : u", 1, 3, "unknown word"),
        ("manage h u", 1, 11, "expected ':' and names"),
        ("manage h u # x : y", 1, 11, "expected ':'"),
        ("manage", 1, 7, "expected ':'"),
        ("manage : u", 1, 8, "without a name before ':'"),
        ("manage h :  ", 1, 11, "expected a name after ':'"),
        ("manage h : u : v", 1, 14, "a second ':'"),
        ("manage é/é : u", 1, 8, "is no name"),
        ("manage h : 1000", 1, 12, "not a number"),
        ("manage h : ../u", 1, 12, "no user's name"),
        ("manage h : -u", 1, 12, "no user's name"),
        ("manage -h : u", 1, 8, "is no name"),
        ("manage h : manage", 1, 12, "is a word of the policy"),
        ("hostgroup share : h", 1, 11, "is a word of the policy"),
        ("hostgroup a b : h", 1, 13, "expected ':' after the name"),
        ("hostgroup a : b\nhostgroup a : c", 2, 11, "'a' is declared twice, first in line 1"),
        ("usergroup a : b\nusergroup a : c", 2, 11, "declared twice"),
        ("host a age1\nhost a age1", 2, 6, "declared twice, first in line 1"),
        ("host a age1\nhostgroup a : b", 1, 6, "is a hostgroup, declared in line 2"),
        ("hostgroup a : h b\nhostgroup b : a", 2, 15, "groups in a circle: a -> b -> a"),
        ("usergroup x : x", 1, 15, "groups in a circle: x -> x"),
        ("host", 1, 5, "expected a host's name"),
        ("host a # x", 1, 7, "expected the host's recipient"),
        ("host a ssh-ed25519", 1, 19, "expected the key after 'ssh-ed25519'"),
        ("host a ssh-ed25519 AAAA root@a", 1, 25, "expected key=value, found 'root@a'"),
        ("host a/b age1", 1, 6, "machine's name"),
        ("host a age1 deliver=dir:/x deliver=dir:/y", 1, 28, "'deliver' is there twice"),
        ("host a age1 delver=dir:/x", 1, 13, "unknown key 'delver'"),
        ("host a age1 deliver=x", 1, 13, "'deliver' is dir:/"),
        ("host a age1 expires=1s", 1, 13, "'expires' is a duration"),
        ("host a age1 retries=+1", 1, 13, "'retries' is a number"),
        ("host a age1 on-change=true", 1, 13, "'on-change' is yes or no"),
        ("host a age1 before=bin/x", 1, 13, "absolute path"),
        ("host a age1 user-prefix=../", 1, 13, "'user-prefix' is"),
        ("host manage age1", 1, 6, "is a word of the policy"),
        ("share h", 1, 8, "expected ':' and patterns"),
        ("share h :", 1, 10, "expected a pattern"),
        ("share h : a /svc/x", 1, 13, "relative to the root"),
        ("share h : a/{b,c}", 1, 11, "no alternatives in braces"),
        ("share h : a/../b", 1, 11, "cannot name a file"),
        ("manage h : u\0", 1, 13, "a control character"),
        ("manage h : u\rmanage", 1, 13, "a control character"),
    ] {
        let found = faults(text);
        assert_eq!(found.len(), 1, "{text:?}: {found:?}");
        assert_eq!((found[0].0, found[0].1), (line, at), "{text:?}: {found:?}");
        assert!(found[0].2.contains(says), "{text:?}: {found:?}");
    }
}

#[test]
fn all_faults_are_told_each_with_its_line_and_a_caret() {
    let text = "mange h : u\nmanage h : ok\nmanage\th : 7 u 8\nhost x age1 a b\n";
    assert_eq!(
        faults(text).iter().map(|f| (f.0, f.1)).collect::<Vec<_>>(),
        [(1, 1), (3, 12), (3, 16), (4, 13), (4, 15)]
    );
    let shown = Policy::parse("manage\th : 7", Path::new("/etc/p")).unwrap_err().to_string();
    assert_eq!(
        shown,
        "/etc/p:1:12: '7' is no user's name: that is up to 32 of A-Z a-z 0-9 . _ -, and not a number\n  \
         manage\th : 7\n        \t    ^"
    );
    let many = "x\n".repeat(5000);
    assert!(Policy::parse(&many, Path::new("p")).unwrap_err().to_string().ends_with("and 4900 more"));
}

#[test]
fn what_is_doubtful_is_a_warning() {
    let warned =
        |text: &str| -> Vec<String> { policy(text).warnings().told.iter().map(PolicyFault::to_string).collect() };
    assert_eq!(
        warned("manage h1 h1 : u\nhostgroup g : h1 h2\nmanage g : u\nhost h2 age1\n"),
        ["2:15: 'h1' has no host line, and gets no bundle"]
    );
    assert_eq!(
        warned("usergroup ug : u\nhost ug age1\nmanage ug : ug\n"),
        ["3:8: 'ug' is a usergroup, but here it names a host"]
    );
    assert_eq!(
        warned("hostgroup hg : a\nhost a age1\nusergroup out : in\nusergroup in : u\nmanage hg : hg\n"),
        ["3:11: the group 'out' is not used", "5:13: 'hg' is a hostgroup, but here it names a user"]
    );
}

#[test]
fn every_bound_is_kept() {
    let long = |n: usize| format!("manage h : u #{}", "x".repeat(n));
    assert_eq!(policy(&long(1000)).admins_of(&name("h"))[0].1.note.len(), 1000);
    assert!(faults(&long(1001))[0].2.contains("the note is longer"));
    assert!(faults(&format!("manage h : {}", "u ".repeat(1 << 19)))[0].2.contains("the line is longer"));
    assert!(faults(&"\n".repeat((8 << 20) + 1))[0].2.contains("the policy is longer"));
    let nested = |n: usize| -> String { (0..n).map(|i| format!("hostgroup g{i} : g{}\n", i + 1)).collect() };
    policy(&nested(64));
    assert_eq!(faults(&nested(65)), [(1, 11, "groups are nested deeper than 64".to_owned())]);
    let hosts: String = (0..=100_000).map(|i| format!("host h{i} age1xxxxxxxxxxxxxxxxxxxxxxxxxxxx\n")).collect();
    assert!(faults(&hosts)[0].2.contains("more than 100000 hosts"));
}

#[test]
fn large_policies_are_quick() {
    let mut text = String::from("hostgroup all :");
    (0..100_000).for_each(|i| text += &format!(" h{i}"));
    text.push('\n');
    (0..20_000)
        .for_each(|i| text += &format!("host h{i} age1xxxxxxxxxxxxxxxxxxxxxxxxxxxx\nmanage h{i} all : u{i} #{i}\n"));
    let begun = std::time::Instant::now();
    let policy = policy(&text);
    assert_eq!(policy.admins_of(&name("h99999")).len(), 20_000);
    assert_eq!(policy.table().next().unwrap().hosts.len(), 100_000);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}
