//! Bytes as base64 (RFC 4648, padded) in JSON, without a copy on the ordinary heap.
//!
//! Owns the serde adapters. Encoding goes piece by piece into the serializer's writer; decoding goes from the borrowed
//! frame straight into a [`Secret`].

use crate::secret::Secret;
use ::base64::{Engine, engine::general_purpose::STANDARD};
use std::fmt;
use zeroize::Zeroize;

/// Bytes that show as base64. The piece on the stack is wiped.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut piece = [0u8; 1024];
        let mut done = Ok(());
        for chunk in self.0.chunks(768) {
            let n = STANDARD.encode_slice(chunk, &mut piece).expect("768 bytes are 1024 characters");
            done = f.write_str(std::str::from_utf8(&piece[..n]).expect("base64 is ASCII"));
            if done.is_err() {
                break;
            }
        }
        piece.zeroize();
        done
    }
}

/// Decodes text into a [`Secret`].
///
/// # Errors
/// What is wrong with it, in words; never the text.
pub fn decode(text: &str) -> Result<Secret, String> {
    let mut secret = Secret::zeroed(::base64::decoded_len_estimate(text.len())).map_err(|full| full.to_string())?;
    let n = STANDARD.decode_slice(text, secret.expose_mut()).map_err(|_| "not base64".to_owned())?;
    secret.resize(n).map_err(|full| full.to_string())?;
    Ok(secret)
}

/// Takes the string where it lies in the frame; one with escapes would have to be copied, and is refused.
struct InPlace;

impl<'de> serde::de::Visitor<'de> for InPlace {
    type Value = Secret;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64")
    }
    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Secret, E> {
        decode(text).map_err(E::custom)
    }
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Secret, E> {
        Err(E::custom("base64 must be written without escapes"))
    }
}

/// `#[serde(with = "base64::secret")]`.
pub mod secret {
    use super::*;
    use serde::{Deserializer, Serializer};

    /// Writes base64.
    pub fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Shown(secret.expose()))
    }

    /// Reads base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        from.deserialize_str(InPlace)
    }
}

/// The same for one that may be absent or null.
pub mod maybe_secret {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer};

    struct Taken(Secret);

    impl<'de> Deserialize<'de> for Taken {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            from.deserialize_str(InPlace).map(Taken)
        }
    }

    /// Writes base64 or null.
    pub fn serialize<S: Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => to.collect_str(&Shown(secret.expose())),
            None => to.serialize_none(),
        }
    }

    /// Reads base64 or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<Taken>::deserialize(from)?.map(|taken| taken.0))
    }
}

/// For bytes that are no secret: sealed blobs, parts of a backup.
pub mod plain {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::borrow::Cow;

    /// Writes base64.
    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Shown(bytes))
    }

    /// Reads base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        STANDARD.decode(text.as_bytes()).map_err(|_| D::Error::custom("not base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct One {
        #[serde(with = "secret")]
        content: Secret,
    }

    #[test]
    fn every_length_comes_back() {
        for len in [0usize, 1, 2, 3, 767, 768, 769, 5000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let json = serde_json::to_string(&One { content: Secret::copy_of(&bytes).unwrap() }).unwrap();
            let back: One = serde_json::from_str(&json).unwrap();
            assert_eq!(back.content.expose(), bytes);
        }
    }

    #[test]
    fn the_encoding_is_the_standard_one() {
        assert_eq!(Shown(b"\xfb\xff\xfe?").to_string(), "+//+Pw==");
    }

    #[test]
    fn escapes_and_garbage_are_refused_without_repeating_them() {
        for json in [r#"{"content":"c2Vj\u0063"}"#, r#"{"content":"c2Vj*"}"#, r#"{"content":"c2Vjc"}"#] {
            let error = serde_json::from_str::<One>(json).err().unwrap().to_string();
            assert!(!error.contains("c2Vj"), "{error}");
        }
    }
}
