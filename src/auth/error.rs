//! What can be wrong with verifiers and secrets.

use std::io;
use std::path::PathBuf;

/// Why a text is no SCRAM verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// Not of the form `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`.
    #[error("not a SCRAM-SHA-256 verifier")]
    Form,
    /// The iteration count is no number between 1 and 2147483647.
    #[error("iteration count of a SCRAM verifier out of range")]
    Iterations,
    /// The salt is no base64 of 1 to 256 bytes.
    #[error("salt of a SCRAM verifier is malformed")]
    Salt,
    /// A key is no base64 of 32 bytes.
    #[error("key of a SCRAM verifier is malformed")]
    Key,
}

/// Why a secret could not be had. Never holds any of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The reference begins with none of the known words.
    #[error("a secret reference is env:NAME, file:PATH or vault:PATH")]
    Form,
    /// The variable is not set.
    #[error("environment variable {name} is not set")]
    Environment {
        /// Its name.
        name: String,
    },
    /// The file could not be read.
    #[error("read secret file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The content is longer than any secret.
    #[error("secret {reference} is longer than {max} bytes")]
    TooLong {
        /// Where it came from.
        reference: String,
        /// The bound, in bytes.
        max: u64,
    },
    /// The content is neither a JSON object of the known fields nor a `postgres://` URL.
    #[error("secret {reference} is neither a JSON object with user names and passwords nor a postgres:// URL")]
    Content {
        /// Where it came from.
        reference: String,
    },
    /// The content has no user name for the part asked for.
    #[error("secret {reference} has no {part} user name")]
    NoUser {
        /// Where it came from.
        reference: String,
        /// The part.
        part: super::secret::Part,
    },
    /// Vault is not served yet.
    #[error("secrets in Vault are not supported yet: {reference}")]
    Vault {
        /// The reference.
        reference: String,
    },
}
