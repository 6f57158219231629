//! Who someone is: SCRAM-SHA-256 both ways, verifiers, and the references to stored secrets. Pure but for reading secrets.

mod error;
mod keys;
mod mock;
mod password;
pub mod scram;
mod secret;
mod verifier;

pub use error::{SecretError, VerifierError};
pub use keys::{Credential, Keys, Secret};
pub use mock::MockKey;
pub use secret::{Credentials, Part, SecretRef};
pub use verifier::Verifier;
