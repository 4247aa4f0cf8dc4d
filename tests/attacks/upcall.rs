//! Keys on request in another's name: from inside our own program, and from a helper that the kernel really started.
//!
//! The second has its own rule of request-key(8) while it runs, as `upcall` has.

use super::authority::{OPERATOR, OWNER, STRANGER, enrol, program, start};
use crate::common::process::{User, run};
use crate::upcall::{World, by, request};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// Runs `pinfold --version` as somebody, with a library of his own in it that asks for a key.
fn preloaded(user: User, library: &str, socket: &str, message: &Value) -> String {
    let mut command = user.command(env!("CARGO_BIN_EXE_pinfold"));
    command.arg("--version").env("LD_PRELOAD", library).env("SOCKET", socket).env("MESSAGE", message.to_string());
    run(command, b"", "pinfold --version").text()
}

#[test]
fn a_library_in_our_own_program_gets_no_key() {
    let daemon = start("");
    enrol(&daemon, "svc/pin", "4711");
    let library = daemon.file("preload.so");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(program("preload.c")).output();
    let built = built.expect("a C compiler");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut victim = OWNER.command("/bin/sleep");
    let mut victim = victim.arg("100").stdin(Stdio::null()).spawn().expect("sleep");
    let parameters = json!({"path": "svc/pin", "tid": victim.id(), "key": 1, "auth": 2});
    let message = json!({"method": "org.pinfold.KeyRequest", "parameters": parameters});
    let (library, socket) = (library.display().to_string(), daemon.file("control.sock").display().to_string());
    let answers = [crate::common::ROOT, OPERATOR].map(|user| (user.uid, preloaded(user, &library, &socket, &message)));
    victim.kill().expect("it is our child");
    victim.wait().expect("it is our child");
    for (uid, answer) in answers {
        assert!(answer.contains("ANSWER {") && answer.contains("org.pinfold.Refused"), "{uid}: {answer}");
        assert!(!answer.contains("content"), "{uid}: {answer}");
        // Whoever asked is on record, and not the one he asked for.
        daemon.await_audit("the asker", |e| e["decision"] == "denied" && e["uid"] == uid);
    }
    assert!(!daemon.audit().iter().any(|e| e["uid"] == OWNER.uid && e["op"] == "open"), "nothing in the victim's name");
}

#[test]
fn a_helper_that_lies_gets_no_key() {
    let claims_of = |world: &World, claims: &[Value]| {
        std::fs::write(world.home.path().join("claims"), Value::from(claims.to_vec()).to_string()).expect("it is ours");
    };
    let world = World::with_helper(|home| {
        let at = |name: &str| home.join(name).display().to_string();
        format!("/usr/bin/python3 {} {} {} {}", program("lie.py"), at("run/control.sock"), at("claims"), at("answers"))
    });
    world.put("svc/own", STRANGER.uid, "his own");
    world.put("svc/pin", OWNER.uid, "4711");
    let mut victim = OWNER.command("/bin/sleep");
    let mut victim = victim.arg("100").stdin(Stdio::null()).spawn().expect("sleep");
    claims_of(
        &world,
        &[
            json!({}),
            json!({"path": "svc/pin"}),
            json!({"path": "svc/pin", "tid": victim.id()}),
            json!({"tid": victim.id()}),
            json!({"auth": 1}),
            json!({"key": 1}),
        ],
    );
    let (made, _) = by(STRANGER.uid, &request("svc/own"));
    victim.kill().expect("it is our child");
    victim.wait().expect("it is our child");
    assert!(!made, "the helper made no key");
    let answers = std::fs::read_to_string(world.home.path().join("answers")).expect("the helper ran");
    let answers: Vec<String> = serde_json::from_str(&answers).expect("a list");
    // The truth is answered: "his own".
    assert!(answers[0].contains("aGlzIG93bg=="), "{answers:?}");
    for answer in &answers[1..] {
        assert!(answer.contains("org.pinfold.Refused") && !answer.contains("content"), "{answers:?}");
    }
    world.recorded("allowed", STRANGER.uid, "svc/own");
    // A refusal is written a moment after its answer.
    world.until("the helper to be on record", || {
        world.audit().iter().any(|e| e["decision"] == "denied" && e["uid"] == 0 && e["op"] == "open")
    });
    let audit = world.audit();
    assert!(!audit.iter().any(|e| e["decision"] == "allowed" && e["path"] == "svc/pin" && e["op"] == "open"));
    // What it may have, it has in the name of who asked, and that says through whom.
    let line = audit.iter().find(|e| e["op"] == "open" && e["uid"] == STRANGER.uid).expect("its line");
    assert!(line["through"].as_str().is_some_and(|t| t.contains("python")), "{line}");
}
