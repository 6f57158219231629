//! The client's side of SCRAM: proves to a server that the password, or the keys made of it, are known.

use std::mem;

use base64ct::{Base64, Encoding as _};

use super::error::ScramError;
use super::message::{Attributes, NONCE_BYTES_MAX, SERVER_MESSAGE_BYTES_MAX, check_nonce, nonce};
use super::server::BINDING_FLAG;
use super::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::auth::keys::{Credential, Keys};
use crate::auth::password::{Digest, equal, hmac, sha256, xor};
use crate::auth::verifier::{DERIVED_ITERATIONS_MAX, digest, number, salt_of};

/// A client in the midst of an exchange: `mechanism`, `first`, `update`, `finish`, in this order.
#[derive(Debug)]
pub struct Client {
    credential: Credential,
    binding: Option<Vec<u8>>,
    /// The GS2 header up to the user name, such as `n,,`.
    header: String,
    /// Whether the channel's end point follows the header.
    plus: bool,
    nonce: String,
    state: State,
}

/// What the next message from the server is good for.
#[derive(Debug)]
enum State {
    First,
    Final {
        /// What the server must send to prove itself.
        server_signature: Digest,
    },
    Done,
}

impl Client {
    /// A client that has a password or keys. `binding` is the channel's `tls-server-end-point`, where there is one.
    #[must_use]
    pub fn new(credential: Credential, binding: Option<Vec<u8>>) -> Self {
        Self::with_nonce(credential, binding, nonce())
    }

    pub(super) fn with_nonce(credential: Credential, binding: Option<Vec<u8>>, nonce: String) -> Self {
        let header = "n,,".to_owned();
        Self { credential, binding, header, plus: false, nonce, state: State::First }
    }

    /// Chooses among the server's mechanisms, -PLUS wherever both sides can; `None` when none is known here.
    pub fn mechanism(&mut self, offered: &[&str]) -> Option<&'static str> {
        self.plus = self.binding.is_some() && offered.contains(&SCRAM_SHA_256_PLUS);
        self.header = match (self.plus, &self.binding) {
            (true, _) => format!("{BINDING_FLAG},,"),
            // "We could bind, and the server seems unable to": it will object if its offer was removed on the way.
            (false, Some(_)) => "y,,".to_owned(),
            (false, None) => "n,,".to_owned(),
        };
        if self.plus { Some(SCRAM_SHA_256_PLUS) } else { offered.contains(&SCRAM_SHA_256).then_some(SCRAM_SHA_256) }
    }

    /// The client's first message. The user name in it is empty: PostgreSQL takes that of the startup packet.
    #[must_use]
    pub fn first(&self) -> Vec<u8> {
        format!("{}{}", self.header, self.first_bare()).into_bytes()
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Takes the server's first message; gives the client's final one. With a password this costs the server's number of
    /// iterations, up to 1,000,000 (half a second): not for a thread that relays.
    ///
    /// # Errors
    /// The message breaks the protocol or its bounds.
    pub fn update(&mut self, server_first: &[u8]) -> Result<Vec<u8>, ScramError> {
        if !matches!(mem::replace(&mut self.state, State::Done), State::First) {
            return Err(ScramError::Order);
        }
        let mut attributes = Attributes::of(server_first, SERVER_MESSAGE_BYTES_MAX)?;
        let both_nonces = attributes.value('r', "nonce")?;
        check_nonce(both_nonces, self.nonce.len() + NONCE_BYTES_MAX)?;
        if both_nonces.len() <= self.nonce.len() || !both_nonces.starts_with(&self.nonce) {
            return Err(ScramError::Nonce);
        }
        let salt = salt_of(attributes.value('s', "salt")?).ok_or(ScramError::Bounds("salt"))?;
        let iterations = number(attributes.value('i', "iterations")?).ok_or(ScramError::Malformed("iterations"))?;
        attributes.skip_extensions()?;

        let keys = self.keys(&salt, iterations)?;
        let mut binding_input = self.header.clone().into_bytes();
        if let (true, Some(end_point)) = (self.plus, &self.binding) {
            binding_input.extend_from_slice(end_point);
        }
        let without_proof = format!("c={},r={both_nonces}", Base64::encode_string(&binding_input));
        let first_bare = self.first_bare();
        let message: [&[u8]; 5] = [first_bare.as_bytes(), b",", server_first, b",", without_proof.as_bytes()];
        let client_signature = hmac(&sha256(&keys.client_key), &message);
        let proof = Base64::encode_string(&xor(&keys.client_key, &client_signature));
        self.state = State::Final { server_signature: hmac(&keys.server_key, &message) };
        Ok(format!("{without_proof},p={proof}").into_bytes())
    }

    fn keys(&self, salt: &[u8], iterations: u32) -> Result<Keys, ScramError> {
        match &self.credential {
            Credential::Keys(keys) => Ok(keys.clone()),
            Credential::Password(_) if iterations > DERIVED_ITERATIONS_MAX => Err(ScramError::Bounds("iterations")),
            Credential::Password(password) => Ok(Keys::derive(password.expose(), salt, iterations)),
        }
    }

    /// Takes the server's final message: whether the server knows the verifier.
    ///
    /// # Errors
    /// [`ScramError::WrongServer`] if it does not, [`ScramError::Refused`] if it says so itself, else what it breaks.
    pub fn finish(&mut self, server_final: &[u8]) -> Result<(), ScramError> {
        let State::Final { server_signature } = mem::replace(&mut self.state, State::Done) else {
            return Err(ScramError::Order);
        };
        let mut attributes = Attributes::of(server_final, SERVER_MESSAGE_BYTES_MAX)?;
        let signature = match attributes.any()? {
            Some(('e', _)) => return Err(ScramError::Refused),
            Some(('v', signature)) => digest(signature).ok_or(ScramError::Malformed("signature"))?,
            _ => return Err(ScramError::Malformed("server signature")),
        };
        attributes.skip_extensions()?;
        if equal(&signature, &server_signature) { Ok(()) } else { Err(ScramError::WrongServer) }
    }
}
