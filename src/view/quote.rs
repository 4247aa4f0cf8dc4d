//! Quoting: a value as a word of the shell, and as a value of an INI file.

/// One word of a POSIX shell, whatever is in it. `None` if it has a NUL byte.
pub(super) fn shell(text: &str) -> Option<String> {
    if text.contains('\0') {
        return None;
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        if c == '\'' { out.push_str("'\\''") } else { out.push(c) }
    }
    out.push('\'');
    Some(out)
}

/// A value in double quotes, with a backslash before quotes and backslashes, as NUT's, git's and systemd's parsers read
/// it. `None` for control characters: each parser knows others of them.
pub(super) fn ini(text: &str) -> Option<String> {
    if text.chars().any(char::is_control) {
        return None;
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    Some(out)
}
