//! The tools an admin has, on the mounted tree: they work as on any file system, and without a word of complaint.
//!
//! Every step must end with 0 and say nothing on standard error. What was made is compared, to the nanosecond and the
//! inode number, with what is there after a restart of the daemon.

use crate::common;

use common::{ALICE, BOB, Daemon, ROOT, in_the_lab, process, sh, wait_for};
use std::time::Duration;

/// A script in the root of the tree; it must succeed quietly.
#[track_caller]
fn at(daemon: &Daemon, script: &str) -> String {
    sh(&format!("set -e; cd {}; {script}", daemon.root().display())).quiet()
}

/// Type, mode, owner, group and size of a path.
#[track_caller]
fn stat(daemon: &Daemon, path: &str) -> String {
    at(daemon, &format!("stat -c '%F, %a %U:%G %s' {path}")).trim_end().to_owned()
}

/// Everything there is to see of the tree: names, types, modes, owners, sizes, times, inode numbers, link targets, ACLs,
/// attributes, and each file's content as its owner reads it.
#[track_caller]
fn picture(daemon: &Daemon) -> String {
    let all = at(
        daemon,
        r#"find . -path ./.pinfold -prune -o -type d -printf '%P %y %m %U:%G %T@ %i\n' -o -printf '%P %y %m %U:%G %s %T@ %i %l\n' | sort
           find . -path ./.pinfold -prune -o ! -type l -print0 | sort -z | xargs -0 getfacl -n -p
           find . -path ./.pinfold -prune -o -printf '%U %G %p\n' | sort -k 3 |
               while read -r uid gid file; do
                   setpriv --reuid=$uid --regid=$gid --clear-groups getfattr -h -d -m user "$file"
               done
           find . -path ./.pinfold -prune -o -type f -printf '%U %G %p\n' | sort -k 3 |
               while read -r uid gid file; do
                   setpriv --reuid=$uid --regid=$gid --clear-groups sha256sum "$file"
               done"#,
    );
    assert!(all.lines().count() > 10, "there is something to compare: {all}");
    all
}

#[track_caller]
fn same_after_restart(daemon: &mut Daemon) {
    let before = picture(daemon);
    daemon.restart();
    let after = picture(daemon);
    for (old, new) in before.lines().zip(after.lines()) {
        assert_eq!(new, old, "changed by a restart");
    }
    assert_eq!(after.lines().count(), before.lines().count());
}

/// Names, types, modes, owners, times, link targets, ACLs and attributes of the current folder, the same for every file
/// system they are on.
/// The attributes are read by their owners: root may not read those of what it may not read.
const LISTING: &str = "find . -mindepth 1 -printf '%P %y %m %u:%g %T@ %l\\n' | sort
    find . ! -type l -print0 | sort -z | xargs -0 getfacl
    find . -printf '%U %G %p\\n' | sort -k 3 | while read -r uid gid file; do
        setpriv --reuid=$uid --regid=$gid --clear-groups getfattr -h -d -m user $file
    done";

/// A folder outside the tree with something of each kind to bring in.
const SOURCE: &str = "/scratch/source";

#[track_caller]
fn source() {
    sh(&format!(
        "set -e; rm -rf {SOURCE}; mkdir -m 755 {SOURCE}; cd {SOURCE}
         echo 'password of the database' > plain; chmod 644 plain; touch -d '2020-02-02 02:02:02.020202020' plain
         echo 'what alice may read' > hers; chown alice:keys hers; chmod 640 hers; touch -d '2021-03-04 05:06:07.123456789' hers
         setfacl -m u:bob:r hers; setfattr -n user.purpose -v backup hers
         head -c 200000 /dev/urandom > large; chmod 600 large
         mkdir -m 750 folder; echo deep > folder/deep; chmod 400 folder/deep; chown -R bob:bob folder; ln -s deep folder/link
         setfacl -m u:root:rx folder
         touch -h -d '2022-03-04 05:06:07.89' folder/* folder
         : > empty; tar --acls --xattrs -cf /scratch/source.tar ."
    ))
    .quiet();
}

#[test]
fn the_lab_has_what_the_tests_need() {
    in_the_lab();
    for tool in [
        "age",
        "attr",
        "curl",
        "dash",
        "dscreate",
        "find",
        "fusermount3",
        "getfacl",
        "getfattr",
        "gocryptfs",
        "htpasswd",
        "inotifywait",
        "install",
        "keyctl",
        "ldapwhoami",
        "losetup",
        "mkfs.ext4",
        "nginx",
        "ns-slapd",
        "openssl",
        "python3",
        "rsync",
        "setfacl",
        "setfattr",
        "setpriv",
        "socat",
        "sshd",
        "strace",
        "tar",
        "vim",
    ] {
        sh(&format!("command -v {tool}")).quiet();
    }
    assert_eq!(sh("systemctl is-system-running --wait").text(), "running\n", "{}", sh("systemctl --failed").text());
    assert!(sh("cat /proc/self/cgroup").quiet().contains("0::/system.slice/lab-job.service"));
    assert_eq!(ALICE.sh("id -u; id -G").quiet(), "2001\n2001 3001\n");
    sh("dd if=/dev/zero of=/tmp/image bs=1M count=20 status=none && mkfs.ext4 -q /tmp/image && mkdir -p /tmp/there \
        && mount -o loop /tmp/image /tmp/there && umount /tmp/there && rm /tmp/image")
    .quiet();
}

// --- bringing in ----------------------------------------------------------------------------------------------------

#[test]
fn cp_and_install_bring_files_in() {
    source();
    let mut daemon = Daemon::start();
    at(&daemon, &format!("cp {SOURCE}/plain plain && cmp {SOURCE}/plain plain"));
    assert_eq!(stat(&daemon, "plain"), "regular file, 600 root:root 25", "not for others unless somebody says so");
    at(&daemon, &format!("cp -p {SOURCE}/plain kept && cmp {SOURCE}/plain kept"));
    assert_eq!(stat(&daemon, "kept"), "regular file, 644 root:root 25");
    assert_eq!(at(&daemon, "stat -c %.9Y kept"), at(&daemon, &format!("stat -c %.9Y {SOURCE}/plain")));

    at(&daemon, &format!("cp -a {SOURCE} copy"));
    let theirs = sh(&format!("cd {SOURCE}; {LISTING}")).quiet();
    assert_eq!(at(&daemon, &format!("cd copy; {LISTING}")), theirs);
    at(&daemon, &format!("cmp {SOURCE}/large copy/large"));
    assert_eq!(ALICE.sh(&format!("cat {}", daemon.path("copy/hers"))).quiet(), "what alice may read\n");
    assert_eq!(BOB.sh(&format!("cat {}", daemon.path("copy/hers"))).quiet(), "what alice may read\n", "by the ACL");
    ROOT.sh(&format!("cat {}", daemon.path("copy/hers"))).refused("Permission denied");

    at(&daemon, &format!("mkdir -m 755 svc; install -o alice -g keys -m 440 {SOURCE}/plain svc/pin"));
    assert_eq!(stat(&daemon, "svc/pin"), "regular file, 440 alice:keys 25");
    at(&daemon, &format!("install -D -m 600 {SOURCE}/plain made/on/the/way; cp {SOURCE}/empty empty; test ! -s empty"));
    // Over what is there: the owner and the mode stay with cp, content changes.
    at(&daemon, "echo replaced > /tmp/new; cp /tmp/new kept; cat kept");
    assert_eq!(stat(&daemon, "kept"), "regular file, 644 root:root 9");
    same_after_restart(&mut daemon);
}

#[test]
fn mv_moves_in_within_and_over() {
    source();
    let mut daemon = Daemon::start();
    at(&daemon, &format!("cp -a {SOURCE}/hers /scratch/moved; mv /scratch/moved in"));
    assert_eq!(stat(&daemon, "in"), "regular file, 640 alice:keys 20");
    at(&daemon, "getfacl -c in | grep -qx user:bob:r--; ! getfattr -n user.purpose in 2> /dev/null");
    assert_eq!(
        ALICE.sh(&format!("getfattr --absolute-names --only-values -n user.purpose {}", daemon.path("in"))).quiet(),
        "backup"
    );
    at(&daemon, "mkdir -m 755 a b; mv in a/one; echo two > a/two; mv a/two a/one; test ! -e a/two; cat a/one");
    assert_eq!(stat(&daemon, "a/one"), "regular file, 600 root:root 4");
    at(&daemon, "echo three > three; mv -n three a/one || true; mv a b/; ls b/a; mv b/a c; test -f c/one; rmdir b");
    let inode = at(&daemon, "stat -c %i c/one");
    at(&daemon, "mv c/one c/renamed");
    assert_eq!(at(&daemon, "stat -c %i c/renamed"), inode, "the same file under another name");
    sh(&format!("mv {} {}", daemon.path("c"), daemon.path("c/inside"))).refused("to a subdirectory of itself");
    sh(&format!("mkdir {0} && touch {0}/x && mv -T {1} {0}", daemon.path("full"), daemon.path("c")))
        .refused("not empty");
    same_after_restart(&mut daemon);
}

#[test]
fn rsync_and_tar_bring_trees_in() {
    source();
    let mut daemon = Daemon::start();
    at(&daemon, &format!("rsync -aAX {SOURCE}/ synced/; rsync -a {SOURCE}/ plainly"));
    let theirs = sh(&format!("cd {SOURCE}; {LISTING}")).quiet();
    assert_eq!(at(&daemon, &format!("cd synced; {LISTING}")), theirs);
    // Nothing to do the second time: size and time say so.
    assert_eq!(at(&daemon, &format!("rsync -aA --itemize-changes {SOURCE}/ synced/")), "");
    // Comparing attributes takes who may read them: root may not read what is Alice's, and is told so.
    let compared = sh(&format!("cd {}; rsync -aAX --itemize-changes {SOURCE}/ synced/", daemon.root().display()));
    let said = compared.refused("Permission denied").stderr;
    assert!(said.contains("user.purpose") && said.contains("hers"), "{said}");
    assert_eq!(at(&daemon, &format!("cd synced; {LISTING}")), theirs, "nothing was changed");
    at(
        &daemon,
        &format!(
            "echo more >> {SOURCE}/plain; rsync -a --inplace {SOURCE}/plain synced/; cmp {SOURCE}/plain synced/plain"
        ),
    );
    at(&daemon, "mkdir unpacked; tar -x --acls --xattrs -f /scratch/source.tar -C unpacked");
    assert_eq!(at(&daemon, &format!("cd unpacked; {LISTING}")), theirs);
    // And out again, by who may read it.
    assert_eq!(
        BOB.sh(&format!("cd {} && tar -cf - folder | tar -tf - | sort", daemon.path("unpacked"))).quiet(),
        "folder/\nfolder/deep\nfolder/link\n"
    );
    // Without its ACL the folder is Bob's alone, for root too.
    at(&daemon, "setfacl -m u:root:rx plainly/folder");
    same_after_restart(&mut daemon);
}

// --- changing -------------------------------------------------------------------------------------------------------

#[test]
fn editors_change_files_in_place() {
    let mut daemon = Daemon::start();
    at(&daemon, "umask 022; printf 'user = alice\\npassword = old\\n' > conf; chmod 640 conf; chgrp keys conf");
    at(&daemon, "sed -i s/old/new/ conf");
    assert_eq!(at(&daemon, "cat conf"), "user = alice\npassword = new\n");
    assert_eq!(stat(&daemon, "conf"), "regular file, 640 root:keys 28");
    at(&daemon, "vim -u NONE -N -es -c '%s/new/newer/' -c wq conf");
    assert_eq!(at(&daemon, "cat conf"), "user = alice\npassword = newer\n");
    assert_eq!(stat(&daemon, "conf"), "regular file, 640 root:keys 30");
    at(&daemon, "vim -N -es -c '%s/newer/newest/' -c 'set backup backupskip= backupcopy=no' -c wq conf");
    assert_eq!(at(&daemon, "cat conf"), "user = alice\npassword = newest\n");
    assert_eq!(stat(&daemon, "conf"), "regular file, 640 root:keys 31");
    assert_eq!(at(&daemon, "ls -A"), ".pinfold\nconf\nconf~\ncontainers\n", "no swap or temporary file is left");
    // History follows the name, also when the editor wrote another file and renamed it.
    assert_eq!(daemon.versions("conf").len(), 4);
    at(&daemon, "rm conf~; echo 'second = line' >> conf; perl -pi -e 's/newest/last/' conf");
    assert_eq!(at(&daemon, "cat conf"), "user = alice\npassword = last\nsecond = line\n");
    same_after_restart(&mut daemon);
}

#[test]
fn tee_dd_truncate_and_append_write_what_they_should() {
    let mut daemon = Daemon::start();
    assert_eq!(at(&daemon, "echo one | tee a b; echo two | tee -a a; cat a b"), "one\ntwo\none\ntwo\none\n");
    at(
        &daemon,
        "head -c 300000 /dev/urandom > /tmp/random; dd if=/tmp/random of=d bs=4096 conv=fsync status=none; cmp /tmp/random d",
    );
    at(&daemon, "dd if=/tmp/random of=d bs=1 count=10 seek=1000 conv=notrunc,fsync status=none");
    at(&daemon, "dd if=/tmp/random of=/tmp/random bs=1 count=10 seek=1000 conv=notrunc status=none; cmp /tmp/random d");
    // A bare truncation is published when the descriptor is released, and nobody waits for that.
    for size in [1000, 5000] {
        at(&daemon, &format!("truncate -s {size} d; truncate -s {size} /tmp/random"));
        wait_for("the other size", Duration::from_secs(5), || {
            (sh(&format!("cmp /tmp/random {}", daemon.path("d"))).code == 0).then_some(())
        });
    }
    at(&daemon, ": > a");
    wait_for("an empty file", Duration::from_secs(5), || at(&daemon, "cat a").is_empty().then_some(()));
    at(&daemon, "printf x >> a; printf y >> a; test $(cat a) = xy; sync a; sync .");
    at(
        &daemon,
        "cat b > c; python3 - <<'P'\nimport os\nfd = os.open('f', os.O_RDWR | os.O_CREAT)\nos.pwrite(fd, b'end', 10)\nos.pwrite(fd, b'start', 0)\nassert os.pread(fd, 100, 0) == b'start' + bytes(5) + b'end'\nos.close(fd)\nP",
    );
    same_after_restart(&mut daemon);
}

#[test]
fn owners_modes_times_acls_and_attributes_stick() {
    let mut daemon = Daemon::start();
    at(
        &daemon,
        "umask 022; mkdir d; echo s > d/f; chown alice:keys d/f; chmod 0640 d/f; touch -d '1999-12-31 23:59:59.987654321' d/f d",
    );
    assert_eq!(stat(&daemon, "d/f"), "regular file, 640 alice:keys 2");
    assert_eq!(
        at(&daemon, "stat -c %.9Y d/f d"),
        at(&daemon, "date -d '1999-12-31 23:59:59.987654321' +%s.%N | sed 'p'")
    );
    at(
        &daemon,
        "touch -a -d 2001-01-01 d/f; touch -h -d 2002-02-02 d/f; chmod u+x,o+r d/f; chmod o-r,u-x d/f; chown -h bob d/f; chown alice d/f",
    );
    at(&daemon, "setfacl -m u:bob:rw,g:operators:r,m::r d/f; setfacl -d -m u:bob:r,g::- d");
    assert_eq!(
        at(&daemon, "getfacl -E -n -c d/f"),
        "user::rw-\nuser:2002:rw-\ngroup::r--\ngroup:3002:r--\nmask::r--\nother::---\n\n"
    );
    assert_eq!(BOB.sh(&format!("cat {}", daemon.path("d/f"))).quiet(), "s\n", "by the ACL");
    at(&daemon, "echo inherited > d/new; mkdir d/sub");
    assert_eq!(
        at(&daemon, "getfacl -n -c d/new d/sub | grep bob || getfacl -n -c d/new d/sub | grep 2002"),
        "user:2002:r--\nuser:2002:r--\ndefault:user:2002:r--\n"
    );
    assert_eq!(BOB.sh(&format!("cat {}", daemon.path("d/new"))).quiet(), "inherited\n", "by the default ACL");
    at(&daemon, "setfacl -b d/f; setfacl -k d/sub; getfacl -c d/f | grep -q mask && exit 1 || true");
    at(
        &daemon,
        "setfattr -n user.comment -v 'two words' d/f; setfattr -n user.bin -v 0x00ff00 d/f; setfattr -n user.gone -v x d/f; setfattr -x user.gone d/f; setfattr -n user.dir -v y d",
    );
    let said = sh(&format!("cd {}; getfattr -d d/f", daemon.root().display()));
    assert!(said.stdout.is_empty() && said.stderr.matches("Permission denied").count() == 2, "{}", said.text());
    sh(&format!("cd {}; getfattr -n user.comment d/f", daemon.root().display())).refused("Permission denied");
    assert_eq!(
        ALICE.sh(&format!("cd {}; getfattr -e hex -d d/f d", daemon.root().display())).quiet(),
        "# file: d/f\nuser.bin=0x00ff00\nuser.comment=0x74776f20776f726473\n\n# file: d\nuser.dir=0x79\n\n"
    );
    at(
        &daemon,
        "ln -s d/f link; ln -s /nowhere dangling; ln -sfn d/new link; chown -h bob link; touch -h -d 2003-03-03 link",
    );
    assert_eq!(at(&daemon, "readlink link dangling; cat link; stat -c %U link"), "d/new\n/nowhere\ninherited\nbob\n");
    same_after_restart(&mut daemon);
    assert_eq!(at(&daemon, "readlink link dangling; cat link"), "d/new\n/nowhere\ninherited\n");
}

#[test]
fn nothing_new_is_for_others_because_of_the_umask_alone() {
    let daemon = Daemon::start();
    at(
        &daemon,
        "umask 0; touch t; echo x > e; cp /etc/passwd c; mkdir d; umask 027; mkdir dd; install -m 444 /etc/passwd i",
    );
    for file in ["t", "e", "c"] {
        assert!(stat(&daemon, file).contains(", 600 root:root"), "{file} is {}", stat(&daemon, file));
    }
    assert_eq!(at(&daemon, "stat -c %a d dd i"), "777\n750\n444\n");
    at(&daemon, "umask 077; touch asked; chmod 644 asked");
    assert_eq!(at(&daemon, "stat -c %a asked"), "644\n");
    // Neither set-user-id nor set-group-id ever sticks, and the mount would not honour it.
    at(&daemon, "chmod 6755 i; chmod 2755 d");
    assert_eq!(at(&daemon, "stat -c %a i d"), "755\n755\n");
    let options = sh(&format!("findmnt -n -o OPTIONS {}", daemon.root().display())).quiet();
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(options.contains(option), "{options}");
    }
    sh(&daemon.path("i")).refused("Permission denied");
}

#[test]
fn hard_links_devices_fifos_and_sockets_are_not_permitted() {
    let daemon = Daemon::start();
    at(&daemon, "echo x > f");
    for script in [
        "ln f hard",
        "mknod null c 1 3",
        "mknod disk b 7 0",
        "mkfifo pipe",
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'",
    ] {
        sh(&format!("cd {} && {script}", daemon.root().display())).refused("Operation not permitted");
    }
    assert_eq!(at(&daemon, "ls"), "containers\nf\n");
}

// --- looking and removing -------------------------------------------------------------------------------------------

#[test]
fn find_du_df_and_rm_have_nothing_to_complain_of() {
    source();
    let daemon = Daemon::start();
    at(&daemon, &format!("cp -a {SOURCE} tree; mkdir -p deep/er/still; touch deep/er/still/{{1..50}}"));
    assert_eq!(at(&daemon, "find deep -type f | wc -l").trim(), "50");
    assert_eq!(at(&daemon, "find tree -size +100k"), "tree/large\n");
    let kilobytes: u64 = at(&daemon, "du -sk tree | cut -f 1").trim().parse().unwrap();
    assert!((195..400).contains(&kilobytes), "du says {kilobytes} KiB of about 200");
    assert!(at(&daemon, "du -b tree/large").starts_with("200000\t"));
    at(&daemon, "df . | tail -n 1; df -i .; stat -f .; ls -laR tree deep");
    at(&daemon, "rm tree/plain; rm -r deep; rm -rf tree; ls");
    assert_eq!(at(&daemon, "ls -A"), ".pinfold\ncontainers\n");
    sh(&format!("rm -r {}", daemon.path(".pinfold"))).refused("");
}

#[test]
fn a_thousand_names_are_listed_while_half_of_them_go() {
    let daemon = Daemon::start();
    at(&daemon, "mkdir d; cd d; for i in $(seq 400); do : > name-$i; done; ls | wc -l | grep -qx 400");
    at(&daemon, "cd d; rm name-*[02468]; find . -type f | wc -l | grep -qx 200; rm -r ../d");
}

#[test]
fn inotifywait_hears_what_happens() {
    let daemon = Daemon::start();
    at(&daemon, "mkdir d; echo x > d/f");
    let heard = "/tmp/heard";
    let mut watcher = ROOT.command("inotifywait");
    watcher.args(["-m", "-q", "-e", "create,close_write,moved_to,delete,attrib", "--format", "%e %f", "-o", heard]);
    watcher.arg(daemon.path("d")).stdin(std::process::Stdio::null());
    let _ = std::fs::remove_file(heard);
    let mut watcher = watcher.spawn().expect("inotifywait is there");
    // It is watching once it has an inotify mark; that it says only on a terminal.
    wait_for("inotifywait to watch", Duration::from_secs(10), || {
        sh(&format!("grep -qs '^inotify wd' /proc/{}/fdinfo/*", watcher.id())).code.eq(&0).then_some(())
    });
    at(&daemon, "echo y > d/f; echo z > d/new; mv d/new d/moved; chmod 640 d/f; rm d/moved");
    let wanted =
        ["CLOSE_WRITE,CLOSE f", "CREATE new", "CLOSE_WRITE,CLOSE new", "MOVED_TO moved", "ATTRIB f", "DELETE moved"];
    wait_for(&format!("{wanted:?}"), Duration::from_secs(10), || {
        let lines = std::fs::read_to_string(heard).unwrap_or_default();
        wanted.iter().all(|event| lines.lines().any(|line| line == *event)).then_some(())
    });
    watcher.kill().expect("it is ours");
    process::wait(&mut watcher, Duration::from_secs(10)).expect("it ends");
}

// --- what a commit is -----------------------------------------------------------------------------------------------

#[test]
fn a_redirection_makes_one_version_and_no_reader_sees_an_empty_secret() {
    let daemon = Daemon::start();
    at(&daemon, "echo 'content 0' > f");
    assert_eq!(daemon.versions("f"), [1]);
    // Reads until the file `stop` is there; prints what it saw that no writer wrote whole.
    let reader = format!(
        "python3 -c '
import os, re
whole = re.compile(rb\"content [0-9]+\\n\")
bad, seen = set(), 0
while not os.path.exists(\"/tmp/stop\"):
    with open(\"{}\", \"rb\") as f:
        content = f.read()
    seen += 1
    if not whole.fullmatch(content): bad.add(content)
print(sorted(bad), seen > 50)'",
        daemon.path("f")
    );
    sh("rm -f /tmp/stop").quiet();
    let reader = std::thread::spawn(move || sh(&reader));
    let path = daemon.path("f");
    for shell in ["bash", "dash"] {
        let script = format!("i=1; while [ $i -le 100 ]; do echo \"content $i\" > {path}; i=$((i + 1)); done");
        sh(&format!("{shell} -c '{script}'")).quiet();
    }
    sh("touch /tmp/stop").quiet();
    assert_eq!(reader.join().expect("the reader ran").quiet(), "[] True\n");
    assert_eq!(daemon.versions("f").last(), Some(&201), "one version for each of 200 redirections");
    assert_eq!(daemon.versions("f").len(), 5, "as many as are kept");
}

/// A Python script in the tree, with `path` a file that holds `old`.
#[track_caller]
fn python(daemon: &Daemon, script: &str) -> process::Out {
    let mut command = ROOT.command("python3");
    command.arg("-c").arg(format!("import os, signal, sys, time\npath = {:?}\n{script}", daemon.path("f")));
    process::run(command, b"", script)
}

#[test]
fn a_killed_writer_hangs_nothing_and_leaves_what_it_had_written() {
    let daemon = Daemon::start();
    at(&daemon, "echo old > f");
    let script =
        "fd = os.open(path, os.O_WRONLY | os.O_TRUNC)\nos.write(fd, b'half')\nos.kill(os.getpid(), signal.SIGKILL)";
    assert_eq!(python(&daemon, script).code, 128 + 9);
    assert_eq!(at(&daemon, "cat f"), "half");
    assert_eq!(daemon.versions("f"), [1, 2]);
    assert_eq!(daemon.cli(&["rollback", "f", "1"]).ok().code, 0);
    assert_eq!(at(&daemon, "cat f"), "old\n");
}

#[test]
fn a_writer_that_executes_another_program_commits_by_it() {
    let daemon = Daemon::start();
    at(&daemon, "echo old > f");
    let script = "fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)\nos.write(fd, b'by exec')\nos.execv('/bin/true', ['true'])";
    python(&daemon, script).quiet();
    assert_eq!(at(&daemon, "cat f"), "by exec");
    assert_eq!(daemon.versions("f"), [1, 2]);
}

#[test]
fn a_forked_child_that_ends_in_mid_write_publishes_nothing() {
    let daemon = Daemon::start();
    at(&daemon, "echo old > f");
    let script = "
fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
os.write(fd, b'first half, ')
child = os.fork()
if child == 0: os._exit(0)
os.waitpid(child, 0)
assert open(path, 'rb').read() == b'old\\n', 'half of it was published'
os.write(fd, b'second half')
os.close(fd)
assert open(path, 'rb').read() == b'first half, second half'";
    python(&daemon, script).quiet();
    assert_eq!(daemon.versions("f"), [1, 2]);
}

#[test]
fn writers_share_one_draft_and_readers_keep_what_they_opened() {
    let daemon = Daemon::start();
    at(&daemon, "echo old > f");
    let script = "
reader = os.open(path, os.O_RDONLY)
one, two = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
os.pwrite(one, b'NEW', 0)
assert os.pread(two, 10, 0) == b'NEW\\n', 'writers share one draft'
assert os.pread(reader, 10, 0) == b'old\\n', 'a reader has what was current when it opened'
assert open(path, 'rb').read() == b'old\\n', 'nothing is published yet'
os.close(one)
assert open(path, 'rb').read() == b'NEW\\n'
assert os.pread(reader, 10, 0) == b'old\\n', 'to the end'
os.pwrite(two, b'..', 3)
os.fsync(two)
assert open(path, 'rb').read() == b'NEW..'
os.close(two)
os.unlink(path)
assert os.pread(reader, 10, 0) == b'old\\n', 'unlinked and still open'
assert os.fstat(reader).st_nlink == 0
assert not os.path.exists(path)
os.close(reader)";
    python(&daemon, script).quiet();
}

#[test]
fn what_close_returned_for_is_there_after_a_kill() {
    let mut daemon = Daemon::start();
    at(&daemon, "mkdir d; for i in 1 2 3 4 5; do echo \"number $i\" > d/$i; done; echo old > f; echo new > f");
    daemon.kill9();
    daemon.serve();
    assert_eq!(at(&daemon, "cat d/*"), "number 1\nnumber 2\nnumber 3\nnumber 4\nnumber 5\n");
    assert_eq!(at(&daemon, "cat f"), "new\n");
}

#[test]
fn underneath_the_mount_nothing_can_be_read_or_written() {
    let mut daemon = Daemon::start();
    at(&daemon, "echo x > f");
    daemon.stop();
    let root = daemon.root().display().to_string();
    // tangd on an empty directory makes new keys and serves: an unmounted tree must be unmistakable.
    ALICE.sh(&format!("ls {root}")).refused("Permission denied");
    ALICE.sh(&format!("cat {root}/f")).refused("Permission denied");
    assert_eq!(sh(&format!("stat -c '%a %U' {root}; ls -A {root}")).quiet(), "0 root\n", "empty, and closed to all");
    // Root passes every mode: the folder is immutable, too.
    sh(&format!("echo key > {root}/f")).refused("Operation not permitted");
    sh(&format!("mkdir {root}/d")).refused("Operation not permitted");
    daemon.serve();
    assert_eq!(at(&daemon, "cat f"), "x\n");
}
