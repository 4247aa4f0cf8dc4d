//! Keys, certificates and requests in any encoding: whatever the bytes are, reading them ends, and without a panic.
//!
//! Begin with files that openssl(1) made: `cargo +nightly fuzz run certs CORPUS`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold::cert::{Asked, Certificate, Chain, Key, Pile, PublicKey};
use pinfold::secret::Secret;

fuzz_target!(|content: &[u8]| {
    let passphrase = Secret::copy_of(b"correct horse").expect("the arena has room for a word");
    let _ = Pile::read(content, None);
    if let Ok(pile) = Pile::read(content, Some(&passphrase)) {
        for one in &pile.certificates {
            // What was read is read again as the same.
            assert_eq!(Certificate::from_der(one.der()).as_ref(), Ok(one));
            let _ = (Chain::order(one, &pile.certificates), one.called(), one.subject(), one.check_time(1_800_000_000));
        }
        for key in &pile.keys {
            let again = Key::from_pkcs8(key.pkcs8().expose()).expect("its own form is whole");
            assert_eq!(again.public(), key.public());
            assert_eq!(PublicKey::from_spki(&key.public().to_spki()).as_ref(), Ok(key.public()));
        }
    }
    let _ = Asked::read(content);
});
