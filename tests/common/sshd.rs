//! A real OpenSSH server on loopback, with an account of its own, for tests on the host and in the lab.
//!
//! Owns its keys, its configuration, its account and its processes, and takes all of them away again, also when a test
//! fails. It touches neither /etc/ssh nor anybody's ~/.ssh. Needs root.

use super::wait_for;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const SSHD: &str = "/usr/sbin/sshd";

/// What the account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// internal-sftp in a chroot of root's, by key; it can write its `inbox` there and nothing else.
    Upload,
    /// A shell, by key or by this password.
    Shell(&'static str),
}

/// A running server. Dropping it ends it.
pub struct Sshd {
    folder: PathBuf,
    server: Option<Child>,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// The account's name.
    pub user: String,
    pub uid: u32,
    pub gid: u32,
    login: Login,
}

impl Sshd {
    /// Makes the account, and starts the server.
    pub fn start(login: Login) -> Sshd {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "this test makes an account and starts sshd: run it as root");
        assert!(Path::new(SSHD).exists(), "{SSHD} is missing: run 'tests/lab/lab deps'");
        let tag = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Below a folder that root alone can write, all the way up: sshd asks that of a chroot.
        let folder = PathBuf::from(format!("/run/pinfold-sshd-{tag}"));
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound").port();
        let user = format!("pft{tag}");
        let mut sshd = Sshd { folder, server: None, port, user, uid: 0, gid: 0, login };
        sshd.set_up();
        sshd.run();
        sshd
    }

    fn set_up(&mut self) {
        fs::create_dir(&self.folder).expect("a folder of its own");
        fs::set_permissions(&self.folder, PermissionsExt::from_mode(0o755)).expect("it is ours");
        let home = self.folder.join("home");
        let home = home.display();
        let shell = if self.login == Login::Upload { "/usr/sbin/nologin" } else { "/bin/sh" };
        // Not locked: without PAM sshd refuses a locked account whatever it shows.
        sh(&format!(
            "useradd --no-create-home --no-user-group --gid nogroup --home-dir {home} --shell {shell} -p '*' {}",
            self.user
        ));
        let user = nix::unistd::User::from_name(&self.user).ok().flatten().expect("it was just made");
        (self.uid, self.gid) = (user.uid.as_raw(), user.gid.as_raw());
        if let Login::Shell(password) = self.login {
            sh(&format!("echo '{}:{password}' | chpasswd", self.user));
            fs::create_dir(self.folder.join("home")).expect("a home");
            chown(self.folder.join("home"), Some(self.uid), Some(self.gid)).expect("we are root");
        }
        let dir = self.folder.display();
        for key in ["host", "other_host", "user", "other_user"] {
            sh(&format!("ssh-keygen -q -t ed25519 -N '' -C {key} -f {dir}/{key}"));
        }
        sh(&format!("mkdir -p {dir}/root/inbox /run/sshd && cp {dir}/user.pub {dir}/authorized_keys"));
        chown(self.inbox(), Some(self.uid), Some(self.gid)).expect("we are root");
        fs::set_permissions(self.inbox(), PermissionsExt::from_mode(0o700)).expect("we are root");
        let login = match self.login {
            Login::Upload => {
                format!("PasswordAuthentication no\nChrootDirectory {dir}/root\nForceCommand internal-sftp\n")
            }
            Login::Shell(_) => "PasswordAuthentication yes\n".to_owned(),
        };
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {}\nHostKey {dir}/host\nPidFile none\nUsePAM no\nUseDNS no\n\
             AuthorizedKeysFile {dir}/authorized_keys\nAllowUsers {}\nSubsystem sftp internal-sftp\n\
             AllowTcpForwarding no\nX11Forwarding no\nKbdInteractiveAuthentication no\n{login}",
            self.port, self.user
        );
        fs::write(self.folder.join("sshd_config"), config).expect("it is ours");
        self.trust("host", "user");
    }

    /// Writes the client's configuration: the host key it knows, and the key it has.
    pub fn trust(&self, host_key: &str, user_key: &str) {
        let dir = self.folder.display();
        let host = fs::read_to_string(self.folder.join(format!("{host_key}.pub"))).expect("it was made");
        fs::write(self.folder.join("known_hosts"), format!("[127.0.0.1]:{} {host}", self.port)).expect("it is ours");
        let config = format!(
            "Host *\n  IdentityFile {dir}/{user_key}\n  IdentitiesOnly yes\n  IdentityAgent none\n  \
             UserKnownHostsFile {dir}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        );
        fs::write(self.client_config(), config).expect("it is ours");
    }

    /// From now on it reads these keys, of any account that is there, root's included.
    pub fn read_keys_from(&mut self, files: &str) {
        let text = fs::read_to_string(self.folder.join("sshd_config")).expect("it was written");
        let kept =
            text.lines().filter(|line| !line.starts_with("AuthorizedKeysFile") && !line.starts_with("AllowUsers"));
        let lines: Vec<&str> = kept.collect();
        let config =
            format!("AuthorizedKeysFile {files}\nPermitRootLogin yes\nStrictModes yes\n{}\n", lines.join("\n"));
        self.kill();
        fs::write(self.folder.join("sshd_config"), config).expect("it is ours");
        self.run();
    }

    /// What a shell of this account says to a script, logged in with one of the keys `user` and `other_user`: as on a terminal,
    /// so that its profile is read.
    pub fn login(&self, account: &str, key: &str, script: &str) -> super::Out {
        let dir = self.folder.display();
        let ssh = format!(
            "echo '{script}' | ssh -T -F none -p {} -i {dir}/{key} -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes \
             -o StrictHostKeyChecking=yes -o UserKnownHostsFile={dir}/known_hosts -o GlobalKnownHostsFile=/dev/null \
             -o ConnectTimeout=20 -o LogLevel=ERROR {account}@127.0.0.1",
            self.port
        );
        super::sh(&ssh)
    }

    /// The public half of the key `user` or `other_user`: a line of `authorized_keys`.
    pub fn public(&self, key: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{key}.pub"))).expect("it was made").trim().to_owned()
    }

    /// An ssh_config(5) for clients, with the key and the known host.
    pub fn client_config(&self) -> PathBuf {
        self.folder.join("ssh_config")
    }

    /// The folder the upload account sees as `/inbox`.
    pub fn inbox(&self) -> PathBuf {
        self.folder.join("root/inbox")
    }

    /// What the server wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts the server; it answers when this returns.
    pub fn run(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("it is ours");
        let mut command = Command::new(SSHD);
        command.arg("-D").arg("-e").arg("-f").arg(self.folder.join("sshd_config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().expect("sshd can be started"));
        wait_for("sshd", Duration::from_secs(20), || {
            let server = self.server.as_mut().expect("it was just started");
            if let Ok(Some(status)) = server.try_wait() {
                panic!("sshd ended: {status}: {}", self.log());
            }
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    /// Ends the server and its sessions at once.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            for pid in descendants(server.id()) {
                kill(pid);
            }
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("sshd said: {}", self.log());
        }
        self.kill();
        // A session whose parent was gone before it.
        for pid in processes_of(self.uid) {
            kill(pid);
        }
        for command in [vec!["umount", "-q", self.inbox().to_str().expect("plain")], vec!["userdel", "-f", &self.user]]
        {
            let _ = Command::new(command[0]).args(&command[1..]).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

fn descendants(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<u32> = children.split_whitespace().filter_map(|c| c.parse().ok()).collect();
    children.into_iter().flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}

/// Of an account that was made for this server alone.
fn processes_of(uid: u32) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let number = |e: fs::DirEntry| e.file_name().to_str()?.parse::<u32>().ok();
    let is_its = |pid: &u32| uid != 0 && fs::metadata(format!("/proc/{pid}")).is_ok_and(|m| m.uid() == uid);
    all.flatten().filter_map(number).filter(is_its).collect()
}

fn sh(script: &str) {
    let done = Command::new("/bin/sh").args(["-e", "-c", script]).stdin(Stdio::null()).output().expect("a shell");
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}
