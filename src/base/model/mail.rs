//! Mail addresses, as far as they are used here: one mailbox, in a form that nothing takes for anything else.

/// Whether a text is one mailbox (`root`, `ops@example.org`): atoms and dots, once around an `@` at most. No lists,
/// comments, quotes or routes, and nothing a program takes for an option.
pub fn is_mail_address(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-@=%".contains(&b);
    (1..=254).contains(&text.len())
        && text.bytes().all(plain)
        && text.matches('@').count() <= 1
        && !text.starts_with(['@', '-', '.'])
        && !text.ends_with('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mailbox_and_nothing_else() {
        for good in ["root", "ops@example.org", "a.b+c-d_e=f%g@h"] {
            assert!(is_mail_address(good), "{good}");
        }
        for bad in ["", "a\nBcc: b@c", "a, b", "a b", "<a@b>", "a@b@c", "-t", "@a", "a@", "a\"b", "a\r", "é@b", "a;b"]
        {
            assert!(!is_mail_address(bad), "{bad:?}");
        }
        assert!(!is_mail_address(&"a".repeat(255)));
    }
}
