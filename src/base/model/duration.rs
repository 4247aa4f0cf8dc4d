//! Durations as people write them in files.

use std::time::Duration;

/// `90s`, `2m`, `12h`, `30d`; `None` for anything else.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.len().checked_sub(1)?;
    let (number, unit) = (text.get(..split)?, text.get(split..)?);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    // Digits and nothing else: `+5` and ` 5` are mistakes.
    let number: u64 = if number.bytes().all(|b| b.is_ascii_digit()) { number.parse().ok()? } else { return None };
    number.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, secs) in [("90s", 90), ("2m", 120), ("12h", 43_200), ("30d", 2_592_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(secs)), "{text}");
        }
        for bad in ["", "s", "90", "-1s", "+1s", "1.5h", "1 s", "1w", "9999999999999999999d", "1é"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
