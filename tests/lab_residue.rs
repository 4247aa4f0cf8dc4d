//! Nothing of a secret stays where it passed: the daemon's whole memory, its store and its log are searched for a mark
//! that was enrolled and read in every way, raw, reversed, and as text that encodes it.
//!
//! The search is shown to find it: while a handle is open, in the locked arena and nowhere else.

use crate::common;

use common::{Daemon, Held, ROOT, sh, wait_for};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Bytes of a mark that count as a find.
const PIECE: usize = 16;
const MARK: usize = 32;
const PAGE: u64 = 4096;
const SIZES: [usize; 4] = [64, 4 << 10, 200 << 10, 1 << 20];

/// A random mark, and what of it must not be anywhere.
struct Mark {
    bytes: [u8; MARK],
    /// Every form of every piece.
    pieces: BTreeSet<Vec<u8>>,
    /// One bit for each pair of bytes with which a piece begins.
    starts: Vec<bool>,
}

impl Mark {
    fn new() -> Self {
        let mut bytes = [0; MARK];
        File::open("/dev/urandom").and_then(|f| f.read_exact_at(&mut bytes, 0)).expect("random bytes");
        let mut pieces = BTreeSet::new();
        let endless: Vec<u8> = bytes.iter().copied().cycle().take(3 * MARK).collect();
        let backwards: Vec<u8> = endless.iter().rev().copied().collect();
        for text in [endless.clone(), backwards] {
            for at in 0..MARK {
                pieces.insert(text[at..at + PIECE].to_vec());
            }
        }
        for at in 0..MARK {
            // Any alignment of base64 is one of these: it encodes three bytes at a time.
            let piece = &endless[at..at + 18];
            pieces.insert(base64(piece, b"+/"));
            pieces.insert(base64(piece, b"-_"));
            pieces.insert(hex(&piece[..PIECE], b"0123456789abcdef"));
            pieces.insert(hex(&piece[..PIECE], b"0123456789ABCDEF"));
        }
        let mut starts = vec![false; 1 << 16];
        for piece in &pieces {
            starts[usize::from(piece[0]) << 8 | usize::from(piece[1])] = true;
        }
        Mark { bytes, pieces, starts }
    }

    /// Content of this size: the mark over and over.
    fn content(&self, size: usize) -> Vec<u8> {
        self.bytes.iter().copied().cycle().take(size).collect()
    }

    /// Where any piece is, the first few places.
    fn find(&self, bytes: &[u8]) -> Vec<usize> {
        static EMPTY: [u8; 4096] = [0; 4096];
        let (mut found, mut at) = (Vec::new(), 0);
        while at + PIECE <= bytes.len() {
            // Most of a process is empty; no piece begins with two zeros.
            if at % EMPTY.len() == 0 && bytes[at..].starts_with(&EMPTY) {
                at += EMPTY.len();
                continue;
            }
            if self.starts[usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])]
                && self.pieces.iter().any(|piece| bytes[at..].starts_with(piece))
            {
                found.push(at);
                if found.len() == 3 {
                    break;
                }
            }
            at += 1;
        }
        found
    }
}

fn base64(bytes: &[u8], last: &[u8; 2]) -> Vec<u8> {
    let alphabet = |n: u32| match n & 63 {
        n @ 0..26 => b'A' + n as u8,
        n @ 26..52 => b'a' + (n - 26) as u8,
        n @ 52..62 => b'0' + (n - 52) as u8,
        n => last[n as usize - 62],
    };
    let group = |three: &[u8]| {
        let n = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
        [18, 12, 6, 0].map(|shift| alphabet(n >> shift))
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

fn hex(bytes: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    bytes.iter().flat_map(|b| [digits[usize::from(b >> 4)], digits[usize::from(b & 15)]]).collect()
}

/// A mapping of the daemon in which something was found.
#[derive(Debug)]
#[allow(dead_code, reason = "they are for the message")]
struct Find {
    mapping: String,
    /// Its flags in smaps: `lo` locked, `dd` not dumped, `dc` not inherited by a child.
    flags: String,
    /// Where the pages begin that were read, and where in them the first finds are.
    from: u64,
    at: Vec<usize>,
    /// The bytes around the first.
    around: String,
}

/// The ranges of a mapping that are in memory; the rest was never touched.
fn present(pages: &File, from: u64, to: u64) -> Vec<(u64, u64)> {
    let mut entries = vec![0; usize::try_from((to - from) / PAGE).expect("a mapping fits") * 8];
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    if pages.read_exact_at(&mut entries, from / PAGE * 8).is_err() {
        return vec![(from, to)];
    }
    for (at, entry) in (from..to).step_by(PAGE as usize).zip(entries.chunks_exact(8)) {
        // Bit 63: present; bit 62: in swap (Documentation/admin-guide/mm/pagemap.rst).
        if entry[7] & 0xc0 == 0 {
            continue;
        }
        match ranges.last_mut() {
            Some((_, end)) if *end == at => *end += PAGE,
            Some(_) | None => ranges.push((at, at + PAGE)),
        }
    }
    ranges
}

/// Searches every mapping of the daemon. What cannot be read at all is a failure, but for what no process can read.
#[track_caller]
fn search_memory(pid: u32, mark: &Mark) -> Vec<Find> {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("root may read the daemon's memory");
    let pages = File::open(format!("/proc/{pid}/pagemap")).expect("which pages are in memory");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("its mappings");
    let mut finds = Vec::new();
    let (mut searched, mut mapping) = (0, None::<(String, u64, u64)>);
    for line in maps.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if let Some((from, to)) = first.split_once('-') {
            let number = |text| u64::from_str_radix(text, 16).ok();
            mapping = number(from).zip(number(to)).map(|(from, to)| (line.to_owned(), from, to));
        }
        let Some(flags) = line.strip_prefix("VmFlags:") else { continue };
        let Some((text, from, to)) = mapping.take() else { continue };
        let readable = text.split(' ').nth(1).is_some_and(|perms| perms.starts_with('r'));
        if !readable || text.ends_with("[vvar]") || text.ends_with("[vvar_vclock]") || text.ends_with("[vsyscall]") {
            continue;
        }
        for (from, to) in present(&pages, from, to) {
            let mut bytes = vec![0; usize::try_from(to - from).expect("a mapping fits")];
            if let Err(error) = memory.read_exact_at(&mut bytes, from) {
                // What an allocator gave back meanwhile is not there any more.
                let now = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
                let range = text.split(' ').next().unwrap_or_default();
                assert!(!now.lines().any(|line| line.starts_with(range)), "{text}: {error}");
                continue;
            }
            searched += bytes.len();
            let at = mark.find(&bytes);
            if !at.is_empty() {
                let (first, last) = (at[0].saturating_sub(32), bytes.len().min(at[0] + 64));
                let around = bytes[first..last].escape_ascii().to_string();
                finds.push(Find { mapping: text.clone(), flags: flags.trim().to_owned(), from, at, around });
            }
        }
    }
    assert!(searched > 1 << 20, "only {searched} bytes were searched");
    finds
}

/// Searches every file below a folder, and the names.
#[track_caller]
fn search_files(folder: &Path, mark: &Mark, searched: &mut u64) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        assert!(mark.find(path.as_os_str().as_encoded_bytes()).is_empty(), "in the name {}", path.display());
        if kind.is_dir() {
            search_files(&path, mark, searched);
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).expect("a file");
            *searched += bytes.len() as u64;
            assert_eq!(mark.find(&bytes), Vec::<usize>::new(), "in {}", path.display());
        }
    }
}

/// Nothing in memory.
#[track_caller]
fn nothing_in_memory(daemon: &Daemon, mark: &Mark, when: &str) {
    // The kernel does not wait for a RELEASE, and the pages of a mapping are dropped after it.
    wait_for("the last handle's end", Duration::from_secs(10), || {
        (daemon.json(&["status", "--json"])["open_handles"] == 0).then_some(())
    });
    let finds = search_memory(daemon.pid(), mark);
    assert!(finds.is_empty(), "{when}: {finds:#?}");
}

/// Nothing anywhere.
#[track_caller]
fn nothing_left(daemon: &Daemon, mark: &Mark, when: &str) {
    nothing_in_memory(daemon, mark, when);
    let mut searched = 0;
    search_files(&daemon.file("store"), mark, &mut searched);
    assert!(searched > 100_000, "{when}: only {searched} bytes of store were searched");
    for name in ["audit.log", "daemon.log"] {
        let bytes = std::fs::read(daemon.file(name)).expect("a log");
        assert_eq!(mark.find(&bytes), Vec::<usize>::new(), "{when}: in {name}");
    }
}

/// What the kernel says of the daemon: one field of its status.
#[track_caller]
fn status(daemon: &Daemon, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
}

#[track_caller]
fn hardened(daemon: &Daemon) {
    assert_eq!(status(daemon, "VmSwap"), "0 kB");
    assert_ne!(status(daemon, "VmLck"), "0 kB");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("its limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // Not dumpable: its own uid with every capability but the one to trace does not look into it.
    let without = format!("setpriv --bounding-set=-sys_ptrace head -c 0 /proc/{}/mem", daemon.pid());
    sh(&without).refused("Permission denied");
    sh(&without.replace("--bounding-set=-sys_ptrace", "--bounding-set=-sys_boot")).quiet();
}

#[test]
fn the_search_finds_every_form() {
    common::in_the_lab();
    let mark = Mark::new();
    let raw = mark.content(100);
    let mut forms = vec![
        raw.clone(),
        raw.iter().rev().copied().collect(),
        hex(&raw, b"0123456789abcdef"),
        hex(&raw, b"0123456789ABCDEF"),
    ];
    for skip in 0..3 {
        forms.push(base64(&raw[skip..], b"+/"));
        forms.push(base64(&raw[skip..], b"-_"));
    }
    for form in forms {
        let mut hay = vec![0; 1000];
        assert!(mark.find(&hay).is_empty());
        hay[500..500 + form.len().min(400)].copy_from_slice(&form[..form.len().min(400)]);
        assert!(!mark.find(&hay).is_empty(), "{form:?}");
    }
    assert!(!mark.find(&[&[0; 50][..], &raw[5..5 + PIECE], &[0; 50]].concat()).is_empty(), "a piece is enough");
}

#[test]
fn nothing_stays_after_the_last_close() {
    let daemon = Daemon::configured("allow_reveal = true");
    let mark = Mark::new();
    hardened(&daemon);
    let source = daemon.file("source");
    std::fs::create_dir(&source).expect("a folder");
    let tree = daemon.root().display().to_string();
    for size in SIZES {
        let file = source.join(size.to_string());
        std::fs::write(&file, mark.content(size)).expect("a file");
        let file = file.display();
        sh(&format!("cp {file} {tree}/cp-{size}; tee {tree}/tee-{size} < {file} > /dev/null; dd if={file} of={tree}/dd-{size} bs=1000 status=none")).quiet();
        daemon.cli_with(&["put", &format!("put-{size}")], &mark.content(size)).ok();
        nothing_in_memory(&daemon, &mark, &format!("after {size} bytes were enrolled"));
        for change in [
            format!("head -c 100 {tree}/cp-{size} > /dev/null"),
            format!("truncate -s 50 {tree}/dd-{size}"),
            format!("head -c 20 {file} >> {tree}/dd-{size}"),
            format!("cp {tree}/tee-{size} {tree}/again-{size}"),
            format!("mv {tree}/again-{size} {tree}/moved-{size}"),
            format!("! cp {file} {tree}/refused-{size}.pem 2>/dev/null"),
            format!("! mv {tree}/moved-{size} {tree}/moved-{size}.pem 2>/dev/null"),
        ] {
            sh(&change).quiet();
            nothing_in_memory(&daemon, &mark, &format!("after {change}"));
        }
        let mapped = format!(
            r#"import mmap; f = open("{tree}/cp-{size}", "rb"); m = mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ); print(len(bytes(m)))"#
        );
        let read = sh(&format!(
            "cat {tree}/cp-{size} | cmp - {file} && cat {tree}/put-{size} | cmp - {file} && /usr/bin/python3 -c '{mapped}'"
        ))
        .quiet();
        assert_eq!(read, format!("{size}\n"));
        let shown = daemon.cli(&["cat", "--reveal", &format!("tee-{size}")]).ok();
        assert!(shown.stdout == mark.content(size), "cat --reveal shows it");
        daemon.cli(&["cat", "--reveal", "--json", &format!("tee-{size}")]).ok();
        nothing_left(&daemon, &mark, &format!("after {size} bytes were read"));
    }
    sh(&format!("for i in $(seq 50); do cat {tree}/cp-4096 {tree}/cp-204800 > /dev/null & done; wait")).quiet();
    nothing_left(&daemon, &mark, "after many readers at once");
    daemon.lock();
    nothing_left(&daemon, &mark, "after the lock");
    hardened(&daemon);
    daemon.unlock();
    sh(&format!("cmp {tree}/cp-1048576 {}/1048576", source.display())).quiet();
    nothing_left(&daemon, &mark, "after the unlock");
}

#[test]
fn while_it_is_open_it_is_in_the_locked_arena_alone() {
    let daemon = Daemon::start();
    let mark = Mark::new();
    let tree = daemon.root().display().to_string();
    daemon.cli_with(&["put", "pin"], &mark.content(200 << 10)).ok();
    let mut held = Held::start(ROOT, &format!("exec 3<{tree}/pin; cat <&3 | wc -c; read; read"));
    assert_eq!(held.line(), "204800");
    in_the_arena_alone(&daemon, &mark, "an open reader");
    held.go_on();
    drop(held);
    nothing_left(&daemon, &mark, "after the reader's end");
    let source = daemon.file("source");
    std::fs::write(&source, mark.content(100_000)).expect("a file");
    // A writer that has not closed: the dirty copy.
    let line = format!(
        r#"import os; f = os.open("{tree}/pin", os.O_WRONLY | os.O_APPEND); os.write(f, open("{}", "rb").read()); print("wrote", flush=True); input()"#,
        source.display()
    );
    let mut writer = Held::start(ROOT, &format!("exec /usr/bin/python3 -c '{line}'"));
    assert_eq!(writer.line(), "wrote");
    in_the_arena_alone(&daemon, &mark, "an open writer");
    daemon.lock();
    let finds = search_memory(daemon.pid(), &mark);
    assert!(finds.is_empty(), "a lock wipes it, open or not: {finds:#?}");
    drop(writer);
    daemon.unlock();
    nothing_left(&daemon, &mark, "after the lock in the middle of writing");
}

#[track_caller]
fn in_the_arena_alone(daemon: &Daemon, mark: &Mark, what: &str) {
    let finds = search_memory(daemon.pid(), mark);
    assert!(!finds.is_empty(), "{what}: the search finds nothing");
    for find in &finds {
        let flags: Vec<&str> = find.flags.split(' ').collect();
        for (flag, means) in [("lo", "locked"), ("dd", "kept out of dumps"), ("dc", "kept from children")] {
            assert!(flags.contains(&flag), "{what}: not {means}: {find:#?}");
        }
    }
    let mapping = |find: &Find| find.mapping.clone();
    assert!(finds.iter().map(mapping).all(|m| m == mapping(&finds[0])), "{what}: in two mappings: {finds:#?}");
}

#[test]
fn what_was_composed_does_not_stay() {
    let daemon = Daemon::configured("allow_reveal = true");
    let mark = Mark::new();
    let tree = daemon.root().display().to_string();
    for size in [64, 4 << 10, 200 << 10] {
        daemon.cli_with(&["put", &format!("put-{size}")], &mark.content(size)).ok();
        let base64 = format!("[{{{{ bytes('put-{size}')|base64 }}}}]\n");
        daemon.cli_with(&["view", "add", &format!("b64-{size}"), "template", "-", "--yes"], base64.as_bytes()).ok();
        let text = hex(&mark.content(size / 2), b"0123456789abcdef");
        daemon.cli_with(&["put", &format!("hex-{size}")], &text).ok();
        let quoted = format!("{{{{ secret('hex-{size}')|shell }}}} {{{{ secret('hex-{size}')|upper|ini }}}}\n");
        daemon.cli_with(&["view", "add", &format!("quoted-{size}"), "template", "-", "--yes"], quoted.as_bytes()).ok();
        daemon.cli(&["view", "add", &format!("all-{size}"), "concat", &format!("put-{size}"), "--yes"]).ok();
        daemon
            .cli_with(&["view", "add", &format!("bad-{size}"), "template", "-", "--yes"], b"{{ secret('put-64') }}")
            .ok();
        nothing_left(&daemon, &mark, &format!("after views of {size} bytes were made"));
        for read in ["b64", "quoted", "all"] {
            sh(&format!("stat -c %s {tree}/{read}-{size} > /dev/null; cat {tree}/{read}-{size} > /dev/null")).quiet();
            nothing_in_memory(&daemon, &mark, &format!("after {read}-{size} was read"));
        }
        sh(&format!("cat {tree}/bad-{size}")).refused("No data available");
        daemon.cli(&["cat", "--reveal", &format!("quoted-{size}")]).ok();
        nothing_left(&daemon, &mark, &format!("after views of {size} bytes were read"));
    }
}
