//! Values of the configuration: sizes, durations, counts, absolute paths, each within its bounds.
//!
//! Owns the parsing and the bounds. A failure here gets its line from the TOML reader.

use super::UnlockFrom;
use crate::model::parse_duration;
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serializer};
use std::path::PathBuf;
use std::time::Duration;

/// An absolute path without `..`: the daemon's working folder means nothing.
pub fn path<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    let plain = path.is_absolute() && !path.components().any(|c| c == std::path::Component::ParentDir);
    if plain { Ok(path) } else { Err(D::Error::custom("must be an absolute path without '..'")) }
}

/// The same where none is allowed.
pub fn maybe_path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    path(from).map(Some)
}

/// Some of them.
pub fn paths<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    struct Path(#[serde(deserialize_with = "path")] PathBuf);
    Ok(Vec::<Path>::deserialize(from)?.into_iter().map(|Path(path)| path).collect())
}

/// A key's description; 1 to 255 bytes.
pub fn description<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() || text.len() > 255 || text.contains('\0') {
        return Err(D::Error::custom("must be the description of a key; leave it out for none"));
    }
    Ok(Some(text))
}

/// A group's name; not empty.
pub fn group<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(from)?;
    if name.is_empty() || name.contains('\0') {
        return Err(D::Error::custom("must be the name of a group; leave the key out for none"));
    }
    Ok(Some(name))
}

/// A user's name; not empty.
pub fn user<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(from)?;
    if name.is_empty() || name.contains('\0') {
        return Err(D::Error::custom("must be the name of a user; leave the key out for none"));
    }
    Ok(Some(name))
}

/// The `[unlock]` table.
pub fn unlock<'de, D: Deserializer<'de>>(from: D) -> Result<UnlockFrom, D::Error> {
    let unlock = UnlockFrom::deserialize(from)?;
    if unlock.passphrase_file.is_some() && unlock.keyfile.is_some() {
        return Err(D::Error::custom("has both 'passphrase_file' and 'keyfile'; keep one"));
    }
    Ok(unlock)
}

/// 64 KiB to 16 GiB.
pub fn audit_max_size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(size(from)?, 64 << 10, 16 << 30, "64KiB to 16GiB")
}

/// 256 KiB to 16 TiB.
pub fn audit_space<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(size(from)?, 256 << 10, 16 << 40, "256KiB to 16TiB")
}

/// 4 KiB to 16 MiB.
pub fn max_secret_size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(size(from)?, 4 << 10, 16 << 20, "4KiB to 16MiB")
}

/// 1 MiB to 4 GiB.
pub fn max_bundle_size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(size(from)?, 1 << 20, 4 << 30, "1MiB to 4GiB")
}

/// 1 to 1,000,000.
pub fn max_secrets<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(count(from)?, 1, 1_000_000, "1 to 1000000")
}

/// 1 to 64.
pub fn parallel<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(count(from)?, 1, 64, "1 to 64")
}

/// 1 to 65,536.
pub fn max_instances<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(count(from)?, 1, 65_536, "1 to 65536")
}

/// 1 to 100.
pub fn keep_versions<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    bounded(count(from)?, 1, 100, "1 to 100")
}

/// 1 s to 24 h.
pub fn unlock_timeout<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let wait = parse_duration(&text).ok_or_else(|| D::Error::custom("must be a duration like 90s, 2m, 12h or 30d"))?;
    bounded(wait.as_secs(), 1, 86_400, "1s to 24h").map(Duration::from_secs)
}

/// The same, of one program.
pub fn maybe_timeout<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    unlock_timeout(from).map(Some)
}

/// 1 s to 365 d.
pub fn lock_after<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    let wait = parse_duration(&text).ok_or_else(|| D::Error::custom("must be a duration like 90s, 2m, 12h or 30d"))?;
    bounded(wait.as_secs(), 1, 365 * 86_400, "1s to 365d").map(|s| Some(Duration::from_secs(s)))
}

/// As [`write_duration`]; for `None` nothing, which is no text: the key is left out by TOML.
pub fn write_maybe_duration<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => write_duration(duration, to),
        None => to.serialize_none(),
    }
}

/// As [`unlock_timeout`] reads it, in the largest whole unit below hours.
pub fn write_duration<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{}s", duration.as_secs()))
}

/// Bytes: an integer, or text with `KiB`, `MiB`, `GiB` or `TiB`.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    struct Size;
    impl serde::de::Visitor<'_> for Size {
        type Value = u64;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a size like 65536 or \"64KiB\"")
        }
        fn visit_i64<E: Error>(self, n: i64) -> Result<u64, E> {
            u64::try_from(n).map_err(|_| E::invalid_value(Unexpected::Signed(n), &self))
        }
        fn visit_u64<E: Error>(self, n: u64) -> Result<u64, E> {
            Ok(n)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            parse_size(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }
    }
    from.deserialize_any(Size)
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, factor) = [("KiB", 1u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)]
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .unwrap_or((text, 1));
    digits(number.trim_end())?.checked_mul(factor)
}

/// Digits and nothing else: `+5` and ` 5` are mistakes.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The first uid of accounts: none of the system's.
pub fn first_uid<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let uid = bounded(count(from)?, 1000, (1 << 31) - 1, "1000 to 2147483647")?;
    u32::try_from(uid).map_err(D::Error::custom)
}

fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let n = i64::deserialize(from)?;
    u64::try_from(n).map_err(|_| D::Error::custom("cannot be negative"))
}

pub(super) fn bounded<E: Error>(value: u64, least: u64, most: u64, bounds: &str) -> Result<u64, E> {
    if (least..=most).contains(&value) { Ok(value) } else { Err(E::custom(format_args!("must be {bounds}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("64KiB", 65_536), ("1MiB", 1 << 20), ("2 GiB", 2 << 30), ("17", 17)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "MiB", "1MB", "1M", "-1", "1.5MiB", "99999999999GiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
