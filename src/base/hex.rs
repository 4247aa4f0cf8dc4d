//! Bytes in hexadecimal, and back.

/// The digits as they are written.
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Two small digits for each byte.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(2 * bytes.len());
    push(&mut out, bytes);
    String::from_utf8(out).expect("hexadecimal digits are ASCII")
}

/// The same, appended.
pub fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// What [`encode`] wrote, and nothing else: exactly so many bytes, in small digits.
pub fn decode_exact<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |c: &u8| DIGITS.contains(c).then(|| value(*c)).flatten();
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(&pair[0])? << 4 | digit(&pair[1])?;
    }
    Some(out)
}

/// What people and other programs write: any number of bytes, in small or capital digits.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(value(*pair.first()?)? << 4 | value(*pair.get(1)?)?)).collect()
}

fn value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|v| u8::try_from(v).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let all: Vec<u8> = (0..=255).collect();
        let text = encode(&all);
        assert!(text.starts_with("000102") && text.ends_with("fdfeff"));
        assert_eq!(decode(&text), Some(all.clone()));
        assert_eq!(decode(&text.to_uppercase()), Some(all.clone()));
        assert_eq!(decode_exact::<256>(text.as_bytes()).map(Vec::from), Some(all));
        assert_eq!((encode(b""), decode("")), (String::new(), Some(Vec::new())));
    }

    #[test]
    fn what_is_none_is_not_read() {
        for bad in ["0", "0g", "g0", "+1", " 1", "0x", "é"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        for bad in ["", "ab", "abc", "abcde", "abCd", "ab d", "abcg"] {
            assert_eq!(decode_exact::<2>(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(decode_exact(b"abcd"), Some([0xab, 0xcd]));
    }
}
