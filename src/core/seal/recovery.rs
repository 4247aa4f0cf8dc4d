//! The recovery recipients as a set: to whom everything is sealed, whatever happens to pinfold.
//!
//! Owns age's rule that recipients of different labels are not mixed, and what is said of tomorrow's quantum computer.

use crate::stream::{POSTQUANTUM, Recipient, RecipientError, RecipientUse};

/// Recovery recipients that may be together.
#[derive(Debug, Clone, Default)]
pub struct RecoverySet(Vec<Recipient>);

impl RecoverySet {
    /// Of their texts.
    ///
    /// # Errors
    /// [`RecipientError`] for one that cannot be one, or [`RecipientError::Mixed`].
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, RecipientError> {
        let set: Vec<_> = texts
            .iter()
            .map(|text| Recipient::parse(text.as_ref(), RecipientUse::Recovery))
            .collect::<Result<_, _>>()?;
        match set.first() {
            Some(first) if set.iter().any(|other| other.label() != first.label()) => Err(RecipientError::Mixed),
            _ => Ok(RecoverySet(set)),
        }
    }

    /// Their texts, as they are kept.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// Nobody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &Recipient> {
        self.0.iter()
    }

    /// What all of them are labelled with: what is sealed to them carries it.
    pub fn label(&self) -> Option<&'static str> {
        self.0.first().and_then(Recipient::label)
    }

    /// Whether who copies a store with these today can read it once there is a large quantum computer, in a sentence.
    pub fn quantum(&self) -> &'static str {
        match self.label() {
            Some(POSTQUANTUM) => {
                "a sealed file that is copied today stays closed to tomorrow's quantum computer; a copy of the whole store \
                 does not: its own identity is an X25519 key"
            }
            _ => {
                "what is copied today, a sealed file or the whole store, opens for tomorrow's quantum computer: the recovery \
                 recipients and the store's own identity are elliptic-curve keys"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stanza::{ByKek, Labelled};
    use super::*;
    use crate::secret::Kek;
    use crate::stream::Tap;
    use zeroize::Zeroizing;

    const TAG: &str = "age1tag1qd43050juykyy3lchnnw2caygre8wqmasyk7kvaq7jsnj3wcnrpfvt5hxye";

    fn tagpq() -> String {
        let end = "ydvtaruhp93py079uumjk8fzq7fmsxlvp9h4n8g855yu5tkycc2tylc6zutlp5lum3mn7kjnup70pv27wxdtkkv27em9mvsrgx7l4rag8q3agq";
        format!("age1tagpq1{}{end}", "q".repeat(1895))
    }

    #[test]
    fn those_that_resist_a_quantum_computer_stand_alone_and_the_kek_goes_with_either() {
        let x25519 = age::x25519::Identity::generate().to_public().to_string();
        let set = |texts: &[&str]| RecoverySet::parse(texts);
        assert_eq!(set(&[]).unwrap().label(), None);
        assert_eq!(set(&[&x25519, TAG]).unwrap().label(), None);
        assert_eq!(set(&[&tagpq(), &tagpq()]).unwrap().label(), Some(POSTQUANTUM));
        for mixed in [[&*x25519, &*tagpq()], [&*tagpq(), TAG]] {
            assert_eq!(set(&mixed).unwrap_err(), RecipientError::Mixed);
        }
        assert!(set(&[TAG]).unwrap().quantum().contains("a sealed file or the whole store, opens"));
        assert!(set(&[&tagpq()]).unwrap().quantum().contains("stays closed"));
        // What age would see.
        let key = Kek::new(Zeroizing::new([5; 32]));
        for recovery in [set(&[&x25519, TAG]).unwrap(), set(&[&tagpq()]).unwrap()] {
            for label in [None, Some(POSTQUANTUM)] {
                let kek = Labelled { kek: ByKek(&key), label };
                let all: Vec<&dyn age::Recipient> =
                    std::iter::once(&kek as _).chain(recovery.iter().map(|r| r as _)).collect();
                let tap = Tap::new(&all);
                let made = age::Encryptor::with_recipients(std::iter::once(&tap as _));
                assert_eq!(made.is_ok(), label == recovery.label());
            }
        }
    }
}
