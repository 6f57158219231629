//! The arithmetic of SCRAM-SHA-256: hashes, key derivation, and the preparation of passwords.

use std::borrow::Cow;
use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, pbkdf2};
use stringprep::tables;
use zeroize::Zeroizing;

/// A SHA-256 value.
pub(super) type Digest = [u8; 32];

/// A key of HMAC-SHA-256, made ready; wiped when dropped.
#[derive(Clone)]
pub(super) struct HmacKey(aws_lc_rs::hmac::Key);

impl HmacKey {
    pub(super) fn new(key: &[u8]) -> Self {
        Self(aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key))
    }

    /// The value over the parts, one after the other.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> Digest {
        let mut context = aws_lc_rs::hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        array(context.sign().as_ref())
    }
}

/// HMAC-SHA-256 over the parts, one after the other.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Digest {
    HmacKey::new(key).sign(parts)
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    array(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn array(bytes: &[u8]) -> Digest {
    let mut array = Digest::default();
    array.copy_from_slice(bytes);
    array
}

pub(super) fn xor(a: &Digest, b: &Digest) -> Digest {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// Compares in constant time.
pub(super) fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// `SaltedPassword` of RFC 5802, of the prepared password. No iterations count as one.
pub(super) fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Zeroizing<Digest> {
    let mut salted = Zeroizing::new(Digest::default());
    let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    let prepared = Zeroizing::new(prepare(password).into_owned());
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, prepared.as_bytes(), &mut *salted);
    salted
}

/// SASLprep (RFC 4013) as PostgreSQL does it: a password that cannot be prepared is used as it is, and what is prohibited
/// is looked for before normalisation.
fn prepare(password: &str) -> Cow<'_, str> {
    if password.is_ascii() || password.chars().any(prohibited) {
        return Cow::Borrowed(password);
    }
    match stringprep::saslprep(password) {
        Ok(prepared) if !prepared.is_empty() => prepared,
        _ => Cow::Borrowed(password),
    }
}

/// Prohibited output (RFC 4013, 2.3) and code points unassigned in Unicode 3.2 (2.5), of what is left after mapping.
fn prohibited(c: char) -> bool {
    if tables::non_ascii_space_character(c) || tables::commonly_mapped_to_nothing(c) {
        return false;
    }
    tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
        || tables::unassigned_code_point(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_prepared_as_rfc_4013_shows() {
        assert_eq!(prepare("I\u{AD}X"), "IX");
        assert_eq!(prepare("user"), "user");
        assert_eq!(prepare("\u{AA}"), "a");
        assert_eq!(prepare("\u{2168}"), "IX");
        assert_eq!(prepare("a\u{A0}b\u{E9}"), "a b\u{E9}");
    }

    #[test]
    fn what_cannot_be_prepared_is_used_as_it_is() {
        for raw in ["tab\t", "\u{627}1", "\u{E000}", "\u{1F600}\u{2168}", "\u{AD}", "\u{340}x", ""] {
            assert_eq!(prepare(raw), raw, "{raw:?}");
        }
    }
}
