//! A listing as comma-separated values (RFC 4180): which column is what, and each field in locked memory.
//!
//! Owns the form. An error names the line, never what is in it.

use super::super::Failure;
use super::Found;
use crate::model::PasswordName;
use crate::secret::Secret;
use crate::sys::arena::ArenaFull;

/// The most columns a line has.
const COLUMNS_MAX: usize = 32;

/// What is in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    User,
    Host,
    Service,
    Password,
    Other,
}

impl Column {
    fn of(heading: &str) -> Column {
        match heading.trim().to_lowercase().as_str() {
            "name" | "entry" | "account" => Column::Name,
            "user" | "username" | "login" => Column::User,
            "host" | "hostname" | "machine" | "node" => Column::Host,
            "service" | "type" => Column::Service,
            "password" | "passwd" | "secret" => Column::Password,
            _ => Column::Other,
        }
    }

    /// Without a heading: by the number of columns.
    fn by_count(count: usize) -> Option<&'static [Column]> {
        match count {
            2 => Some(&[Column::Name, Column::Password]),
            3 => Some(&[Column::User, Column::Host, Column::Password]),
            4 => Some(&[Column::User, Column::Host, Column::Service, Column::Password]),
            _ => None,
        }
    }
}

/// The passwords of a listing.
///
/// # Errors
/// A usage error if it is no listing, or its heading has no password in it.
pub fn passwords(listing: &Secret) -> Result<Vec<Found>, Failure> {
    let bytes = listing.expose().strip_prefix(b"\xef\xbb\xbf").unwrap_or(listing.expose());
    let mut rows = Rows { rest: bytes, line: 0 };
    let mut heading: Option<Vec<Column>> = None;
    let mut all = Vec::new();
    let mut first = true;
    while let Some((line, row)) = rows.next_row().map_err(Failure::usage)? {
        if matches!(row.as_slice(), [only] if only.is_empty())
            || row.first().is_some_and(|f| f.expose().starts_with(b"#"))
        {
            continue;
        }
        if std::mem::take(&mut first)
            && let Some(columns) = as_heading(&row)
        {
            let has = |column| columns.contains(&column);
            if !has(Column::Password) || !(has(Column::Name) || has(Column::Host)) {
                return Err(Failure::usage(format!(
                    "line {line}: the heading names no password, or neither name nor host"
                )));
            }
            heading = Some(columns);
            continue;
        }
        let columns = heading.as_deref().or_else(|| Column::by_count(row.len()));
        let password = match columns {
            Some(columns) if columns.len() == row.len() => of_row(columns, row),
            Some(_) => Err("it has not the columns of the heading".into()),
            None => Err(format!("it has {} columns; without a heading there are 2 to 4", row.len())),
        };
        all.push(Found { at: format!("line {line}"), password });
    }
    Ok(all)
}

/// The columns, if these are headings: one of them says password, and that is none of its own.
fn as_heading(row: &[Secret]) -> Option<Vec<Column>> {
    let text = |field: &Secret| std::str::from_utf8(field.expose()).map(Column::of).unwrap_or(Column::Other);
    let columns: Vec<Column> = row.iter().map(text).collect();
    let known = columns.iter().filter(|c| **c != Column::Other).count();
    (columns.contains(&Column::Password) && known >= 2).then_some(columns)
}

fn of_row(columns: &[Column], row: Vec<Secret>) -> Result<(PasswordName, Secret), String> {
    let (mut name, mut user, mut host, mut service, mut password) = (None, None, None, None, None);
    for (column, field) in columns.iter().zip(row) {
        let text =
            |field: &Secret| String::from_utf8(field.expose().trim_ascii().to_vec()).ok().filter(|t| !t.is_empty());
        match column {
            Column::Name => name = text(&field),
            Column::User => user = text(&field),
            Column::Host => host = text(&field),
            Column::Service => service = text(&field),
            Column::Password => password = Some(field),
            Column::Other => {}
        }
    }
    let name = match (name, host) {
        (Some(name), None) => PasswordName::parse(&name),
        (_, Some(host)) => {
            PasswordName::of(user.as_deref().unwrap_or("root"), &host, service.as_deref().unwrap_or("ssh"))
        }
        (None, None) => return Err("it names no host".into()),
    };
    Ok((name.map_err(|e| e.to_string())?, password.ok_or("it has no password")?))
}

struct Rows<'a> {
    rest: &'a [u8],
    line: usize,
}

impl Rows<'_> {
    /// The next row and the line it begins in; what is wrong with it.
    fn next_row(&mut self) -> Result<Option<(usize, Vec<Secret>)>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        let begins = self.line;
        let mut row = Vec::new();
        loop {
            let (field, end) = self.field().map_err(|why| format!("line {begins}: {why}"))?;
            row.push(field);
            match end {
                Some(b',') if row.len() < COLUMNS_MAX => {}
                Some(b',') => return Err(format!("line {begins}: more than {COLUMNS_MAX} columns")),
                _ => return Ok(Some((begins, row))),
            }
        }
    }

    /// A field, and what ended it: a comma, or the line.
    fn field(&mut self) -> Result<(Secret, Option<u8>), String> {
        let full = |e: ArenaFull| e.to_string();
        if let Some(quoted) = self.rest.strip_prefix(b"\"") {
            let mut field = Secret::zeroed(quoted.len().min(4096)).map_err(full)?;
            let (mut at, mut filled) = (0, 0);
            loop {
                let byte = match (quoted.get(at), quoted.get(at + 1)) {
                    (Some(b'"'), Some(b'"')) => {
                        at += 1;
                        b'"'
                    }
                    (Some(b'"'), _) => break,
                    (Some(byte), _) => *byte,
                    (None, _) => return Err("a quote does not end".into()),
                };
                self.line += usize::from(byte == b'\n');
                if filled == field.len() {
                    return Err("a field is too long".into());
                }
                field.expose_mut()[filled] = byte;
                (at, filled) = (at + 1, filled + 1);
            }
            field.resize(filled).map_err(full)?;
            self.rest = &quoted[at + 1..];
            return match self.ended() {
                Some(end) => Ok((field, end)),
                None => Err("something follows a quote".into()),
            };
        }
        let end = self.rest.iter().position(|b| matches!(b, b',' | b'\n')).unwrap_or(self.rest.len());
        let (field, rest) = self.rest.split_at(end);
        let field = if rest.first() == Some(&b',') { field } else { field.strip_suffix(b"\r").unwrap_or(field) };
        let field = Secret::copy_of(field).map_err(full)?;
        self.rest = rest;
        Ok((field, self.ended().flatten()))
    }

    /// Takes what ends a field; `None` if something else is there.
    fn ended(&mut self) -> Option<Option<u8>> {
        for (end, said) in [(&b","[..], Some(b',')), (b"\r\n", None), (b"\n", None)] {
            if let Some(rest) = self.rest.strip_prefix(end) {
                self.rest = rest;
                return Some(said);
            }
        }
        (self.rest.is_empty() || self.rest == b"\r").then(|| {
            self.rest = b"";
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where, and either name and password, or why not.
    type Read = (String, Result<(String, String), String>);

    fn read(text: &str) -> Vec<Read> {
        let listing = Secret::copy_of(text.as_bytes()).unwrap();
        let shown = |(name, secret): (PasswordName, Secret)| {
            (name.to_string(), String::from_utf8(secret.expose().to_vec()).unwrap())
        };
        passwords(&listing).unwrap().into_iter().map(|f| (f.at, f.password.map(shown))).collect()
    }

    fn good(at: &str, name: &str, password: &str) -> Read {
        (at.into(), Ok((name.into(), password.into())))
    }

    #[test]
    fn with_a_heading_columns_may_stand_in_any_order() {
        let text = "\u{feff}Host,Comment,Password,User\r\nui-1,\"a, b\",\"p\"\"w,d\",root\r\nui-2,,x,\r\n";
        let expected = [good("line 2", "root@ui-1:ssh", "p\"w,d"), good("line 3", "root@ui-2:ssh", "x")];
        assert_eq!(read(text), expected);
        assert_eq!(read("name,service,password\na@h:s,x,y"), [good("line 2", "a@h:s", "y")]);
    }

    #[test]
    fn without_one_their_number_says_what_they_are() {
        let text = "# a comment\nui-1, p w \n\nadmin,ui-1,x\nnut,ups,upsd,y";
        let expected = [
            good("line 2", "root@ui-1:ssh", " p w "),
            good("line 4", "admin@ui-1:ssh", "x"),
            good("line 5", "nut@ups:upsd", "y"),
        ];
        assert_eq!(read(text), expected);
    }

    #[test]
    fn a_bad_line_keeps_no_other_out_and_is_not_repeated() {
        let read = read("host,password\n-oProxyCommand=x,hunter2\nui-1\nui-2,hunter2\n,hunter2\n");
        assert!(read[0].1.is_err() && read[1].1.is_err() && read[3].1.is_err());
        assert_eq!(read[2], good("line 4", "root@ui-2:ssh", "hunter2"));
        for why in read.iter().filter_map(|(_, r)| r.as_ref().err()) {
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn what_is_no_listing_is_an_error_that_names_the_line() {
        for (text, line) in [
            ("a,b\n\"a,b", "line 2"),
            ("\"a\"b,c", "line 1"),
            ("user,password\nx,y", "line 1"),
            (&",".repeat(40), "line 1"),
            (&format!("\"{}\",x", "y".repeat(5000)), "line 1"),
        ] {
            let error = passwords(&Secret::copy_of(text.as_bytes()).unwrap()).err().unwrap();
            assert!(error.message().contains(line), "{}", error.message());
        }
    }

    #[test]
    fn lines_in_a_quote_are_counted() {
        let read = read("ui-1,\"a\nb\"\nui-2,x");
        assert_eq!(read[1].0, "line 3");
    }
}
