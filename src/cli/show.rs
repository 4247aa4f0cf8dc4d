//! How things are shown to people: names that cannot move the cursor, modes as ls(1) writes them, columns.
//!
//! Owns the layout of text. JSON is the wire's.

use crate::model::Timestamp;
use crate::wire::NodeKind;
use std::borrow::Cow;
use std::io::{self, Write};

/// Text in which control characters and those that change the direction of writing are escaped: a name may have been
/// made to look like another, or to drive the terminal. A backslash is doubled, so that it is unambiguous.
pub fn visible(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(|c| hidden(c) || c == '\\') {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if hidden(c) || c == '\\' { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// `-rw-r-----`, and `+` where an ACL or a condition says more.
pub fn mode(kind: NodeKind, mode: u16, more: bool) -> String {
    let mut text = String::with_capacity(11);
    text.push(match kind {
        NodeKind::Directory => 'd',
        NodeKind::File => '-',
        NodeKind::Symlink => 'l',
    });
    for shift in [6, 3, 0] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, shift == 0 && mode & 0o1000 != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => 't',
            (false, true) => 'T',
        });
    }
    if more {
        text.push('+');
    }
    text
}

/// To the second, UTC.
pub fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::from(at).max(std::time::UNIX_EPOCH)).to_string()
}

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows as aligned columns, two blanks between; the last column is as long as it is.
pub fn columns(out: &mut dyn Write, sides: &[Side], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths = vec![0; sides.len()];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for ((cell, side), width) in row.iter().zip(sides).zip(&widths) {
            let blanks = width - cell.chars().count();
            if *side == Side::Right {
                line.extend(std::iter::repeat_n(' ', blanks));
            }
            line.push_str(cell);
            if *side == Side::Left {
                line.extend(std::iter::repeat_n(' ', blanks));
            }
            line.push_str("  ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Bytes in the largest unit that keeps three digits: `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "bytes");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "bytes" { format!("{n} bytes") } else { format!("{value:.1} {unit}") }
}

/// One JSON value and a newline.
pub fn json(out: &mut dyn Write, value: &impl serde::Serialize) -> Result<(), super::Failure> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    Ok(out.write_all(b"\n")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_move_the_cursor_or_pose_as_others() {
        assert_eq!(visible("svc/pín"), "svc/pín");
        assert_eq!(visible("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(visible("a\\nb"), "a\\\\nb");
        assert_eq!(visible("x\u{202e}y\u{9b}"), "x\\u{202e}y\\u{9b}");
    }

    #[test]
    fn modes_look_as_in_ls() {
        assert_eq!(mode(NodeKind::File, 0o640, false), "-rw-r-----");
        assert_eq!(mode(NodeKind::Directory, 0o1777, true), "drwxrwxrwt+");
        assert_eq!(mode(NodeKind::Directory, 0o1770, false), "drwxrwx--T");
        assert_eq!(mode(NodeKind::Symlink, 0o777, false), "lrwxrwxrwx");
    }

    #[test]
    fn columns_line_up() {
        let mut out = Vec::new();
        let rows = [["a", "1", "x"], ["bbb", "100", ""]].map(|r| r.map(str::to_owned).to_vec());
        columns(&mut out, &[Side::Left, Side::Right, Side::Left], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a      1  x\nbbb  100\n");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }
}
