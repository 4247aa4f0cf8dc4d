//! Programs that do what they should not, in each manner.

use super::*;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

static NOBODY: RunAs = RunAs { uid: 65534, gid: 65534, groups: Vec::new() };

fn shell<'a>(script: &str, manner: Manner<'a>, within: Duration) -> Program<'a> {
    let mut program = Program::new(Path::new("/bin/sh"), manner, Some(Instant::now() + within));
    program.args = vec!["-c".into(), script.into()];
    program
}

/// Its output, if it ended with 0.
fn said(script: &str, manner: Manner<'_>) -> String {
    let mut said = Vec::new();
    let ended = Program { stdout: Take::All(&mut said, 1 << 20), ..shell(script, manner, SOON) }.run().unwrap();
    assert_eq!(ended.code(), Some(0), "{script}: {ended:?}");
    String::from_utf8(said).unwrap()
}

/// What is written to it, and how that went: its end, and what it said.
fn told(script: &str, input: Input<'_>, within: Duration) -> (Ended, String) {
    let mut said = Vec::new();
    let program = shell(script, Manner::Group(None), within);
    let ended = Program { stdin: input, stdout: Take::First(&mut said, 100), ..program }.run().unwrap();
    (ended, String::from_utf8(said).unwrap())
}

/// How it ended whose script is called off once it has opened `$UP`.
fn called_off(script: &str, program: Program<'_>) -> Ended {
    let (folder, cancel) = (tempfile::tempdir().unwrap(), Cancel::new().unwrap());
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let up = folder.path().join("up");
    nix::unistd::mkfifo(&up, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    std::os::unix::fs::chown(&up, Some(NOBODY.uid), None).unwrap();
    let mut program = Program { cancel: Some(&cancel), args: vec!["-c".into(), script.into()], ..program };
    program.env.insert("UP".into(), up.clone().into());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Ends once somebody has opened the other end.
            std::fs::read(&up).unwrap();
            cancel.cancel();
        });
        let ended = program.run().unwrap();
        // If it did not: nobody waits for it any more.
        let _ = std::fs::File::options().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&up);
        ended
    })
}

/// Whether a process runs on, but for the moment that its end may take.
fn goes_on(pid: &str) -> bool {
    let until = Instant::now() + SOON;
    let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    while Instant::now() < until {
        if stat().is_empty() || stat().contains(") Z ") {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn a_program_that_is_alone_has_little() {
    let environment = said("env | sort | grep -v ^PWD | tr '\\n' ' '", Manner::ALONE);
    assert_eq!(environment, format!("LANG=C.UTF-8 PATH={PATH} "));
    // sh opens what it lists.
    assert_eq!(said("cd /proc/self/fd && echo *", Manner::ALONE), "0 1 2 3\n");
    let leads = "ps -o pid=,sid=,pgid= -p $$ | (read a b c; [ $a = $b ] && [ $a = $c ] && echo own)";
    assert_eq!(said(leads, Manner::ALONE), "own\n");
    assert_eq!(said("cat; pwd", Manner::ALONE), "/\n");
}

#[test]
fn a_program_of_a_command_has_our_environment_and_session() {
    let ours = said("echo $PATH; ps -o pid=,pgid= -p $$ | (read a b; [ $a = $b ] && echo leads)", Manner::Group(None));
    assert_eq!(ours, format!("{}\nleads\n", std::env::var("PATH").unwrap()));
    let session = |pid: &str| said(&format!("ps -o sid= -p {pid}"), Manner::ALONE);
    let us = session(&std::process::id().to_string());
    assert_eq!(said("ps -o sid= -p $$", Manner::Foreground), us);
    assert_eq!(said("ps -o sid= -p $$", Manner::Group(None)), us);
    assert_eq!(said("id -u; id -G", Manner::Group(Some(&NOBODY))), "65534\n65534\n");
    assert_eq!(said("id -u; id -G", Manner::Apart(&NOBODY)), "65534\n65534\n");
}

#[test]
fn what_is_kept_is_there_under_its_number() {
    let fd = crate::sys::memfd::with("test", b"kept").unwrap();
    let script = format!("cat /proc/self/fd/{}", fd.as_raw_fd());
    assert_eq!(said(&script, Manner::Alone { keep: Some(fd), file_max: None }), "kept");
}

#[test]
fn files_do_not_grow_beyond_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    let script = format!("head -c 100000 /dev/zero > {}", file.display());
    let manner = Manner::Alone { keep: None, file_max: Some(1000) };
    assert_ne!(shell(&script, manner, SOON).run().unwrap().code(), Some(0));
    assert_eq!(std::fs::metadata(file).unwrap().len(), 1000);
}

#[test]
fn how_it_ended_is_told() {
    for manner in [Manner::ALONE, Manner::Foreground, Manner::Group(None), Manner::Apart(&NOBODY)] {
        assert_eq!(shell("exit 3", manner, SOON).run().unwrap().code(), Some(3));
    }
    let End::Itself(status) = shell("kill -9 $$", Manner::ALONE, SOON).run().unwrap().end else { panic!() };
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(shell("kill -9 $$", Manner::Apart(&NOBODY), SOON).run().unwrap().code(), Some(137));
    for manner in [Manner::ALONE, Manner::Foreground, Manner::Group(None), Manner::Apart(&NOBODY)] {
        let missing = Program::new(Path::new("/nonexistent"), manner, Some(Instant::now() + SOON));
        assert_eq!(missing.run().unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[test]
fn each_output_is_kept_as_asked() {
    let script = "seq 1 20000; echo err >&2";
    let (mut out, mut err, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let program = shell(script, Manner::ALONE, SOON);
    let both = Program { stdout: Take::First(&mut out, 10), stderr: Take::All(&mut err, 4), ..program };
    assert_eq!(both.run().unwrap().code(), Some(0));
    assert_eq!((out.as_slice(), err.as_slice()), (&b"1\n2\n3\n4\n5\n"[..], &b"err\n"[..]));
    let program = shell(script, Manner::Apart(&NOBODY), SOON);
    let along = Program { stdout: Take::Last(&mut all, 10), stderr: Take::Along, ..program };
    assert_eq!(along.run().unwrap().code(), Some(0));
    assert_eq!(all, b"20000\nerr\n");
    let mut secret = Secret::zeroed(0).unwrap();
    let program = shell("head -c 100000 /dev/zero", Manner::Apart(&NOBODY), SOON);
    let whole = Program { stdout: Take::Secret(&mut secret, 100_000), ..program };
    assert_eq!(whole.run().unwrap().code(), Some(0));
    assert_eq!(secret.len(), 100_000);
}

#[test]
fn one_that_says_too_much_is_ended() {
    let begun = Instant::now();
    for (script, manner) in [
        ("yes", Manner::ALONE),
        ("exec yes", Manner::Foreground),
        ("trap '' PIPE; yes 2>/dev/null; sleep 1000", Manner::Group(None)),
        ("yes", Manner::Apart(&NOBODY)),
    ] {
        let mut said = Vec::new();
        let ended = Program { stdout: Take::All(&mut said, 5000), ..shell(script, manner, SOON) }.run().unwrap();
        assert!(matches!(ended.end, End::TooMuch), "{script}: {ended:?}");
        assert!(said.len() <= 5000);
    }
    let mut secret = Secret::zeroed(0).unwrap();
    let program = shell("echo 12345", Manner::Apart(&NOBODY), SOON);
    let ended = Program { stdout: Take::Secret(&mut secret, 5), ..program }.run().unwrap();
    assert!(matches!(ended.end, End::TooMuch), "also one that has ended by itself: {ended:?}");
    assert!(begun.elapsed() < SOON);
}

#[test]
fn the_input_is_written_and_closed() {
    let (ended, said) = told("cat; echo end", Input::Bytes(b"hello\n"), SOON);
    assert_eq!((ended.code(), ended.sent, said.as_str()), (Some(0), true, "hello\nend\n"));
    let (ended, said) = told("wc -c", Input::Bytes(&vec![b'x'; 1 << 20]), SOON);
    assert_eq!((ended.sent, said.as_str()), (true, "1048576\n"), "more than a pipe holds");
    let (ended, said) = told("exec <&-; echo answer", Input::Bytes(&vec![b'x'; 1 << 20]), SOON);
    assert_eq!((ended.code(), ended.sent, said.as_str()), (Some(0), false, "answer\n"), "it did not want it");
    let file = crate::sys::memfd::with("test", b"").unwrap();
    assert_eq!(told("cat", Input::File(file), SOON).1, "");
}

#[test]
fn what_is_not_ready_is_sent_nothing() {
    let late = Duration::from_millis(200);
    let (ended, said) = told("read -r p; echo \"$p\"", Input::After("ready", b"hunter2\n"), late);
    assert_eq!((ended.sent, said.as_str()), (false, ""), "its input was closed");
    assert!(matches!(ended.end, End::Late));
    let (ended, said) = told("echo ready; read -r p; echo \"$p\"", Input::After("ready", b"hunter2\n"), SOON);
    assert_eq!((ended.sent, said.as_str()), (true, "ready\nhunter2\n"));
    let (ended, said) = told("echo ready; exec >&-; read -r p && exit 7", Input::After("ready", b"x\n"), SOON);
    assert_eq!((ended.sent, ended.code(), said.as_str()), (true, Some(7), "ready\n"));
    let (ended, _) = told("exit 255", Input::After("ready", b"hunter2\n"), SOON);
    assert_eq!((ended.sent, ended.code()), (false, Some(255)));
    // Asked to end, it says that it is ready: nothing is sent any more.
    let mut said = Vec::new();
    let program = shell("", Manner::Group(None), SOON);
    let (stdin, stdout) = (Input::After("ready", b"hunter2\n"), Take::First(&mut said, 100));
    let script = "trap 'echo ready; read -r p; echo \"$p\"; exit 0' TERM; : >$UP; while :; do sleep 0.05; done";
    let ended = called_off(script, Program { stdin, stdout, ..program });
    assert_eq!((ended.sent, said.as_slice()), (false, &b"ready\n"[..]));
}

#[test]
fn its_number_is_known_before_it_hears_anything() {
    let (seen, mut said) = (std::cell::Cell::new(0), Vec::new());
    let program = Program {
        started: Some(&|pid| seen.set(pid)),
        stdout: Take::All(&mut said, 100),
        ..shell("echo $$", Manner::ALONE, SOON)
    };
    program.run().unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), format!("{}\n", seen.get()));
}

#[test]
fn what_does_not_end_is_ended_with_all_it_started() {
    for manner in [Manner::ALONE, Manner::Group(None)] {
        // One that ignores the request, with a child that does, too.
        let script = "trap '' TERM; echo $$; sh -c 'trap \"\" TERM; echo $$; : >$UP; sleep 1000' & wait";
        let mut pids = Vec::new();
        let program = shell("", manner, SOON);
        let ended = called_off(script, Program { stdout: Take::All(&mut pids, 100), ..program });
        assert!(matches!(ended.end, End::Cancelled) && !ended.lingers, "{ended:?}");
        let pids = String::from_utf8(pids).unwrap();
        assert_eq!(pids.lines().count(), 2);
        for pid in pids.lines() {
            assert!(!goes_on(pid), "{pid} is still there");
        }
    }
}

#[test]
fn one_that_is_asked_may_say_why_it_ends() {
    let mut said = Vec::new();
    // More than a pipe holds: it is listened to.
    let script = "trap 'head -c 200000 /dev/zero; echo bye; exit 1' TERM; : >$UP; while :; do sleep 0.05; done";
    let program = shell("", Manner::Apart(&NOBODY), SOON);
    let ended = called_off(script, Program { stdout: Take::Last(&mut said, 4), ..program });
    assert!(matches!(ended.end, End::Cancelled), "{ended:?}");
    assert_eq!(said, b"bye\n");
}

#[test]
fn who_is_told_to_stop_stops_and_stays_told() {
    let program = shell("", Manner::ALONE, SOON * 10);
    assert!(matches!(called_off(": >$UP; exec sleep 1000", program).end, End::Cancelled));
    let cancel = Cancel::new().unwrap();
    cancel.cancel();
    let again = Program { cancel: Some(&cancel), ..shell("true", Manner::ALONE, SOON) };
    assert!(matches!(again.run().unwrap().end, End::Cancelled));
}

#[test]
fn what_holds_the_output_open_is_not_waited_for() {
    let begun = Instant::now();
    for manner in [Manner::ALONE, Manner::Group(None)] {
        let left = said("sleep 1000 & echo $!", manner);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(left.trim().parse().unwrap()), nix::sys::signal::SIGKILL)
            .unwrap();
    }
    // Nor is one that never stops talking.
    let mut said = Vec::new();
    let program = shell("yes & exit 4", Manner::Group(None), SOON);
    let flooded = Program { stdout: Take::First(&mut said, 100), ..program };
    assert_eq!(flooded.run().unwrap().code(), Some(4));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}
