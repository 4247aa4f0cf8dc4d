//! What keeps a template small while it runs: the engine counts steps, and one step can make a gigabyte.
//!
//! Owns three rules. Whatever is kept in a variable, walked by a loop, or given to or had from a filter, is at most as large as a secret may be.
//! One expression joins only so many values. What could grow past both is not there: `*` and `**`, `with`, `filter`, blocks of `set`,
//! and loops that call themselves.

use super::ViewError;
use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters};
use std::ops::Range;

/// The filter that each kept value goes through.
const KEPT: &str = "pinfold_kept";
/// How many values one expression joins, with `~`, `+` and commas.
const JOINED: usize = 32;
/// The most items of a list that a filter makes or takes.
const ITEMS: usize = 10_000;
/// The widest indentation, and column of `format`.
const WIDTH: usize = 256;
/// How deep lists and maps are looked into.
const DEPTH: usize = 16;
/// Statements that keep output, or values, where nothing can be asked of them.
const REFUSED: [&str; 4] = ["with", "filter", "call", "macro"];

/// The template with its kept values bounded, on the same lines.
///
/// # Errors
/// [`ViewError::Template`] for what cannot be bounded.
pub(super) fn guarded(text: &str) -> Result<String, ViewError> {
    let mut out = String::with_capacity(text.len() + 64);
    let mut done = 0;
    for block in blocks(text) {
        let code = &text[block.clone()];
        let line = || text[..block.start].matches('\n').count() + 1;
        let wrong = |what: &str| ViewError::Template { line: line(), what: what.to_owned() };
        let words = Words::of(code);
        if words.joins > JOINED {
            return Err(wrong("it joins too many values in one expression"));
        }
        if words.multiplies {
            return Err(wrong("there is no multiplication"));
        }
        let statement = text[..block.start].ends_with("{%");
        let first = words.all.first().filter(|_| statement).map(|(_, word, _)| *word);
        let kept = match first {
            Some(word) if REFUSED.contains(&word) => return Err(wrong("that statement is not there")),
            Some("set") => match words.assigned {
                Some(at) => Some(at + 1..code.len()),
                None => return Err(wrong("set takes a value, not a block")),
            },
            Some("for") => {
                let outer = |name: &str| words.all.iter().find(|(_, word, depth)| *word == name && *depth == 0);
                if outer("recursive").is_some() {
                    return Err(wrong("loops do not call themselves"));
                }
                let from = outer("in").map(|(at, word, _)| at + word.len());
                let to = words.all.iter().find(|(at, word, depth)| Some(*at) > from && *word == "if" && *depth == 0);
                from.map(|from| from..to.map_or(code.len(), |(at, ..)| *at))
            }
            Some(_) | None => None,
        };
        if let Some(Range { start, end }) = kept {
            let trimmed = code[start..end].trim_end_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
            let end = start + trimmed.len();
            out.push_str(&text[done..block.start + start]);
            out.push_str(&format!(" ({trimmed})|{KEPT} "));
            done = block.start + end;
        }
    }
    out.push_str(&text[done..]);
    Ok(out)
}

/// Where the code of each expression and statement is, its whitespace control included.
fn blocks(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find('{').map(|i| at + i) {
        let skip = |from: usize, what: &str| text[from..].find(what).map_or(text.len(), |i| from + i + what.len());
        let end = match text.as_bytes().get(open + 1) {
            Some(b'#') => {
                at = skip(open, "#}");
                continue;
            }
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            _ => {
                at = open + 1;
                continue;
            }
        };
        let from = open + 2;
        let to = end_of(text, from, end);
        found.push(from..to);
        at = (to + 2).min(text.len());
        let statement = text[from..to].trim_start_matches(['-', '+']).trim();
        if end == "%}" && statement.trim_end_matches(['-', '+']).trim_end() == "raw" {
            at = skip(skip(at, "endraw"), "%}");
        }
    }
    found
}

/// Where a block's code ends: strings and braces are passed.
fn end_of(text: &str, from: usize, end: &str) -> usize {
    let (mut at, mut braces) = (from, 0usize);
    while let Some(c) = text[at..].chars().next() {
        match c {
            _ if braces == 0 && text[at..].starts_with(end) => return at,
            '"' | '\'' => {
                at = end_of_string(text, at);
                continue;
            }
            '{' => braces += 1,
            '}' => braces = braces.saturating_sub(1),
            _ => {}
        }
        at += c.len_utf8();
    }
    text.len()
}

fn end_of_string(text: &str, from: usize) -> usize {
    let quote = text[from..].chars().next();
    let mut escaped = false;
    for (i, c) in text[from..].char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if Some(c) == quote => return from + i + 1,
            _ => {}
        }
    }
    text.len()
}

/// What of a block's code matters.
struct Words<'t> {
    /// Where each word is, and how deep in brackets.
    all: Vec<(usize, &'t str, usize)>,
    joins: usize,
    multiplies: bool,
    /// The first `=` outside all brackets that compares nothing.
    assigned: Option<usize>,
}

impl<'t> Words<'t> {
    fn of(code: &'t str) -> Self {
        let mut words = Words { all: Vec::new(), joins: 0, multiplies: false, assigned: None };
        let (mut at, mut depth, mut before) = (0, 0usize, ' ');
        while let Some(c) = code[at..].chars().next() {
            let mut next = at + c.len_utf8();
            match c {
                '"' | '\'' => next = end_of_string(code, at),
                _ if c.is_alphabetic() || c == '_' => {
                    let rest = &code[at..];
                    let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                    // An attribute of that name is none of ours.
                    if before != '.' {
                        words.all.push((at, &rest[..len], depth));
                    }
                    next = at + len;
                }
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                '~' | '+' | ',' => words.joins += 1,
                '*' => words.multiplies = true,
                '=' if code[next..].starts_with('=') => next += 1,
                '=' if !matches!(before, '!' | '<' | '>') && depth == 0 && words.assigned.is_none() => {
                    words.assigned = Some(at);
                }
                _ => {}
            }
            if !c.is_whitespace() {
                before = c;
            }
            at = next;
        }
        words
    }
}

/// Puts every filter that takes or makes much behind a look at how much, and takes away what no template needs.
pub(super) fn bound_filters(env: &mut Environment<'_>, max: usize) {
    for gone in ["batch", "slice", "groupby", "chain", "zip", "pprint"] {
        env.remove_filter(gone);
    }
    let of_list: [(&'static str, Value); 20] = [
        ("list", Value::from_function(filters::list)),
        ("sort", Value::from_function(filters::sort)),
        ("unique", Value::from_function(filters::unique)),
        ("map", Value::from_function(filters::map)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("join", Value::from_function(filters::join)),
        ("sum", Value::from_function(filters::sum)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("items", Value::from_function(filters::items)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("split", Value::from_function(filters::split)),
        ("lines", Value::from_function(filters::lines)),
        ("first", Value::from_function(filters::first)),
        ("last", Value::from_function(filters::last)),
        ("length", Value::from_function(filters::length)),
        ("count", Value::from_function(filters::length)),
    ];
    for (name, original) in of_list {
        let made_of_text = !matches!(name, "first" | "last" | "length" | "count");
        guard(env, name, original, max, move |args| match (name, args) {
            ("split", [text, ..]) => few(text.as_str().map_or(0, |t| t.len().min(pieces(t, args.get(1))))),
            ("lines", [text, ..]) => few(text.as_str().map_or(0, |t| t.lines().count())),
            ("join", [list, ..]) => {
                few(list.len().unwrap_or(0))?;
                let between = args.get(1).and_then(|by| by.as_str()).map_or(0, str::len);
                fits(between.saturating_mul(list.len().unwrap_or(0)), max)
            }
            (_, [list, ..]) if made_of_text => few(list.len().unwrap_or(0)),
            _ => Ok(()),
        });
    }
    let of_text: [(&'static str, Value); 12] = [
        ("replace", Value::from_function(filters::replace)),
        ("indent", Value::from_function(filters::indent)),
        ("format", Value::from_function(filters::format)),
        ("upper", Value::from_function(filters::upper)),
        ("lower", Value::from_function(filters::lower)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("trim", Value::from_function(filters::trim)),
        ("reverse", Value::from_function(filters::reverse)),
        ("string", Value::from_function(filters::string)),
        ("escape", Value::from_function(filters::escape)),
        ("e", Value::from_function(filters::escape)),
    ];
    for (name, original) in of_text {
        guard(env, name, original, max, move |args| match (name, args) {
            ("replace", [text, from, to, ..]) => replaced(text, from, to, max),
            ("indent", [text, width, ..]) => indented(text, width, max),
            ("format", [text, ..]) => formatted(text.as_str().unwrap_or_default()),
            _ => Ok(()),
        });
    }
    env.add_filter(KEPT, move |value: Value| fits(size(&value, max, DEPTH), max).map(|()| value));
}

fn guard(
    env: &mut Environment<'_>,
    name: &'static str,
    original: Value,
    max: usize,
    check: impl Fn(&[Value]) -> Result<(), Error> + Send + Sync + 'static,
) {
    env.add_filter(name, move |state: &State<'_, '_>, args: Rest<Value>| {
        let together = args.iter().fold(0usize, |sum, arg| sum.saturating_add(size(arg, max, DEPTH)));
        fits(together, max)?;
        check(&args)?;
        let made = original.call(state, &args)?;
        fits(size(&made, max, DEPTH), max)?;
        Ok::<_, Error>(made)
    });
}

/// Bytes of a value with all that is in it; more than `max` as soon as that is known.
fn size(value: &Value, max: usize, depth: usize) -> usize {
    if let Some(text) = value.as_str() {
        return text.len();
    }
    if let Some(bytes) = value.as_bytes() {
        return bytes.len();
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return 1;
    }
    if depth == 0 {
        return usize::MAX;
    }
    let Ok(items) = value.try_iter() else { return 1 };
    let map = value.kind() == ValueKind::Map;
    let mut sum = 1usize;
    for item in items {
        sum = sum.saturating_add(size(&item, max, depth - 1));
        if map && let Ok(inner) = value.get_item(&item) {
            sum = sum.saturating_add(size(&inner, max, depth - 1));
        }
        if sum > max {
            break;
        }
    }
    sum
}

fn fits(bytes: usize, max: usize) -> Result<(), Error> {
    if bytes <= max { Ok(()) } else { Err(too_large()) }
}

fn few(items: usize) -> Result<(), Error> {
    if items <= ITEMS { Ok(()) } else { Err(Error::new(ErrorKind::EvalBlock, "a list of too many items")) }
}

fn too_large() -> Error {
    Error::new(ErrorKind::EvalBlock, "a value larger than a secret may be")
}

fn pieces(text: &str, by: Option<&Value>) -> usize {
    match by.and_then(|by| by.as_str()) {
        Some("") => text.chars().count() + 2,
        Some(by) => text.matches(by).count() + 1,
        None => text.split_whitespace().count(),
    }
}

fn replaced(text: &Value, from: &Value, to: &Value, max: usize) -> Result<(), Error> {
    let (Some(text), Some(from), Some(to)) = (text.as_str(), from.as_str(), to.as_str()) else { return Ok(()) };
    let times = if from.is_empty() { text.chars().count() + 1 } else { text.matches(from).count() };
    fits(text.len().saturating_add(times.saturating_mul(to.len())), max)
}

fn indented(text: &Value, width: &Value, max: usize) -> Result<(), Error> {
    let width = width.as_usize().unwrap_or(0);
    if width > WIDTH {
        return Err(Error::new(ErrorKind::EvalBlock, "an indentation that is too wide"));
    }
    let text = text.as_str().unwrap_or_default();
    fits(text.len().saturating_add(width.saturating_mul(text.lines().count() + 1)), max)
}

/// Widths and precisions stand in the text, or are given for a `*`.
fn formatted(text: &str) -> Result<(), Error> {
    let wide = text.split('%').skip(1).any(|piece| {
        let spec =
            piece.find(|c: char| !"-+ #.*".contains(c) && !c.is_ascii_digit()).map_or(piece, |end| &piece[..end]);
        let wide = |n: &str| !n.is_empty() && n.parse().map_or(true, |n: usize| n > WIDTH);
        spec.contains('*') || spec.split(|c: char| !c.is_ascii_digit()).any(wide)
    });
    if wide { Err(Error::new(ErrorKind::EvalBlock, "a column that is too wide")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_values_are_bounded_where_they_are() {
        for (text, guarded_text) in [
            ("{% set a = x ~ y %}{{ a }}", "{% set a = ( x ~ y)|pinfold_kept  %}{{ a }}"),
            ("{%- set a = {'b': '%}'} -%}", "{%- set a = ( {'b': '%}'})|pinfold_kept  -%}"),
            ("{% for k, v in d.items() if k == 'a' %}", "{% for k, v in ( d.items())|pinfold_kept  if k == 'a' %}"),
            ("{% for a in b %}{# {% set x = 1 %} #}", "{% for a in ( b)|pinfold_kept  %}{# {% set x = 1 %} #}"),
            (
                "{% raw %}{% set a %}{% endraw %}{{ '{% set a %}' }}",
                "{% raw %}{% set a %}{% endraw %}{{ '{% set a %}' }}",
            ),
            ("{% if a == b %}x * y{% endif %}", "{% if a == b %}x * y{% endif %}"),
        ] {
            let found = guarded(text).unwrap();
            let squeezed = |t: &str| t.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(squeezed(&found), squeezed(guarded_text));
        }
    }

    #[test]
    fn what_cannot_be_bounded_is_refused() {
        let many = format!("{{{{ x{} }}}}", " ~ x".repeat(33));
        for text in [
            "{% set a %}x{% endset %}",
            "{% with a = 1 %}{% endwith %}",
            "{% filter upper %}x{% endfilter %}",
            "{% for a in b recursive %}{% endfor %}",
            "{{ 'x' * 100 }}",
            "{{ 2 ** 3 }}",
            &many,
        ] {
            assert!(guarded(text).is_err(), "{text}");
        }
    }
}
