//! The built-in compositions: pem, concat, pin389. They work in locked memory, without the template engine.

use super::pair::{Fit, fit};
use super::{Out, Part, ViewError, content, pem};
use crate::secret::Secret;

/// A token's name stands before a colon on a line.
pub(super) fn token(text: &str) -> Result<String, ViewError> {
    let plain = !text.is_empty() && text.len() <= 64 && !text.contains(':') && !text.chars().any(char::is_control);
    if plain {
        Ok(text.to_owned())
    } else {
        Err(ViewError::Definition("a token's name has 1 to 64 bytes, no colon and no control characters".into()))
    }
}

pub(super) fn concat(parts: &[Part<'_>], mut out: Out) -> Result<Secret, ViewError> {
    parts.iter().try_for_each(|part| out.push(part.content.expose()))?;
    Ok(out.done())
}

/// One private key, one certificate at least, and the first certificate is the key's.
pub(super) fn pem(parts: &[Part<'_>], mut out: Out) -> Result<Secret, ViewError> {
    let mut key = None;
    let mut leaf = None;
    for part in parts {
        let blocks = pem::blocks(part.content.expose()).map_err(|what| content(part, what))?;
        if blocks.is_empty() {
            return Err(content(part, "is not PEM"));
        }
        for block in blocks {
            if block.is_private_key() && key.replace(block).is_some() {
                return Err(content(part, "brings a second private key"));
            }
            if block.is_certificate() && leaf.is_none() {
                leaf = Some((part, block));
            }
        }
        out.push_lines(part.content.expose())?;
    }
    let key = key.ok_or_else(|| ViewError::Missing("a private key".into()))?;
    let (part, leaf) = leaf.ok_or_else(|| ViewError::Missing("a certificate".into()))?;
    let der = leaf.der().ok_or_else(|| content(part, "has a certificate that is not base64"))?;
    match fit(&key, &der) {
        Fit::No => Err(ViewError::Mismatch),
        Fit::Yes | Fit::Unknown => Ok(out.done()),
    }
}

pub(super) fn pin389(token: &str, parts: &[Part<'_>], mut out: Out) -> Result<Secret, ViewError> {
    let [part] = parts else { return Err(ViewError::Missing("the pin".into())) };
    let pin = without_line_end(part.content.expose());
    if pin.is_empty() || pin.iter().any(|b| matches!(b, b'\n' | b'\r' | 0)) {
        return Err(content(part, "is not one line"));
    }
    for piece in [token.as_bytes(), b":", pin, b"\n"] {
        out.push(piece)?;
    }
    Ok(out.done())
}

/// Without one line end: most secrets of one line are written by tools that add one.
pub(super) fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}
