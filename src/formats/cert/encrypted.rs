//! What is encrypted with a passphrase: PBES2 and PBES1 (RFC 8018), the schemes of PKCS#12 (RFC 7292, appendix C), and
//! OpenSSL's traditional `DEK-Info`. What is decrypted lies in locked memory.

use super::CertError;
use crate::secret::Secret;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut, InnerIvInit, KeyIvInit};
use md5::{Digest, Md5};
use pkcs5::EncryptionScheme;
use pkcs5::pbes2::{Kdf, Parameters};
use pkcs8::AlgorithmIdentifierRef;
use pkcs8::der::asn1::{AnyRef, OctetStringRef};
use pkcs8::der::{Decode, Reader, SliceReader};
use pkcs12::kdf::{Pkcs12KeyType, derive_key_utf8};
use sha1::Sha1;
use zeroize::Zeroizing;

/// Rounds of a passphrase at most: some seconds. OpenSSL's default is 2,048, others' some 600,000.
const ROUNDS_MAX: u32 = 10_000_000;
/// Memory of scrypt at most, in bytes: 128 · r · N.
const SCRYPT_MAX: u64 = 256 << 20;

/// Opens EncryptedPrivateKeyInfo: PrivateKeyInfo in DER.
///
/// # Errors
/// [`CertError::WrongPassphrase`], [`CertError::Unsupported`], [`CertError::Broken`].
pub(super) fn pkcs8(der: &[u8], passphrase: &Secret) -> Result<Secret, CertError> {
    let (algorithm, octets) = frame(der).ok_or(CertError::Broken("it is not a whole encrypted key"))?;
    let opened = scheme(&algorithm, octets.as_bytes(), passphrase)?;
    // Padding that happens to be right is no proof.
    if pkcs8::PrivateKeyInfo::from_der(opened.expose()).is_err() {
        return Err(CertError::WrongPassphrase);
    }
    Ok(opened)
}

/// An algorithm and octets, and nothing else.
pub(super) fn frame(der: &[u8]) -> Option<(AlgorithmIdentifierRef<'_>, OctetStringRef<'_>)> {
    let any = AnyRef::from_der(der).ok()?;
    let mut inner = SliceReader::new(any.value()).ok()?;
    let algorithm = AlgorithmIdentifierRef::decode(&mut inner).ok()?;
    let octets = OctetStringRef::decode(&mut inner).ok()?;
    inner.is_finished().then_some((algorithm, octets))
}

/// Decrypts by what an AlgorithmIdentifier says.
///
/// # Errors
/// As [`pkcs8`].
pub(super) fn scheme(
    algorithm: &AlgorithmIdentifierRef<'_>,
    content: &[u8],
    passphrase: &Secret,
) -> Result<Secret, CertError> {
    let unknown = || CertError::Unsupported(format!("encryption by {}", algorithm.oid));
    match algorithm.oid.to_string().as_str() {
        "1.2.840.113549.1.5.13" => match EncryptionScheme::try_from(*algorithm) {
            Ok(EncryptionScheme::Pbes2(params)) => pbes2(&params, content, passphrase),
            Ok(_) | Err(_) => Err(unknown()),
        },
        "1.2.840.113549.1.5.3" => pbes1::<Md5>(algorithm, content, passphrase),
        "1.2.840.113549.1.5.10" => pbes1::<Sha1>(algorithm, content, passphrase),
        "1.2.840.113549.1.12.1.3" => pkcs12(Cipher::TripleDes, algorithm, content, passphrase),
        "1.2.840.113549.1.12.1.5" => pkcs12(Cipher::Rc2 { bytes: 16 }, algorithm, content, passphrase),
        "1.2.840.113549.1.12.1.6" => pkcs12(Cipher::Rc2 { bytes: 5 }, algorithm, content, passphrase),
        _ => Err(unknown()),
    }
}

fn pbes2(params: &Parameters<'_>, content: &[u8], passphrase: &Secret) -> Result<Secret, CertError> {
    let costly = match &params.kdf {
        Kdf::Pbkdf2(kdf) => kdf.iteration_count > ROUNDS_MAX,
        Kdf::Scrypt(kdf) => {
            let memory = kdf.cost_parameter.saturating_mul(u64::from(kdf.block_size)).saturating_mul(128);
            memory > SCRYPT_MAX || kdf.parallelization > 16
        }
        _ => true,
    };
    if costly {
        return Err(CertError::Unsupported("a passphrase of so many rounds".into()));
    }
    let mut buffer = Secret::copy_of(content)?;
    let opened = params.decrypt_in_place(passphrase.expose(), buffer.expose_mut()).map(<[u8]>::len);
    let len = opened.map_err(|e| match e {
        pkcs5::Error::UnsupportedAlgorithm { .. } => CertError::Unsupported("its encryption".into()),
        _ => CertError::WrongPassphrase,
    })?;
    buffer.resize(len)?;
    Ok(buffer)
}

/// Salt and rounds, as PBES1 and PKCS#12 have them.
fn salt_and_rounds<'a>(algorithm: &AlgorithmIdentifierRef<'a>) -> Result<(&'a [u8], u32), CertError> {
    let parse = || -> Option<(&'a [u8], u32)> {
        let params = algorithm.parameters?;
        let mut inner = SliceReader::new(params.value()).ok()?;
        let salt = OctetStringRef::decode(&mut inner).ok()?;
        let rounds = u32::decode(&mut inner).ok()?;
        Some((salt.as_bytes(), rounds))
    };
    match parse() {
        Some((_, rounds)) if rounds > ROUNDS_MAX => {
            Err(CertError::Unsupported("a passphrase of so many rounds".into()))
        }
        Some(found) => Ok(found),
        None => Err(CertError::Broken("its parameters of encryption are not whole")),
    }
}

/// PBKDF1 and DES in CBC (RFC 8018, 5.1 and 6.1).
fn pbes1<D: Digest>(
    algorithm: &AlgorithmIdentifierRef<'_>,
    content: &[u8],
    passphrase: &Secret,
) -> Result<Secret, CertError> {
    let (salt, rounds) = salt_and_rounds(algorithm)?;
    let mut key = Zeroizing::new(D::new().chain_update(passphrase.expose()).chain_update(salt).finalize().to_vec());
    for _ in 1..rounds {
        key = Zeroizing::new(D::digest(&*key).to_vec());
    }
    Cipher::Des.open(&key[..8], &key[8..16], content)
}

/// Key and initialisation vector by PKCS#12's own function.
fn pkcs12(
    cipher: Cipher,
    algorithm: &AlgorithmIdentifierRef<'_>,
    content: &[u8],
    passphrase: &Secret,
) -> Result<Secret, CertError> {
    let (salt, rounds) = salt_and_rounds(algorithm)?;
    let text = std::str::from_utf8(passphrase.expose()).map_err(|_| CertError::WrongPassphrase)?;
    let rounds = i32::try_from(rounds.max(1)).expect("the rounds are bounded");
    let derive = |kind, len| {
        derive_key_utf8::<Sha1>(text, salt, kind, rounds, len)
            .map(Zeroizing::new)
            .map_err(|_| CertError::WrongPassphrase)
    };
    let key = derive(Pkcs12KeyType::EncryptionKey, cipher.key())?;
    let iv = derive(Pkcs12KeyType::Iv, cipher.block())?;
    cipher.open(&key, &iv, content)
}

/// Opens the body of a traditional PEM block, decoded from base64. `info` is what follows `DEK-Info:`.
///
/// # Errors
/// As [`pkcs8`].
pub(super) fn traditional(info: &str, body: &[u8], passphrase: &Secret) -> Result<Secret, CertError> {
    let (name, iv) = info.trim().split_once(',').ok_or(CertError::Broken("its DEK-Info is not whole"))?;
    let cipher = Cipher::of(name.trim()).ok_or_else(|| CertError::Unsupported("the cipher of its DEK-Info".into()))?;
    let iv = crate::hex::decode(iv.trim()).filter(|iv| iv.len() == cipher.block());
    let iv = iv.ok_or(CertError::Broken("its DEK-Info is not whole"))?;
    let key = bytes_to_key(passphrase.expose(), &iv[..8], cipher.key());
    cipher.open(&key, &iv, body)
}

/// EVP_BytesToKey(3) with MD5 and one round.
fn bytes_to_key(passphrase: &[u8], salt: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(len + 16));
    let mut last = Zeroizing::new([0u8; 16]);
    let mut first = true;
    while key.len() < len {
        let mut md5 = Md5::new();
        if !first {
            md5.update(*last);
        }
        first = false;
        md5.update(passphrase);
        md5.update(salt);
        last.copy_from_slice(&md5.finalize());
        key.extend_from_slice(&*last);
    }
    key.truncate(len);
    key
}

#[derive(Clone, Copy)]
enum Cipher {
    Des,
    TripleDes,
    Aes128,
    Aes192,
    Aes256,
    /// RC2 with a key of so many bytes.
    Rc2 {
        bytes: usize,
    },
}

impl Cipher {
    fn open(self, key: &[u8], iv: &[u8], content: &[u8]) -> Result<Secret, CertError> {
        if content.is_empty() || !content.len().is_multiple_of(self.block()) {
            return Err(CertError::Broken("what is encrypted is not whole"));
        }
        let mut buffer = Secret::copy_of(content)?;
        let len = self.decrypt(key, iv, buffer.expose_mut()).ok_or(CertError::WrongPassphrase)?;
        buffer.resize(len)?;
        Ok(buffer)
    }

    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "DES-CBC" => Cipher::Des,
            "DES-EDE3-CBC" => Cipher::TripleDes,
            "AES-128-CBC" => Cipher::Aes128,
            "AES-192-CBC" => Cipher::Aes192,
            "AES-256-CBC" => Cipher::Aes256,
            _ => return None,
        })
    }

    fn block(self) -> usize {
        match self {
            Cipher::Des | Cipher::TripleDes | Cipher::Rc2 { .. } => 8,
            Cipher::Aes128 | Cipher::Aes192 | Cipher::Aes256 => 16,
        }
    }

    fn key(self) -> usize {
        match self {
            Cipher::Des => 8,
            Cipher::Aes128 => 16,
            Cipher::TripleDes | Cipher::Aes192 => 24,
            Cipher::Aes256 => 32,
            Cipher::Rc2 { bytes } => bytes,
        }
    }

    /// How many bytes are left; `None` if the padding is wrong.
    fn decrypt(self, key: &[u8], iv: &[u8], buffer: &mut [u8]) -> Option<usize> {
        fn with<C: BlockDecryptMut + KeyIvInit>(key: &[u8], iv: &[u8], buffer: &mut [u8]) -> Option<usize> {
            let cipher = C::new_from_slices(key, iv).ok()?;
            cipher.decrypt_padded_mut::<Pkcs7>(buffer).ok().map(<[u8]>::len)
        }
        match self {
            Cipher::Des => with::<cbc::Decryptor<des::Des>>(key, iv, buffer),
            Cipher::TripleDes => with::<cbc::Decryptor<des::TdesEde3>>(key, iv, buffer),
            Cipher::Aes128 => with::<cbc::Decryptor<aes::Aes128>>(key, iv, buffer),
            Cipher::Aes192 => with::<cbc::Decryptor<aes::Aes192>>(key, iv, buffer),
            Cipher::Aes256 => with::<cbc::Decryptor<aes::Aes256>>(key, iv, buffer),
            Cipher::Rc2 { .. } => {
                // RC2's effective key length is that of the key; the constructor from a slice takes any length.
                let rc2 = rc2::Rc2::new_with_eff_key_len(key, key.len() * 8);
                let cipher = <cbc::Decryptor<rc2::Rc2> as InnerIvInit>::inner_iv_slice_init(rc2, iv).ok()?;
                cipher.decrypt_padded_mut::<Pkcs7>(buffer).ok().map(<[u8]>::len)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_stretched_as_openssl_does() {
        // openssl enc -aes-256-cbc -md md5 -k secret -S 0102030405060708 -P (EVP_BytesToKey, one round)
        let key = bytes_to_key(b"secret", &[1, 2, 3, 4, 5, 6, 7, 8], 32);
        assert_eq!(key.len(), 32);
        assert_eq!(&bytes_to_key(b"secret", &[1, 2, 3, 4, 5, 6, 7, 8], 16)[..], &key[..16]);
    }

    #[test]
    fn rubbish_is_refused() {
        let passphrase = Secret::copy_of(b"x").unwrap();
        for info in
            ["", "AES-256-CBC", "AES-256-CBC,", "AES-256-CBC,zz", "AES-256-CBC,0011", "CAMELLIA,00", ",", "DES-CBC,0"]
        {
            assert!(traditional(info, &[0; 32], &passphrase).is_err(), "{info}");
        }
        assert!(traditional("DES-CBC,0011223344556677", &[], &passphrase).is_err());
        assert!(traditional("DES-CBC,0011223344556677", &[0; 7], &passphrase).is_err());
        assert!(pkcs8(&[], &passphrase).is_err());
    }
}
