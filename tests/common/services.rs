//! Real services of the lab, configured to read their secrets beneath a folder: the tree, or plain files.
//!
//! Owns /etc/nginx/nginx.conf, /etc/ssh/sshd_config and the directory server's instance; the lab is thrown away. Each is
//! run by systemd with its package's own unit, on loopback, and stopped when dropped.

use super::process::{Out, sh};
use super::wait_for;
use std::path::Path;
use std::time::Duration;

/// A unit that is stopped when dropped.
pub struct Unit(&'static str);

impl Unit {
    /// `systemctl start`; how it ended.
    pub fn start(&self) -> Out {
        sh(&format!("systemctl reset-failed {0} 2>/dev/null; systemctl start {0}", self.0))
    }

    /// `systemctl stop`.
    pub fn stop(&self) {
        sh(&format!("systemctl stop {}", self.0)).ok();
    }

    /// Stops and starts it.
    pub fn restart(&self) -> Out {
        self.stop();
        self.start()
    }

    /// What the unit wrote to the journal since the lab was booted.
    pub fn journal(&self) -> String {
        sh(&format!("journalctl --no-pager -o cat -u {}", self.0)).text()
    }

    /// The unit's name, as the audit log has it.
    pub fn name(&self) -> &'static str {
        self.0
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = std::process::Command::new("systemctl").args(["stop", self.0]).status();
        if std::thread::panicking() {
            let journal =
                std::process::Command::new("journalctl").args(["--no-pager", "-n", "30", "-u", self.0]).status();
            let _ = journal;
        }
    }
}

/// nginx, whose key, certificate and htpasswd are `nginx/site.key`, `nginx/site.pem` and `nginx/htpasswd` in `tree`.
pub struct Nginx {
    pub unit: Unit,
}

impl Nginx {
    /// What an admin has before he copies it in: key and certificate of lab.example, and a password of `alice`.
    pub fn secrets(into: &Path) {
        let into = into.display();
        sh(&format!(
            "set -e; mkdir -p {into}; cd {into}; umask 077
             openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=lab.example \
                 -addext subjectAltName=DNS:lab.example -keyout site.key -out site.pem 2>/dev/null
             htpasswd -nbB alice wonderland > htpasswd"
        ))
        .ok();
    }

    /// Writes the configuration; does not start it.
    pub fn configure(tree: &Path) -> Self {
        let tree = tree.display();
        let text = format!(
            "user www-data; worker_processes 1; pid /run/nginx.pid; error_log /var/log/nginx/error.log info;
events {{}}
http {{
    access_log off;
    server {{
        listen 127.0.0.1:8443 ssl;
        ssl_certificate {tree}/nginx/site.pem;
        ssl_certificate_key {tree}/nginx/site.key;
        location / {{ auth_basic lab; auth_basic_user_file {tree}/nginx/htpasswd; root /var/www/lab; }}
    }}
}}
"
        );
        std::fs::write("/etc/nginx/nginx.conf", text).expect("its configuration");
        sh("mkdir -p /var/www/lab && echo 'behind the door' > /var/www/lab/index.html").ok();
        Nginx { unit: Unit("nginx.service") }
    }

    /// A request as `login` (`user:password`), the certificate checked against `certificate`: status and body.
    pub fn get(&self, certificate: &Path, login: &str) -> (u16, String) {
        let out = sh(&format!(
            "curl -sS --max-time 10 --cacert {} --resolve lab.example:8443:127.0.0.1 -u {login} \
             -w '\\n%{{http_code}}' https://lab.example:8443/",
            certificate.display()
        ))
        .ok();
        let text = out.text();
        let (body, status) = text.rsplit_once('\n').expect("curl was told to print the status");
        (status.parse().expect("a status"), body.trim().to_owned())
    }
}

/// OpenSSH's daemon, whose host key is `ssh/host_ed25519` and whose authorized keys are `ssh/keys/USER` in `tree`.
pub struct Sshd {
    pub unit: Unit,
}

impl Sshd {
    /// A host key, a user's key in `user`, and the list that lets that user in, in `alice`.
    pub fn secrets(into: &Path) {
        let into = into.display();
        sh(&format!(
            "set -e; mkdir -p {into}; cd {into}
             ssh-keygen -q -t ed25519 -N '' -C lab -f host_ed25519; ssh-keygen -q -t ed25519 -N '' -C alice -f user
             cp user.pub alice; echo \"[127.0.0.1]:2222 $(cut -d' ' -f1,2 host_ed25519.pub)\" > known_hosts"
        ))
        .ok();
    }

    /// Writes the configuration; does not start it.
    pub fn configure(tree: &Path) -> Self {
        let tree = tree.display();
        let text = format!(
            "Port 2222\nListenAddress 127.0.0.1\nHostKey {tree}/ssh/host_ed25519\nAuthorizedKeysFile {tree}/ssh/keys/%u\n\
             StrictModes yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nLogLevel DEBUG1\n"
        );
        std::fs::write("/etc/ssh/sshd_config", text).expect("its configuration");
        Sshd { unit: Unit("ssh.service") }
    }

    /// Logs in as alice with the key in `secrets` and runs `id -un`.
    pub fn login(&self, secrets: &Path) -> Out {
        let secrets = secrets.display();
        sh(&format!(
            "ssh -F none -p 2222 -i {secrets}/user -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes \
             -o UserKnownHostsFile={secrets}/known_hosts -o ConnectTimeout=10 -o LogLevel=ERROR alice@127.0.0.1 id -un"
        ))
    }
}

/// 389 Directory Server, an instance with a certificate database whose pin.txt is a symlink to `dirsrv/pin.txt` in `tree`.
pub struct DirectoryServer {
    pub unit: Unit,
}

impl DirectoryServer {
    /// Makes the instance, once for the life of the lab (a quarter of a minute), and puts its pin at `pin`.
    pub fn secrets(pin: &Path) {
        let pin = pin.display();
        let kept = "/etc/dirsrv/slapd-lab/pin.kept";
        if !Path::new(kept).exists() {
            let inf = "[general]\nfull_machine_name = lab.example\nstart = False\nstrict_host_checking = False\n\
                       systemd = False\n[slapd]\ninstance_name = lab\nport = 3389\nsecure_port = 3636\n\
                       root_password = directory-manager\nself_sign_cert = True\n[backend-userroot]\n\
                       suffix = dc=lab,dc=example\ncreate_suffix_entry = True\nsample_entries = no\n";
            std::fs::write("/root/lab.inf", inf).expect("the description of the instance");
            sh(&format!("dscreate from-file /root/lab.inf && cp /etc/dirsrv/slapd-lab/pin.txt {kept}")).ok();
        }
        sh(&format!("mkdir -p $(dirname {pin}) && cp {kept} {pin}")).ok();
    }

    /// Points pin.txt into `tree`; does not start it.
    pub fn configure(tree: &Path) -> Self {
        // pwdfile.txt opens the same database; the server does not read it, but nothing may be left to fall back to.
        sh(&format!(
            "cd /etc/dirsrv/slapd-lab && ln -sfn {}/dirsrv/pin.txt pin.txt && rm -f pwdfile.txt",
            tree.display()
        ))
        .ok();
        DirectoryServer { unit: Unit("dirsrv@lab.service") }
    }

    /// Starts it and declines the question for the pin that it puts to systemd's agents when it cannot read the file.
    pub fn start_unanswered(&self) {
        sh(&format!("systemctl start --no-block {}", self.unit.name())).ok();
        let socket = wait_for("its question for the pin", Duration::from_secs(30), || {
            let theirs = "grep -L '^Id=pinfold$' /run/systemd/ask-password/ask.* 2>/dev/null";
            let asked = sh(&format!("{theirs} | xargs -r sed -n 's/^Socket=//p'")).text();
            (!asked.trim().is_empty()).then(|| asked.trim().to_owned())
        });
        sh(&format!("/lib/systemd/systemd-reply-password 0 {socket}")).ok();
        wait_for("the directory server without TLS", Duration::from_secs(30), || {
            (sh(&format!("systemctl is-active -q {}", self.unit.name())).code == 0).then_some(())
        });
    }

    /// Binds as its manager over `url`; the certificate is checked.
    pub fn bind(&self, url: &str) -> Out {
        sh(&format!(
            "LDAPTLS_CACERT=/etc/dirsrv/slapd-lab/ca.crt ldapwhoami -x -o nettimeout=10 -H {url} \
             -D 'cn=Directory Manager' -w directory-manager"
        ))
    }
}

/// Where the directory server answers with TLS.
pub const LDAPS: &str = "ldaps://lab.example:3636";
/// Where it answers in clear.
pub const LDAP: &str = "ldap://lab.example:3389";
