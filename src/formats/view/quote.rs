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

/// A value in double quotes, with a backslash before quotes and backslashes, as git's and systemd's parsers read it.
/// `None` for control characters: each parser knows others of them.
pub(super) fn ini(text: &str) -> Option<String> {
    if text.chars().any(char::is_control) {
        return None;
    }
    Some(escaped(text, &['"', '\\']))
}

/// The same for NUT, which also wants a backslash before `#` (2.8.0 takes it for a broken line otherwise), and drops what is
/// not ASCII: `None` for that.
pub(super) fn nut(text: &str) -> Option<String> {
    let known = text.bytes().all(|b| (b' '..=b'~').contains(&b));
    known.then(|| escaped(text, &['"', '\\', '#']))
}

fn escaped(text: &str, special: &[char]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if special.contains(&c) {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
