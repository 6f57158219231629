//! The server's side of SCRAM: lets a client prove that it knows a password, and learns its keys in passing.

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

use super::error::ScramError;
use super::message::{Attributes, CLIENT_MESSAGE_BYTES_MAX, NONCE_BYTES_MAX, check_nonce, nonce};
use super::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::auth::keys::Keys;
use crate::auth::password::{equal, hmac, sha256, xor};
use crate::auth::verifier::{Verifier, digest};

/// The only kind of channel binding PostgreSQL knows.
pub(super) const BINDING_FLAG: &str = "p=tls-server-end-point";

/// The server before the client's first message.
#[derive(Debug)]
pub struct Server<'a> {
    verifier: &'a Verifier,
    known: bool,
    binding: Option<Vec<u8>>,
}

/// The server between the client's two messages.
#[derive(Debug)]
pub struct ServerContinue<'a> {
    verifier: &'a Verifier,
    known: bool,
    /// What the client must repeat: its GS2 header, and under binding the channel's end point.
    binding_input: Vec<u8>,
    nonce: String,
    client_first_bare: Vec<u8>,
    server_first: Vec<u8>,
}

impl<'a> Server<'a> {
    /// A server for one login. With `known` false (and a mock verifier) all goes the same way, takes the same time, and
    /// fails at the end. `binding` is the channel's `tls-server-end-point`; with it the -PLUS mechanism is offered too.
    #[must_use]
    pub const fn new(verifier: &'a Verifier, known: bool, binding: Option<Vec<u8>>) -> Self {
        Self { verifier, known, binding }
    }

    /// The mechanisms to offer, the strongest first, as libpq expects it.
    #[must_use]
    pub const fn mechanisms(&self) -> &'static [&'static str] {
        if self.binding.is_some() { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] }
    }

    /// Takes the client's choice of mechanism and its first message; gives the server's first one.
    ///
    /// # Errors
    /// The mechanism was not offered, or the message breaks the protocol.
    pub fn start(self, mechanism: &str, client_first: &[u8]) -> Result<(ServerContinue<'a>, Vec<u8>), ScramError> {
        self.start_with_nonce(mechanism, client_first, &nonce())
    }

    pub(super) fn start_with_nonce(
        self,
        mechanism: &str,
        client_first: &[u8],
        own_nonce: &str,
    ) -> Result<(ServerContinue<'a>, Vec<u8>), ScramError> {
        if !self.mechanisms().contains(&mechanism) {
            return Err(ScramError::Mechanism);
        }
        let mut attributes = Attributes::of(client_first, CLIENT_MESSAGE_BYTES_MAX)?;
        let flag = attributes.part().unwrap_or_default();
        let end_point = self.negotiated_binding(mechanism, flag)?;
        match attributes.part() {
            Some("") => {}
            Some(authorization) if authorization.starts_with("a=") => return Err(ScramError::AuthorizationIdentity),
            _ => return Err(ScramError::Malformed("GS2 header")),
        }
        let bare = attributes.rest().ok_or(ScramError::Malformed("user name"))?;
        // The name is ignored, as PostgreSQL ignores it: the startup packet has named the user.
        attributes.value('n', "user name")?;
        let client_nonce = attributes.value('r', "nonce")?;
        check_nonce(client_nonce, NONCE_BYTES_MAX)?;
        attributes.skip_extensions()?;

        let mut binding_input = format!("{flag},,").into_bytes();
        binding_input.extend_from_slice(end_point);
        let nonce = format!("{client_nonce}{own_nonce}");
        let salt = Base64::encode_string(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations).into_bytes();
        let next = ServerContinue {
            binding_input,
            nonce,
            client_first_bare: bare.as_bytes().to_vec(),
            server_first: server_first.clone(),
            verifier: self.verifier,
            known: self.known,
        };
        Ok((next, server_first))
    }

    /// Checks the client's flag against what was offered and chosen (RFC 5802, 6); what the channel adds to the header.
    fn negotiated_binding(&self, mechanism: &str, flag: &str) -> Result<&[u8], ScramError> {
        let plus = mechanism == SCRAM_SHA_256_PLUS;
        match (flag, &self.binding) {
            (BINDING_FLAG, Some(end_point)) if plus => Ok(end_point),
            ("n", _) | ("y", None) if !plus => Ok(&[]),
            // Also `y` where -PLUS was offered: the client could bind and was made to believe that the server could not.
            ("n" | "y" | BINDING_FLAG, _) => Err(ScramError::ChannelBindingNegotiation),
            (other, _) if other.starts_with("p=") => Err(ScramError::ChannelBindingType),
            _ => Err(ScramError::Malformed("channel-binding flag")),
        }
    }
}

impl ServerContinue<'_> {
    /// Takes the client's final message; gives the server's own, which proves it to the client, and the client's keys.
    ///
    /// # Errors
    /// [`ScramError::Mismatch`] for a wrong password or an unknown login, else what the message breaks.
    pub fn finish(self, client_final: &[u8]) -> Result<(Vec<u8>, Keys), ScramError> {
        let mut attributes = Attributes::of(client_final, CLIENT_MESSAGE_BYTES_MAX)?;
        let binding = attributes.value('c', "channel binding")?;
        if !equal(binding.as_bytes(), Base64::encode_string(&self.binding_input).as_bytes()) {
            return Err(ScramError::ChannelBinding);
        }
        if attributes.value('r', "nonce")? != self.nonce {
            return Err(ScramError::Nonce);
        }
        let proof = loop {
            match attributes.any()? {
                Some(('p', proof)) => break digest(proof).ok_or(ScramError::Malformed("proof"))?,
                Some(_) => {}
                None => return Err(ScramError::Malformed("no proof")),
            }
        };
        if attributes.rest().is_some() {
            return Err(ScramError::Malformed("bytes after the proof"));
        }
        let proof_at = client_final.len() - PROOF_ATTRIBUTE_BYTES;
        let message: [&[u8]; 5] = [&self.client_first_bare, b",", &self.server_first, b",", &client_final[..proof_at]];

        // ClientProof = ClientKey XOR HMAC(StoredKey, AuthMessage), and StoredKey = H(ClientKey): the proof gives the key.
        let client_signature = hmac(&self.verifier.stored_key, &message);
        let client_key = Zeroizing::new(xor(&proof, &client_signature));
        let proven = equal(&sha256(&*client_key), &self.verifier.stored_key);
        if !(proven & self.known) {
            return Err(ScramError::Mismatch);
        }
        let signature = Base64::encode_string(&hmac(&self.verifier.server_key, &message));
        Ok((
            format!("v={signature}").into_bytes(),
            Keys { client_key: *client_key, server_key: self.verifier.server_key },
        ))
    }
}

/// `,p=` and 44 characters of base64: what the authenticated part of the final message leaves off. The proof's length was
/// checked, and it is the last attribute.
const PROOF_ATTRIBUTE_BYTES: usize = 3 + 44;
