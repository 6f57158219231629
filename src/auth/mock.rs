//! Verifiers of logins that do not exist, so that failing to log in looks the same for them.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::password::{Digest, HmacKey, hmac};
use super::verifier::Verifier;

/// Iterations of mock verifiers: what PostgreSQL gives real ones unless told otherwise.
const ITERATIONS: u32 = 4096;

/// Makes verifiers for names that have none: always the same for a name, matching no password.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MockKey {
    /// Wiped when dropped, by itself.
    #[zeroize(skip)]
    salts: HmacKey,
    /// In place of a verifier's keys. Nobody is shown anything that is made with them, so they are the same for all names.
    stored_key: Digest,
    server_key: Digest,
}

impl MockKey {
    /// A key of this process alone.
    #[must_use]
    pub fn random() -> Self {
        let secret: Digest = rand::random();
        Self::derive(&secret)
    }

    /// A key shared by all who know the secret, so that several instances show the same salts.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        let part = |what: &[u8]| hmac(secret, &[b"pgtenant mock key", what]);
        Self { salts: HmacKey::new(&part(b"salts")), stored_key: part(b"stored key"), server_key: part(b"server key") }
    }

    /// The verifier of a name that has none. The exchange must still be told that it is a mock one.
    #[must_use]
    pub fn verifier_for(&self, name: &str) -> Verifier {
        Verifier {
            iterations: ITERATIONS,
            salt: self.salts.sign(&[name.as_bytes()])[..16].to_vec(),
            stored_key: self.stored_key,
            server_key: self.server_key,
        }
    }
}

impl fmt::Debug for MockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mock_verifier_stays_the_same_for_its_name_and_looks_like_a_real_one() {
        let key = MockKey::random();
        let verifier = key.verifier_for("app@nosuch");
        assert_eq!(verifier, key.verifier_for("app@nosuch"));
        assert_ne!(verifier.salt, key.verifier_for("app@other").salt);
        assert_ne!(verifier.salt, MockKey::random().verifier_for("app@nosuch").salt);
        let real = Verifier::generate("pencil", 4096);
        assert_eq!((verifier.salt.len(), verifier.iterations), (real.salt.len(), real.iterations));
        let [one, two] = [(); 2].map(|()| MockKey::derive(b"shared").verifier_for("app"));
        assert_eq!(one, two);
    }
}
