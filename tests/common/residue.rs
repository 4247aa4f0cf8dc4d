//! A mark that is nowhere in clear but where a test puts it, and the search for it in the whole process.
//!
//! For tests that are alone in their file: `#[path = "common/residue.rs"] mod residue;`

use pinfold::secret::Secret;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// What is searched for is held only under this.
pub const MASK: u8 = 0x5a;
/// Bytes of the mark.
pub const LEN: usize = 48;

/// Byte `i` of the mark; no multiple of it is ASCII text that occurs by itself.
pub fn mark(i: usize) -> u8 {
    (i as u8).wrapping_mul(37).wrapping_add(11) ^ 0x91
}

/// The mark, over and over.
pub fn marked(len: usize) -> Secret {
    let mut secret = Secret::zeroed(len).unwrap();
    for (i, byte) in secret.expose_mut().iter_mut().enumerate() {
        *byte = mark(i % LEN);
    }
    secret
}

/// How often a masked needle is found, unmasked, in memory whose permissions in /proc/self/maps begin with `access`.
pub fn found(masked: &[u8], access: &str) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let access = format!(" {access}");
    let mut hits = 0;
    let mut page = vec![0u8; 1 << 20];
    for line in maps.lines().filter(|l| l.contains(&access) && !l.contains("[v")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        while at < end {
            let want = page.len().min((end - at) as usize);
            let Ok(n) = memory.read_at(&mut page[..want], at) else { break };
            hits +=
                page[..n].windows(masked.len()).filter(|w| w.iter().zip(masked).all(|(a, b)| *a == b ^ MASK)).count();
            page.fill(0);
            if n == 0 {
                break;
            }
            at += n as u64;
        }
    }
    hits
}
