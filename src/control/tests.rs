//! The socket with a fake core behind it: conversations, strangers, and clients that mean harm.

use super::client::{Client, ClientError};
use super::*;
use crate::model::{SecretPath, Timestamp};
use crate::secret::Secret;
use crate::wire::*;
use std::os::unix::fs::MetadataExt;

/// A core that remembers what it was asked.
#[derive(Default)]
struct Fake {
    put: Mutex<Option<(Put, Actor)>>,
    denied: Mutex<Vec<(u32, String)>>,
    entries: usize,
}

fn path(p: &str) -> SecretPath {
    SecretPath::parse(p).unwrap()
}

impl Admin for Fake {
    fn enter(&self, _: &Actor) -> Result<(), Fault> {
        Ok(())
    }
    fn permit(&self, actor: &Actor, right: Right, _: &str) -> Result<(), Fault> {
        right.permits(actor.uid == 0, actor.proven)
    }
    fn prove(&self, _: &Actor, with: UnlockWith) -> Result<(), Fault> {
        match with {
            UnlockWith::Passphrase(p) if p.expose() == b"open sesame" => Ok(()),
            _ => Err(Fault::Refused("that does not open the store".into())),
        }
    }
    fn backup(&self, _: &Actor, out: &mut dyn Write) -> Result<BackupReport, Fault> {
        let bytes: Vec<u8> = (0..1_000_003u32).map(|n| n as u8).collect();
        out.write_all(&bytes).map_err(|e| Fault::Failed(e.to_string()))?;
        Ok(BackupReport { generation: 9, nodes: 1, blobs: 1, bytes: bytes.len() as u64 })
    }
    fn denied(&self, actor: &Actor, reason: &str) {
        self.denied.lock().push((actor.uid, reason.into()));
    }
}

impl Serve<GetStatus> for Fake {
    fn serve(&self, _: &Actor, _: GetStatus) -> Result<Status, Fault> {
        Ok(Status { pid: 42, locked_since: Some(Timestamp { secs: 0, nanos: 0 }), ..Status::default() })
    }
}

impl Serve<Unlock> for Fake {
    fn serve(&self, _: &Actor, asked: Unlock) -> Result<Done, Fault> {
        match UnlockWith::one_of(asked.passphrase, asked.identity, asked.recovery)? {
            UnlockWith::Passphrase(p) if p.expose() == b"open sesame" => Ok(Done {}),
            UnlockWith::Passphrase(_) => Err(Fault::Refused("that does not open the store".into())),
            UnlockWith::Identity(_) | UnlockWith::Recovery(_) => Err(Fault::NothingToDo("it is unlocked".into())),
        }
    }
}

impl Serve<Lock> for Fake {
    fn serve(&self, _: &Actor, _: Lock) -> Result<Done, Fault> {
        panic!("on purpose")
    }
}

impl Serve<List> for Fake {
    fn serve(&self, _: &Actor, list: List) -> Result<Listing, Fault> {
        if list.path == path("missing") {
            return Err(Fault::NotFound("missing is not there".into()));
        }
        let entry = |n: usize| Entry {
            path: path(&format!("d/{n:06}")),
            kind: NodeKind::File,
            size: 3,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: Timestamp { secs: 1, nanos: 5000 },
            version: Some(1),
            acl: false,
            conditions: false,
            target: None,
            scope: "host".into(),
        };
        Ok(Listing { entries: (0..self.entries).map(entry).collect() })
    }
}

impl Serve<Put> for Fake {
    fn serve(&self, actor: &Actor, put: Put) -> Result<Committed, Fault> {
        *self.put.lock() = Some((put, *actor));
        Ok(Committed { version: 3 })
    }
}

impl Serve<Reveal> for Fake {
    fn serve(&self, _: &Actor, _: Reveal) -> Result<Revealed, Fault> {
        Ok(Revealed { content: Secret::copy_of(b"hunter2")? })
    }
}

impl Serve<Remove> for Fake {
    fn serve(&self, _: &Actor, _: Remove) -> Result<Removed, Fault> {
        Ok(Removed { nodes: 1, purged: 0 })
    }
}

crate::serves!(Fake: stream Prove, stream Backup, one GetStatus, one Unlock, one Lock, parts List, one Put, secret Reveal, one Remove);

struct Rig {
    config: Config,
    fake: Arc<Fake>,
    server: Option<Server>,
    // Last: what writes there ends before it.
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(fake: Fake, peer_of: Box<PeerOf>) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("run/control.sock");
        let config = Config { control, max_secret_size: 256 << 10, ..Config::default() };
        let fake = Arc::new(fake);
        let mut server = Server::bind_with(&config, fake.clone(), peer_of).unwrap();
        server.run().unwrap();
        Rig { _dir: dir, config, fake, server: Some(server) }
    }

    /// As if everybody were root, so that the tests need not be.
    fn friendly(fake: Fake) -> Rig {
        Rig::new(fake, Box::new(|s| Peer::of(s).map(|p| Peer { actor: Actor { uid: 0, ..p.actor }, ..p })))
    }

    fn client(&self) -> Client {
        Client::connect(&self.config).unwrap()
    }

    /// Sends bytes, gives back everything that is answered until the daemon closes.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.config.control).unwrap();
        // The daemon may hang up before all is sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}

#[test]
fn a_secret_goes_in_and_comes_out() {
    let rig = Rig::friendly(Fake::default());
    let mut client = rig.client();
    let content: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let put = Put {
        path: path("svc/pin"),
        uid: None,
        gid: Some(5),
        mode: Some(0o640),
        parents: true,
        content: Secret::copy_of(&content).unwrap(),
    };
    assert_eq!(client.call(&put).unwrap().version, 3);
    let (got, actor) = rig.fake.put.lock().take().unwrap();
    assert_eq!(got.content.expose(), content);
    assert_eq!((got.path, got.gid, got.mode, got.parents), (path("svc/pin"), Some(5), Some(0o640), true));
    assert_eq!(actor.pid, i32::try_from(std::process::id()).unwrap());
    let shown = client.call(&Reveal { path: path("svc/pin"), version: None }).unwrap();
    assert_eq!(shown.content.expose(), b"hunter2");
}

#[test]
fn faults_come_back_as_what_they_are() {
    let rig = Rig::friendly(Fake::default());
    let mut client = rig.client();
    let with = |p: &[u8]| Unlock { passphrase: Some(Secret::copy_of(p).unwrap()), ..Unlock::default() };
    client.call(&with(b"open sesame")).unwrap();
    let error = client.call(&with(b"wrong")).unwrap_err();
    assert_eq!(error.exit(), crate::exit::Exit::Refused);
    let both = Unlock { identity: Some(Secret::zeroed(1).unwrap()), ..with(b"x") };
    assert_eq!(client.call(&both).unwrap_err().exit(), crate::exit::Exit::Usage);
    let list = List { path: path("missing"), recursive: false, itself: false };
    assert_eq!(client.call(&list).unwrap_err().exit(), crate::exit::Exit::NotFound);
    let status = client.call(&GetStatus {}).unwrap();
    assert_eq!(status.pid, 42, "the connection survives faults");
}

#[test]
fn a_panic_harms_nobody_else() {
    let rig = Rig::friendly(Fake::default());
    let mut client = rig.client();
    let error = client.call(&Lock {}).unwrap_err();
    assert!(matches!(&error, ClientError::Call(CallError::Fault(Fault::Failed(r))) if r.contains("bug")), "{error}");
    client.call(&GetStatus {}).unwrap();
}

#[test]
fn long_answers_come_in_parts() {
    let rig = Rig::friendly(Fake { entries: 1201, ..Fake::default() });
    let mut client = rig.client();
    let list = List { path: SecretPath::root(), recursive: true, itself: false };
    let (mut parts, mut all) = (0, Vec::new());
    client
        .stream(&list, |part| {
            parts += 1;
            all.extend(part.entries);
            Ok::<_, ClientError>(())
        })
        .unwrap();
    assert_eq!((parts, all.len()), (3, 1201));
    assert!(all.windows(2).all(|w| w[0].path < w[1].path));
    assert_eq!(client.call(&list).unwrap().entries, all, "and in one without 'more'");

    let (mut tar, mut report) = (Vec::new(), None);
    client
        .stream(&Backup {}, |part| {
            tar.extend(part.data);
            report = part.report;
            Ok::<_, ClientError>(())
        })
        .unwrap();
    assert_eq!(report.unwrap().generation, 9);
    assert!(tar.len() == 1_000_003 && tar.iter().enumerate().all(|(i, b)| *b == i as u8));
    assert!(matches!(client.call(&Backup {}), Err(ClientError::Call(CallError::ExpectedMore))));
}

#[test]
fn each_method_is_answered_as_the_table_says() {
    // Who asks is root, or an operator: a member of a group that every system has.
    for root in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("run/control.sock");
        let config = Config { control, operator_group: Some("daemon".into()), ..Config::default() };
        let gid = config.operator_gid().unwrap().unwrap();
        let uid = if root { 0 } else { 1234 };
        let peer = move |s: &UnixStream| Peer::of(s).map(|p| Peer { actor: Actor::new(uid, gid, p.actor.pid), ..p });
        let mut server = Server::bind_with(&config, Arc::new(Fake::default()), Box::new(peer)).unwrap();
        server.run().unwrap();
        let rig = Rig { _dir: dir, config, fake: Arc::default(), server: Some(server) };
        let prove = "{\"method\":\"org.pinfold.Prove\",\"parameters\":{\"passphrase\":\"b3BlbiBzZXNhbWU=\"}}\0";
        for (method, right) in METHODS.iter().copied() {
            for proven in [false, true] {
                let call = format!("{}{{\"method\":\"{method}\"}}\0", if proven { prove } else { "" });
                let answers = rig.raw(call.as_bytes());
                let answer = answers.split('\0').nth(usize::from(proven)).unwrap();
                let (unproven, refused) =
                    (answer.contains("org.pinfold.Unproven"), answer.contains("kernel starts alone"));
                let expected = match right {
                    Right::Operator | Right::Part | Right::Carried => (false, false),
                    Right::Root => (!root && !proven, false),
                    Right::Proof => (!proven, false),
                    Right::Kernel => (false, !root),
                };
                assert_eq!((unproven, refused), expected, "{method} root={root} proven={proven}: {answers}");
            }
        }
        // For the next call alone, right or wrong.
        let wrong = prove.replace("b3BlbiBzZXNhbWU=", "b3Blbg==");
        let extract = "{\"method\":\"org.pinfold.Extract\",\"parameters\":{\"path\":\"a\"}}\0";
        for (calls, last) in [
            (format!("{prove}{extract}"), true),
            (format!("{prove}{extract}{extract}"), false),
            (format!("{prove}{{\"method\":\"org.pinfold.Status\"}}\0{extract}"), false),
            (format!("{wrong}{extract}"), false),
            (format!("{prove}{wrong}{extract}"), false),
        ] {
            let answers = rig.raw(calls.as_bytes());
            let answer = answers.trim_end_matches('\0').rsplit('\0').next().unwrap();
            assert_eq!(!answer.contains("Unproven"), last, "{calls}: {answers}");
        }
        assert!(rig.raw(b"{\"method\":\"org.pinfold.NoRow\"}\0").contains("MethodNotFound"));
    }
}

#[test]
fn any_varlink_client_can_ask_what_there_is() {
    let rig = Rig::friendly(Fake::default());
    let info = rig.raw(b"{\"method\":\"org.varlink.service.GetInfo\"}\0");
    assert!(info.contains("\"interfaces\":[\"org.varlink.service\",\"org.pinfold\"]"), "{info}");
    for (interface, has) in [("org.pinfold", "method Put("), ("org.varlink.service", "method GetInfo(")] {
        let ask = format!(
            "{{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{{\"interface\":\"{interface}\"}}}}\0"
        );
        assert!(rig.raw(ask.as_bytes()).contains(has), "{interface}");
    }
    let ask = b"{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"x.y\"}}\0";
    assert!(rig.raw(ask).contains("org.varlink.service.InterfaceNotFound"));
}

#[test]
fn hostile_frames_get_an_error_or_silence() {
    let rig = Rig::friendly(Fake::default());
    let deep = format!("{{\"method\":\"org.pinfold.List\",\"parameters\":{{\"path\":{}", "[".repeat(100_000));
    let huge = vec![b' '; 2 << 20];
    for (bytes, says) in [
        (&b"{\"method\":\"org.pinfold.Status\"}"[..], ""),
        (&b"\0"[..], "InvalidParameter"),
        (&b"GET / HTTP/1.1\r\n\r\n\0"[..], "InvalidParameter"),
        (&b"{\"method\":\"org.pinfold.Nix\"}\0"[..], "MethodNotFound"),
        (&b"{\"method\":\"com.example.Nix\"}\0"[..], "InterfaceNotFound"),
        (&b"{\"method\":\"org.pinfold.List\",\"parameters\":{\"path\":7}}\0"[..], "InvalidParameter"),
        (&b"{\"method\":\"org.pinfold.List\",\"parameters\":{\"path\":\"../x\"}}\0"[..], "InvalidParameter"),
        (&b"{\"method\":\"org.pinfold.Status\",\"oneway\":true}\0"[..], ""),
        (&[deep.as_bytes(), b"\0"].concat()[..], "InvalidParameter"),
        (&huge[..], "longer than"),
    ] {
        let answer = rig.raw(bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        match says {
            "" => assert_eq!(answer, "", "{shown}"),
            says => assert!(answer.contains(says), "{shown}: {answer}"),
        }
    }
    rig.client().call(&GetStatus {}).unwrap();
}

#[test]
fn calls_may_be_sent_ahead() {
    let rig = Rig::friendly(Fake::default());
    let answers = rig.raw(&b"{\"method\":\"org.pinfold.Status\"}\0".repeat(50));
    assert_eq!(answers.matches('\0').count(), 50);
}

#[test]
fn strangers_are_refused_and_recorded() {
    let stranger =
        |s: &UnixStream| Peer::of(s).map(|p| Peer { actor: Actor { uid: 1234, ..p.actor }, groups: vec![], ..p });
    let rig = Rig::new(Fake::default(), Box::new(stranger));
    assert_eq!(rig.raw(b"{\"method\":\"org.pinfold.Status\"}\0"), "", "not a word");
    assert_eq!(rig.raw(b"{\"method\":\"org.varlink.service.GetInfo\"}\0"), "");
    rig.fake.denied.lock().truncate(1);
    assert_eq!(*rig.fake.denied.lock(), [(1234, "uid 1234 is not root, and there is no operator_group".to_owned())]);
    let unknown = Rig::new(Fake::default(), Box::new(|_| Err(io::Error::other("no"))));
    assert_eq!(unknown.raw(b"{\"method\":\"org.pinfold.Status\"}\0"), "");
}

#[test]
fn whoever_left_the_connection_behind_is_nobody() {
    // A pidfd is readable once its process has ended, as a socket is once its other end is closed.
    let (ended, _) = UnixStream::pair().unwrap();
    let pidfd: Mutex<Option<_>> = Mutex::new(Some(ended.into()));
    let rig = Rig::new(
        Fake::default(),
        Box::new(move |s| {
            let peer = Peer::of(s)?;
            Ok(Peer { actor: Actor { uid: 0, ..peer.actor }, process: pidfd.lock().take(), ..peer })
        }),
    );
    let error = rig.client().call(&GetStatus {}).unwrap_err();
    assert!(error.to_string().contains("has ended"), "{error}");
    assert_eq!(rig.fake.denied.lock().len(), 1);
}

#[test]
fn too_many_connections_are_told_so() {
    let rig = Rig::friendly(Fake::default());
    let mut held: Vec<Client> = (0..32).map(|_| rig.client()).collect();
    for client in &mut held {
        client.call(&GetStatus {}).unwrap();
    }
    let error = rig.client().call(&GetStatus {}).unwrap_err();
    assert!(error.to_string().contains("too many connections"), "{error}");
    held.clear();
    // The threads see the end of their connections in their own time; each try is a new connection.
    let again = (0..1000).find_map(|_| rig.client().call(&GetStatus {}).ok());
    assert!(again.is_some());
}

#[test]
fn stopping_removes_the_socket_and_ends_connections() {
    let mut rig = Rig::friendly(Fake::default());
    let mut idle = rig.client();
    idle.call(&GetStatus {}).unwrap();
    assert_eq!(std::fs::metadata(&rig.config.control).unwrap().mode() & 0o777, 0o600);
    rig.server.take().unwrap().stop();
    assert!(!rig.config.control.exists());
    assert!(matches!(idle.call(&GetStatus {}), Err(ClientError::Gone)));
    let error = Client::connect(&rig.config).err().unwrap();
    assert_eq!(error.exit(), crate::exit::Exit::Unreachable);
    assert!(error.hint().unwrap().contains("pinfold mount"));
}
