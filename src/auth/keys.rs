//! What proves someone's identity: passwords, and the SCRAM keys that stand in for them.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::password::{Digest, hmac, salted_password};

/// A text that is printed nowhere and wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes a text into custody.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The two keys of RFC 5802 with which a client can log in as often as it likes, without the password, wherever the
/// verifier has the same salt and iterations.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Keys {
    pub(super) client_key: Digest,
    pub(super) server_key: Digest,
}

impl Keys {
    /// The keys of a password; costs `iterations` rounds of HMAC.
    pub(super) fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(password, salt, iterations);
        Self { client_key: hmac(&*salted, &[b"Client Key"]), server_key: hmac(&*salted, &[b"Server Key"]) }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a client logs in with.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A password.
    Password(Secret),
    /// Keys recovered from a login elsewhere.
    Keys(Keys),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_keys_print_as_stars() {
        let secret = Secret::new("hunter2".to_owned());
        let keys = Keys::derive("hunter2", b"salt", 1);
        assert_eq!(format!("{secret:?} {keys:?}"), "*** ***");
        let credential = Credential::Keys(keys);
        assert_eq!(format!("{credential:?} {:?}", Credential::Password(secret)), "Keys(***) Password(***)");
    }
}
