//! Passwords that nobody chose: the kernel's random numbers, one alphabet, every character as likely as the others.
//!
//! Owns the alphabets and how a character is chosen. Nothing of it is printed.

use super::args::{Alphabet, Recipe};
use crate::secret::Secret;
use crate::sys::arena::ArenaFull;

impl Alphabet {
    fn characters(self) -> Vec<u8> {
        let shown = b'!'..=b'~';
        match self {
            Alphabet::Alnum => shown.filter(u8::is_ascii_alphanumeric).collect(),
            Alphabet::Clear => shown.filter(|b| b.is_ascii_alphanumeric() && !b"0Oo1Il".contains(b)).collect(),
            Alphabet::Print => shown.collect(),
            Alphabet::Hex => b"0123456789abcdef".to_vec(),
            Alphabet::Digits => (b'0'..=b'9').collect(),
        }
    }
}

/// How many bits somebody has to guess who knows the recipe.
pub fn bits(recipe: Recipe) -> u32 {
    let bits = (recipe.alphabet.characters().len() as f64).log2() * f64::from(recipe.length);
    // 512 characters of 94 are 3356 bits.
    bits.floor() as u32
}

/// A new password.
///
/// # Errors
/// [`ArenaFull`].
pub fn password(recipe: Recipe) -> Result<Secret, ArenaFull> {
    let characters = recipe.alphabet.characters();
    let mut password = Secret::zeroed(usize::from(recipe.length))?;
    let mut filled = 0;
    while filled < password.len() {
        for random in Secret::random(64)?.expose() {
            // A remainder alone would prefer the first characters.
            let fair = 256 - 256 % characters.len();
            if filled < password.len() && usize::from(*random) < fair {
                password.expose_mut()[filled] = characters[usize::from(*random) % characters.len()];
                filled += 1;
            }
        }
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_character_of_the_alphabet_comes_and_no_other() {
        for alphabet in Alphabet::value_variants() {
            let recipe = Recipe { length: 512, alphabet: *alphabet };
            let mut seen = [0u32; 256];
            for _ in 0..40 {
                let made = password(recipe).unwrap();
                assert_eq!(made.len(), 512);
                assert_eq!(crate::model::check_password(made.expose()), Ok(()));
                made.expose().iter().for_each(|b| seen[usize::from(*b)] += 1);
            }
            let characters = alphabet.characters();
            let expected = 512 * 40 / characters.len() as u32;
            for byte in 0..=255u8 {
                let count = seen[usize::from(byte)];
                match characters.contains(&byte) {
                    true => assert!(count > expected / 2 && count < expected * 2, "{alphabet:?} {byte}: {count}"),
                    false => assert_eq!(count, 0, "{alphabet:?} {byte}"),
                }
            }
        }
    }

    #[test]
    fn the_entropy_is_that_of_the_recipe() {
        let of = |length, alphabet| bits(Recipe { length, alphabet });
        assert_eq!(of(24, Alphabet::Alnum), 142);
        assert_eq!(of(32, Alphabet::Hex), 128);
        assert_eq!(of(6, Alphabet::Digits), 19);
    }
}
