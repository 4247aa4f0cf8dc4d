//! The exit codes of the `pinfold` command: chosen here and nowhere else.
//!
//! Owns the numbers and what they mean; `docs/exit-codes.md` is the same table for readers. It never ends the process.

/// How a command ended. The numbers are interface: scripts branch on them, so they never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Done.
    Ok,
    /// Failed for a reason that has no code of its own.
    Failed,
    /// The command line, a path or the configuration file is wrong.
    Usage,
    /// Not allowed, or the content was refused.
    Refused,
    /// The store is locked.
    Locked,
    /// The store, a backup or the audit log is damaged or was tampered with.
    Damaged,
    /// There is no such secret, version or file.
    NotFound,
    /// No daemon answers at the control socket.
    Unreachable,
    /// It was so already: nothing was changed.
    NothingToDo,
    /// Of several, some were done and some were not.
    Partial,
}

impl Exit {
    /// Each of them, by number.
    pub const ALL: [Exit; 10] = [
        Exit::Ok,
        Exit::Failed,
        Exit::Usage,
        Exit::Refused,
        Exit::Locked,
        Exit::Damaged,
        Exit::NotFound,
        Exit::Unreachable,
        Exit::NothingToDo,
        Exit::Partial,
    ];

    /// The number given to exit(3).
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Locked => 4,
            Exit::Damaged => 5,
            Exit::NotFound => 6,
            Exit::Unreachable => 7,
            Exit::NothingToDo => 8,
            Exit::Partial => 9,
        }
    }

    /// Its name in the documentation.
    pub fn name(self) -> &'static str {
        match self {
            Exit::Ok => "ok",
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::Refused => "refused",
            Exit::Locked => "locked",
            Exit::Damaged => "damaged store",
            Exit::NotFound => "not found",
            Exit::Unreachable => "daemon unreachable",
            Exit::NothingToDo => "nothing to do",
            Exit::Partial => "partial",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_count_up_from_zero() {
        for (i, exit) in Exit::ALL.iter().enumerate() {
            assert_eq!(usize::from(exit.code()), i, "{exit:?}");
        }
    }

    #[test]
    fn the_table_in_the_documentation_is_this_one() {
        let doc = include_str!("../../docs/exit-codes.md");
        let rows: Vec<(u8, &str)> = doc
            .lines()
            .filter_map(|line| {
                let mut cells = line.trim_matches('|').split('|').map(str::trim);
                Some((cells.next()?.parse().ok()?, cells.next()?))
            })
            .collect();
        let ours: Vec<(u8, &str)> = Exit::ALL.iter().map(|e| (e.code(), e.name())).collect();
        assert_eq!(rows, ours);
    }
}
