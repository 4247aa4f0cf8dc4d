//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)) as values: which mount one sees at a path. No I/O.

/// One mount, as far as pinfold asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// The filesystem's type with its subtype: `fuse.pinfold`, `ext4`.
    pub fstype: String,
    /// The source, as mount(8) shows it; bytes that are not UTF-8 are replaced.
    pub source: String,
    /// Device number of the superblock, as `st_dev` has it.
    pub dev: u64,
    /// Options of the mount itself: `rw,nosuid`.
    pub options: String,
    /// Mount point, as this process sees it.
    point: Vec<u8>,
    /// What of the filesystem is mounted: `/` for all of it.
    root: Vec<u8>,
    id: u64,
    parent: u64,
}

/// Every line that has the documented fields; the others are skipped.
pub(super) fn parse(table: &[u8]) -> Vec<MountInfo> {
    table.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// The mount that a walk to `path` ends in, if it ends in the root of one. `path` is absolute and has no symlinks.
pub(super) fn visible_at(mounts: &[MountInfo], path: &[u8]) -> Option<MountInfo> {
    let mut here: Option<&MountInfo> = None;
    for prefix in prefixes(path) {
        // A mount on top of another has that one for a parent; follow them up. A table without circles ends.
        for _ in 0..mounts.len() {
            match mounts.iter().find(|m| m.point == prefix && is_child(mounts, m, here)) {
                Some(on_top) => here = Some(on_top),
                None => break,
            }
        }
    }
    here.filter(|m| m.point == path).cloned()
}

/// What of the filesystem on this device is mounted by itself somewhere: paths in it, without a leading slash. Not those
/// that are gone from it, nor the whole of it.
pub(super) fn parts_of(mounts: &[MountInfo], dev: u64) -> Vec<String> {
    let part = |m: &MountInfo| {
        let path = std::str::from_utf8(m.root.strip_prefix(b"/")?).ok()?;
        (m.dev == dev && !path.is_empty() && !path.ends_with("//deleted")).then(|| path.to_owned())
    };
    mounts.iter().filter_map(part).collect()
}

/// Whether `m` hangs on `parent`; with no parent yet, whether it hangs on nothing that this process sees. (An initramfs
/// is its own parent.)
fn is_child(mounts: &[MountInfo], m: &MountInfo, parent: Option<&MountInfo>) -> bool {
    match parent {
        Some(parent) => m.parent == parent.id && m.id != parent.id,
        None => m.parent == m.id || !mounts.iter().any(|other| other.id == m.parent),
    }
}

/// `/`, `/a`, `/a/b` of `/a/b`.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().skip(1).filter(|(_, b)| **b == b'/').map(|(i, _)| i);
    let whole = (path.len() > 1).then_some(path);
    std::iter::once(&path[..1.min(path.len())]).chain(ends.map(|end| &path[..end])).chain(whole)
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|b| *b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let dev = fields.next()?;
    let colon = dev.iter().position(|b| *b == b':')?;
    let (major, minor) = (number(&dev[..colon])?, number(&dev[colon + 1..])?);
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let fstype = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    let source = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    Some(MountInfo {
        fstype,
        source,
        dev: libc::makedev(major.try_into().ok()?, minor.try_into().ok()?),
        options,
        point,
        root,
        id,
        parent,
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Blank, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|d| *first == b'\\' && d[0] <= b'3' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal {
            Some(digits) => {
                out.push(digits.iter().fold(0, |n, d| n << 3 | (d - b'0')));
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(table: &str, path: &str) -> Option<String> {
        visible_at(&parse(table.as_bytes()), path.as_bytes()).map(|m| m.source)
    }

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:5 / /run rw,nosuid shared:2 master:9 - tmpfs tmpfs rw
40 30 0:41 / /run/secrets rw - fuse.pinfold first rw
41 40 0:42 / /run/secrets rw - fuse.pinfold second rw
50 22 0:50 / /mnt/a\\040b\\134c rw - tmpfs with\\040blank rw
garbage
60 22 0:6 / /srv";

    #[test]
    fn the_topmost_of_stacked_mounts_is_seen_whatever_the_order_of_lines() {
        assert_eq!(at(TABLE, "/run/secrets").as_deref(), Some("second"));
        let mut lines: Vec<&str> = TABLE.lines().collect();
        lines.reverse();
        assert_eq!(at(&lines.join("\n"), "/run/secrets").as_deref(), Some("second"));
    }

    #[test]
    fn a_mount_hidden_by_one_above_it_is_not_there() {
        let hidden = format!("{TABLE}\n70 30 0:70 / /run rw - tmpfs over rw");
        assert_eq!(at(&hidden, "/run/secrets"), None);
        assert_eq!(at(&hidden, "/run").as_deref(), Some("over"));
    }

    #[test]
    fn folders_are_no_mounts_and_escapes_are_read() {
        assert_eq!(at(TABLE, "/run/secret"), None);
        assert_eq!(at(TABLE, "/run/secrets/x"), None);
        assert_eq!(at(TABLE, "/srv"), None, "a cut line is skipped");
        assert_eq!(at(TABLE, "/mnt/a b\\c").as_deref(), Some("with blank"));
        assert_eq!(at(TABLE, "/").as_deref(), Some("/dev/root"));
    }

    #[test]
    fn parts_of_a_filesystem_that_are_mounted_by_themselves_are_found() {
        let table = "40 30 0:41 / /run/secrets rw - fuse.pinfold p rw\n\
                     41 30 0:41 /a\\040b/c /srv rw - fuse.pinfold p rw\n\
                     42 30 0:41 /gone//deleted /mnt rw - fuse.pinfold p rw\n\
                     43 30 0:50 /d /opt rw - fuse.pinfold p rw\n";
        assert_eq!(parts_of(&parse(table.as_bytes()), libc::makedev(0, 41)), ["a b/c"]);
    }

    #[test]
    fn a_chroot_that_is_no_mount_point_and_a_circle_are_survived() {
        assert_eq!(at("40 30 0:41 / /run/secrets rw - fuse.pinfold p rw", "/run/secrets").as_deref(), Some("p"));
        assert_eq!(at("1 2 0:1 / /a rw - t x rw\n2 1 0:1 / /a rw - t y rw", "/a"), None);
        let initramfs =
            "1 1 0:2 / / rw - rootfs rootfs rw\n20 1 8:1 / / rw - ext4 disk rw\n21 20 0:3 / /run rw - tmpfs t rw";
        assert_eq!(at(initramfs, "/").as_deref(), Some("disk"));
        assert_eq!(at(initramfs, "/run").as_deref(), Some("t"));
        assert_eq!(parse(TABLE.as_bytes())[2].dev, libc::makedev(0, 41));
    }
}
