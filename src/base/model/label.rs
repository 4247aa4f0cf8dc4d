//! The label that the kernel's security module gives a process: an AppArmor profile, an SELinux type.
//!
//! Owns how `/proc/PID/attr/current` is read, and which label a condition means. It knows no process and opens no file.

use super::Doubt;
use std::fmt;

/// The longest value of a condition, in bytes.
const PATTERN_MAX: usize = 255;
/// AppArmor's modes in which a profile holds who has it (aa-status(8)). In the others it confines nothing, and who has it may
/// leave it for any other.
const HOLDING: [&str; 2] = ["enforce", "kill"];

/// What the kernel says a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// As the file has it, less its end.
    shown: Box<str>,
    /// What a condition is compared with; `None` if it holds nobody.
    name: Option<Box<str>>,
}

impl Label {
    /// Reads what the file says.
    ///
    /// # Errors
    /// [`Doubt`] if it says nothing.
    pub fn parse(text: &str) -> Result<Self, Doubt> {
        let shown = text.trim_end_matches(['\0', '\n']);
        if shown.is_empty() {
            return Err(Doubt("its label is empty".into()));
        }
        Ok(Label { shown: shown.into(), name: name_of(shown).map(Into::into) })
    }

    /// Whether a condition with this value means it. `*` is any text; but the profiles of an AppArmor namespace, whose
    /// root made them (`:namespace://profile`), and stacks of profiles (`a//&b`) fit only what is written as they are.
    pub fn fits(&self, pattern: &str) -> bool {
        let Some(name) = &self.name else { return false };
        if name.starts_with(':') && !pattern.starts_with(':') || name.contains("//&") && !pattern.contains("//&") {
            return false;
        }
        like(pattern, name)
    }

    /// Whether this can be the value of a condition: one that means everything would be none.
    pub fn is_pattern(text: &str) -> bool {
        (1..=PATTERN_MAX).contains(&text.len())
            && !text.chars().any(char::is_control)
            && text.chars().any(|c| c != '*')
            && text != UNCONFINED
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// AppArmor's word for who has no profile.
const UNCONFINED: &str = "unconfined";

fn name_of(shown: &str) -> Option<&str> {
    // AppArmor: `profile (mode)`, or the bare word. What is not UTF-8 was read with replacements: not what it is.
    if shown == UNCONFINED || shown.contains('\u{fffd}') {
        return None;
    }
    if let Some((profile, mode)) = shown.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) {
        return HOLDING.contains(&mode).then_some(profile);
    }
    // SELinux: `user:role:type:level`.
    let mut fields = shown.split(':');
    match (fields.next(), fields.next(), fields.next()) {
        (Some(user), Some(_), Some(kind)) if !user.is_empty() => Some(kind),
        _ => Some(shown),
    }
}

/// Whether the text is as the pattern says, in steps bounded by the product of their lengths.
fn like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(text: &str, pattern: &str) -> bool {
        Label::parse(text).unwrap().fits(pattern)
    }

    #[test]
    fn a_profile_counts_only_where_it_holds() {
        assert!(fits("/usr/sbin/nginx (enforce)\n", "/usr/sbin/nginx"));
        assert!(fits("nginx (kill)", "nginx"));
        for text in ["nginx (complain)\n", "nginx (unconfined)\n", "nginx (prompt)", "unconfined\n", "a//&b (mixed)"] {
            for pattern in ["nginx", "*n*", "unconfined", "a//&b", "*"] {
                assert!(!fits(text, pattern), "{text} {pattern}");
            }
        }
        assert!(!fits("nginx (enforce)", "ngin") && !fits("nginx (enforce)", "nginx (enforce)"));
        // A profile may have any name.
        assert!(fits("my (odd) one (enforce)", "my (odd) one"));
        assert!(!fits("x\u{fffd} (enforce)", "x*"));
    }

    #[test]
    fn of_a_context_the_type_counts() {
        assert!(fits("system_u:system_r:httpd_t:s0\0", "httpd_t"));
        assert!(fits("system_u:system_r:container_t:s0:c1,c2\0", "container_t"));
        assert!(!fits("httpd_t:system_r:init_t:s0\0", "httpd_t"));
        assert!(fits("floor", "floor"));
    }

    #[test]
    fn stars_are_any_text() {
        let all = ["snap.nextcloud.apache", "a", "", "aa", "abab"];
        for (pattern, wanted) in [
            ("snap.*.apache", &all[..1]),
            ("snap.*", &all[..1]),
            ("*apache", &all[..1]),
            ("*next*apache", &all[..1]),
            ("a*a", &["aa"]),
            ("ab*ab", &["abab"]),
            ("a", &["a"]),
            ("**", &all),
        ] {
            for text in all {
                assert_eq!(like(pattern, text), wanted.contains(&text), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn who_is_root_in_a_namespace_of_profiles_gets_no_label_of_ours() {
        assert!(!fits(":ct-web://nginx (enforce)", "nginx"));
        assert!(!fits(":ct-web://nginx (enforce)", "*nginx"));
        assert!(fits(":ct-web://nginx (enforce)", ":ct-web://*"));
        assert!(!fits("loose//&nginx (enforce)", "*nginx"));
        assert!(fits("loose//&nginx (enforce)", "*//&nginx"));
    }

    #[test]
    fn a_condition_that_means_everything_is_none() {
        for bad in ["", "*", "**", "a\nb", "unconfined"] {
            assert!(!Label::is_pattern(bad), "{bad:?}");
        }
        assert!(!Label::is_pattern(&"a".repeat(256)));
        assert!(Label::is_pattern("/usr/sbin/nginx") && Label::is_pattern("snap.*"));
        assert!(Label::parse("\n").is_err());
    }
}
