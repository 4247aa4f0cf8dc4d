//! A listing as comma-separated values (RFC 4180): which column is what, and each field in locked memory.
//!
//! Owns what is no listing, which the reader of csv_core would take for one. An error names the line, never what is in it.

use super::super::Failure;
use super::Found;
use crate::model::PasswordName;
use crate::secret::Secret;
use crate::sys::arena::ArenaFull;
use csv_core::{ReadFieldResult, Reader, ReaderBuilder, Terminator};

/// The most columns a line has.
const COLUMNS_MAX: usize = 32;
/// The longest field in quotes, in bytes.
const QUOTED_MAX: usize = 4096;

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
    let mut rows = Rows::of(bytes)?;
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
    reader: Reader,
    rest: &'a [u8],
    line: usize,
    /// As long as the listing: each of its fields fits.
    field: Secret,
}

impl<'a> Rows<'a> {
    fn of(listing: &'a [u8]) -> Result<Self, ArenaFull> {
        // A carriage return alone ends no line.
        let reader = ReaderBuilder::new().terminator(Terminator::Any(b'\n')).build();
        Ok(Rows { reader, rest: listing, line: 1, field: Secret::zeroed(listing.len())? })
    }

    /// The next row and the line it begins in; what is wrong with it.
    fn next_row(&mut self) -> Result<Option<(usize, Vec<Secret>)>, String> {
        // Empty lines, which the reader would not count.
        while let Some(rest) = self.rest.strip_prefix(b"\n") {
            (self.rest, self.line) = (rest, self.line + 1);
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (begins, mut row) = (self.line, Vec::new());
        loop {
            let (field, ends) = self.next_field().map_err(|why| format!("line {begins}: {why}"))?;
            row.push(field);
            if ends {
                return Ok(Some((begins, row)));
            }
            if row.len() == COLUMNS_MAX {
                return Err(format!("line {begins}: more than {COLUMNS_MAX} columns"));
            }
        }
    }

    /// The next field, and whether it ends its row.
    fn next_field(&mut self) -> Result<(Secret, bool), String> {
        let into = self.field.expose_mut();
        let (mut result, read, mut len) = self.reader.read_field(self.rest, into);
        if result == ReadFieldResult::InputEmpty {
            // It ends where the listing does.
            let (at_end, _, more) = self.reader.read_field(b"", &mut into[len..]);
            (result, len) = (at_end, len + more);
        }
        let ReadFieldResult::Field { record_end } = result else { return Err("a field is too long".into()) };
        let (written, rest) = self.rest.split_at(read);
        self.rest = rest;
        self.line += written.iter().filter(|b| **b == b'\n').count();
        let written = written.strip_suffix(if record_end { b"\n" } else { b"," }).unwrap_or(written);
        let (written, len) = match written.strip_suffix(b"\r") {
            Some(written) if record_end => (written, len - 1),
            _ => (written, len),
        };
        if let Some(quoted) = written.strip_prefix(b"\"") {
            is_quoted(quoted)?;
        }
        Ok((Secret::copy_of(&self.field.expose()[..len]).map_err(|e| e.to_string())?, record_end))
    }
}

/// Whether this is what follows a quote and goes to another. The reader takes any field, and would make another password of it.
fn is_quoted(quoted: &[u8]) -> Result<(), String> {
    let mut rest = quoted;
    while let Some(at) = rest.iter().position(|b| *b == b'"') {
        match rest.get(at + 1) {
            Some(b'"') => rest = &rest[at + 2..],
            Some(_) => return Err("something follows a quote".into()),
            None if quoted.len() > QUOTED_MAX => return Err("a field is too long".into()),
            None => return Ok(()),
        }
    }
    Err("a quote does not end".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PASSWORD_MAX;

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
            ("x,\"a\" \ny,z", "line 1"),
            ("x,y\n\n\"a\"\"", "line 3"),
            ("user,password\nx,y", "line 1"),
            (&",".repeat(40), "line 1"),
            (&format!("\"{}\",x", "y".repeat(5000)), "line 1"),
        ] {
            let error = passwords(&Secret::copy_of(text.as_bytes()).unwrap()).err().unwrap();
            assert!(error.message().contains(line), "{}", error.message());
        }
    }

    #[test]
    fn a_field_is_what_it_says_to_the_byte() {
        let text = "ui-1,\"a\r\"\r\nui-2,p\rw\r\n\r\nui-3,a\"b\"\nui-4, \"x\"\nui-5,\"\"\nui-6,\"x\"\r";
        let expected = ["a\r", "p\rw", "a\"b\"", " \"x\"", "", "x"];
        let read = read(text);
        assert_eq!(read.iter().map(|(_, r)| r.clone().unwrap().1).collect::<Vec<_>>(), expected);
        assert_eq!(read.last().unwrap().0, "line 7");
        let long = "x".repeat(PASSWORD_MAX);
        assert_eq!(super::tests::read(&format!("ui-1,{long}")), [good("line 1", "root@ui-1:ssh", &long)]);
    }

    #[test]
    fn lines_in_a_quote_are_counted() {
        let read = read("ui-1,\"a\nb\"\nui-2,x");
        assert_eq!(read[1].0, "line 3");
    }
}
