//! How a user namespace counts ids: the lines of `/proc/PID/uid_map` and `gid_map`.

use serde::{Deserialize, Serialize};

/// One range: so many ids from `inside` on are those from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

/// A map of ids, as the initial namespace sees it. At most 340 ranges, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMap(Vec<Range>);

/// The map of uids and that of gids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMaps {
    /// uids.
    pub uid: IdMap,
    /// gids.
    pub gid: IdMap,
}

/// A map that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a map of ids: {0}")]
pub struct IdMapError(String);

/// The most ranges the kernel takes (user_namespaces(7)).
const RANGES_MAX: usize = 340;

impl IdMap {
    /// Every id means itself.
    pub fn identity() -> Self {
        IdMap(vec![Range { inside: 0, outside: 0, count: u32::MAX }])
    }

    /// Reads what `/proc/PID/uid_map` says to a reader in the initial user namespace.
    ///
    /// # Errors
    /// [`IdMapError`] for a map that is empty (not written yet), too long, overflows or overlaps.
    pub fn parse(text: &str) -> Result<Self, IdMapError> {
        let ranges = text.lines().map(Range::parse).collect::<Result<Vec<_>, _>>()?;
        if ranges.is_empty() {
            return Err(IdMapError("it is empty; it was not written yet".into()));
        }
        if ranges.len() > RANGES_MAX {
            return Err(IdMapError(format!("{} ranges", ranges.len())));
        }
        let overlap = |a: (u32, u32), b: (u32, u32)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
        for (i, a) in ranges.iter().enumerate() {
            for b in &ranges[i + 1..] {
                if overlap((a.inside, a.count), (b.inside, b.count))
                    || overlap((a.outside, a.count), (b.outside, b.count))
                {
                    return Err(IdMapError("two ranges overlap".into()));
                }
            }
        }
        Ok(IdMap(ranges))
    }

    /// What an id inside is outside; `None` for one the map does not have.
    pub fn to_outside(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|r| Some(r.outside + inside.checked_sub(r.inside).filter(|at| *at < r.count)?))
    }

    /// What an id outside is inside; `None` for one the map does not have.
    pub fn to_inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|r| Some(r.inside + outside.checked_sub(r.outside).filter(|at| *at < r.count)?))
    }
}

impl IdMaps {
    /// Every id means itself.
    pub fn identity() -> Self {
        IdMaps { uid: IdMap::identity(), gid: IdMap::identity() }
    }
}

impl Range {
    fn parse(line: &str) -> Result<Self, IdMapError> {
        let bad = || IdMapError(format!("'{line}'"));
        let numbers: Vec<u32> =
            line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().map_err(|_| bad())?;
        let [inside, outside, count] = numbers[..] else { return Err(bad()) };
        if count == 0 || inside.checked_add(count).is_none() || outside.checked_add(count).is_none() {
            return Err(bad());
        }
        Ok(Range { inside, outside, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_both_ways_and_those_outside_of_it_nowhere() {
        let map = IdMap::parse("         0     100000      65536\n     65536       7000          1\n").unwrap();
        for (inside, outside) in [(0, 100_000), (999, 100_999), (65_535, 165_535), (65_536, 7000)] {
            assert_eq!(map.to_outside(inside), Some(outside));
            assert_eq!(map.to_inside(outside), Some(inside));
        }
        assert_eq!(map.to_outside(65_537), None);
        assert_eq!(map.to_inside(0), None);
        assert_eq!(map.to_inside(165_536), None);
    }

    #[test]
    fn the_initial_namespace_maps_everything_to_itself() {
        let map = IdMap::parse("         0          0 4294967295\n").unwrap();
        assert_eq!(map, IdMap::identity());
        assert_eq!(map.to_outside(4_294_967_294), Some(4_294_967_294));
        assert_eq!(map.to_outside(u32::MAX), None);
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for bad in
            ["", "0 0", "0 0 0", "0 1 4294967295", "0 100000 10\n5 200000 10", "0 100000 10\n50 100005 10", "a b c"]
        {
            assert!(IdMap::parse(bad).is_err(), "{bad}");
        }
    }
}
