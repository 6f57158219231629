//! Verifiers: what a server keeps instead of a password, in the form PostgreSQL stores them.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding as _};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::error::VerifierError;
use super::keys::Keys;
use super::password::{Digest, equal, sha256};

/// Longest salt, in bytes; PostgreSQL makes salts of 16.
pub(super) const SALT_BYTES_MAX: usize = 256;
/// Most iterations for which a password's keys are computed (about half a second).
pub(super) const DERIVED_ITERATIONS_MAX: u32 = 1_000_000;
/// Most iterations that a verifier may have been made with: PostgreSQL's own bound.
const ITERATIONS_MAX: u32 = i32::MAX.unsigned_abs();
/// Bytes of a generated salt, as PostgreSQL's.
const SALT_BYTES: usize = 16;

/// A SCRAM-SHA-256 verifier, as in `pg_authid.rolpassword`. It lets nobody in by itself, but shows the salt.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Verifier {
    /// Rounds of PBKDF2.
    pub iterations: u32,
    /// What the password was salted with.
    pub salt: Vec<u8>,
    pub(super) stored_key: Digest,
    pub(super) server_key: Digest,
}

impl Verifier {
    /// The verifier of a password, with a fresh salt. Costs `iterations` (1 to 1,000,000; others are brought into that
    /// range) rounds of HMAC; PostgreSQL takes 4096.
    #[must_use]
    pub fn generate(password: &str, iterations: u32) -> Self {
        let salt: [u8; SALT_BYTES] = rand::random();
        Self::of(password, salt.to_vec(), iterations.clamp(1, DERIVED_ITERATIONS_MAX))
    }

    fn of(password: &str, salt: Vec<u8>, iterations: u32) -> Self {
        let keys = Keys::derive(password, &salt, iterations);
        Self { iterations, salt, stored_key: sha256(&keys.client_key), server_key: keys.server_key }
    }

    /// Whether this is the verifier of that password. False without a try when it would take over 1,000,000 iterations.
    #[must_use]
    pub fn matches(&self, password: &str) -> bool {
        if self.iterations > DERIVED_ITERATIONS_MAX {
            return false;
        }
        let other = Self::of(password, self.salt.clone(), self.iterations);
        equal(&other.stored_key, &self.stored_key)
    }
}

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(VerifierError::Form)?;
        let (parameters, keys) = rest.split_once('$').ok_or(VerifierError::Form)?;
        let (iterations, salt) = parameters.split_once(':').ok_or(VerifierError::Form)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(VerifierError::Form)?;
        let iterations = number(iterations).ok_or(VerifierError::Iterations)?;
        if iterations > ITERATIONS_MAX {
            return Err(VerifierError::Iterations);
        }
        Ok(Self {
            iterations,
            salt: salt_of(salt).ok_or(VerifierError::Salt)?,
            stored_key: digest(stored_key).ok_or(VerifierError::Key)?,
            server_key: digest(server_key).ok_or(VerifierError::Key)?,
        })
    }
}

/// A positive number of digits only.
pub(super) fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { text.parse().ok()? } else { 0 };
    (number > 0).then_some(number)
}

/// A salt in base64, within bounds.
pub(super) fn salt_of(text: &str) -> Option<Vec<u8>> {
    if text.len() > SALT_BYTES_MAX.div_ceil(3) * 4 {
        return None;
    }
    let salt = Base64::decode_vec(text).ok()?;
    (1..=SALT_BYTES_MAX).contains(&salt.len()).then_some(salt)
}

/// A SHA-256 value in base64.
pub(super) fn digest(text: &str) -> Option<Digest> {
    // 44 characters are 32 bytes; the check keeps hostile lengths from being decoded.
    if text.len() != 44 {
        return None;
    }
    let mut decoded = [0; 33];
    Base64::decode(text, &mut decoded).ok()?.try_into().ok()
}

impl fmt::Display for Verifier {
    /// The form PostgreSQL stores and accepts in `PASSWORD '…'`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] = [&self.salt[..], &self.stored_key, &self.server_key].map(Base64::encode_string);
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by PostgreSQL 15 for the password `pencil`.
    const POSTGRES: &str = "SCRAM-SHA-256$4096:6NQrALDxxAcT/A5PK6xVXQ==$n/5k7L4AJMZoImOBXd7NFQsQipqQwWGoYwd2CM+xlDw=:RbFy6O8YTDulBEoFuPJlcsoMyFduEedxfos9nrPwNWU=";

    #[test]
    fn a_verifier_of_postgres_is_read_written_and_matched() {
        let verifier: Verifier = POSTGRES.parse().unwrap();
        assert_eq!(verifier.iterations, 4096);
        assert_eq!(verifier.to_string(), POSTGRES);
        assert!(verifier.matches("pencil"));
        assert!(!verifier.matches("pencils"));
        assert_eq!(format!("{verifier:?}"), "***");
    }

    #[test]
    fn a_generated_verifier_has_a_salt_of_its_own() {
        let (one, two) = (Verifier::generate("pencil", 0), Verifier::generate("pencil", 1));
        assert_eq!((one.iterations, two.iterations), (1, 1));
        assert_ne!(one, two);
        assert!(one.matches("pencil") && two.matches("pencil"));
        assert_eq!(one.to_string().parse(), Ok(one));
    }

    #[test]
    fn what_is_out_of_bounds_is_no_verifier() {
        let change = |from: &str, to: &str| POSTGRES.replacen(from, to, 1).parse::<Verifier>().unwrap_err();
        let key = "$".to_owned() + POSTGRES.rsplit('$').next().unwrap().split(':').next().unwrap();
        assert_eq!(change("SCRAM-SHA-256", "SCRAM-SHA-512"), VerifierError::Form);
        for count in ["0", "", "-1", "+1", "2147483648", "99999999999999999999", "1e3", " 1"] {
            assert_eq!(change("4096", count), VerifierError::Iterations, "{count}");
        }
        assert_eq!(change("4096:", "4096::"), VerifierError::Salt);
        assert_eq!(change("4096:", &format!("4096:{}", "AAAA".repeat(100))), VerifierError::Salt);
        assert_eq!(change(&key, "$AAAA"), VerifierError::Key);
        assert_eq!("md5d41d8cd98f00b204e9800998ecf8427e".parse::<Verifier>(), Err(VerifierError::Form));
        assert_eq!("SCRAM-SHA-256$1:$a:b".parse::<Verifier>(), Err(VerifierError::Salt));
    }

    #[test]
    fn a_verifier_too_dear_to_compute_is_not_computed() {
        let verifier: Verifier = POSTGRES.replacen("4096", "2147483647", 1).parse().unwrap();
        assert!(!verifier.matches("pencil"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(SCRAM-SHA-256\\$)?[0-9]{0,11}:?[A-Za-z0-9+/=]{0,50}\\$?.{0,100}") {
            if let Ok(verifier) = text.parse::<Verifier>() {
                prop_assert_eq!(verifier.to_string().parse(), Ok(verifier));
            }
        }
    }
}
