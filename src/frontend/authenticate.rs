//! SCRAM with a client: the SASL messages of the protocol around the exchange of `auth::scram`.

use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncWriteExt;

use crate::auth::scram::{ScramError, Server};
use crate::auth::{Keys, MockKey, Verifier};
use crate::net::Stream;

use super::error::Error;
use super::identify::Identified;
use super::inbox::Inbox;
use super::open::refuse;

/// Longest message before authentication, its length word included (PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`).
const MESSAGE_BYTES_MAX: u32 = 65_535;
/// Bytes of a message's type and length word.
const HEADER_BYTES: usize = 5;

/// Codes of the authentication requests (protocol, "Message Formats").
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// Whom a client must prove to be.
#[derive(Debug, Clone, Copy)]
pub struct Challenge<'a> {
    /// The user name as the client sent it, for the error.
    pub user: &'a str,
    /// What proves it; none if there is no such login, which takes the same messages and time and fails at the end.
    pub verifier: Option<&'a Verifier>,
    /// What the salt is made from where there is no verifier.
    pub salt_name: &'a str,
}

impl Identified {
    /// What to ask of a client that claims this.
    #[must_use]
    pub fn challenge(&self) -> Challenge<'_> {
        match self {
            Self::Known(claim) => {
                let user = claim.request.user.as_str();
                Challenge { user, verifier: Some(&claim.verifier), salt_name: user }
            }
            Self::Unknown(unknown) => Challenge { user: &unknown.user, verifier: None, salt_name: &unknown.salt_name },
        }
    }
}

/// A client has proved who it is.
#[derive(Debug)]
pub struct Proof {
    /// The keys that it showed to have.
    pub keys: Keys,
    /// AuthenticationSASLFinal, by which this side proves itself: the caller sends it in front of whatever comes next.
    pub answer: BytesMut,
}

/// Lets a client prove who it is, by SCRAM-SHA-256, or -PLUS under TLS. The answer to the proof and AuthenticationOk are left to
/// the caller, who sends them with what follows. Where the client fails it has been told so, and the connection is closed. The caller bounds the time.
///
/// # Errors
/// [`Error::Password`] for a wrong password and for nobody known; else what the client did wrong, or the socket's error.
pub async fn authenticate(stream: &mut Stream, challenge: Challenge<'_>, mock: &MockKey) -> Result<Proof, Error> {
    match exchange(stream, challenge, mock).await {
        Ok(proof) => Ok(proof),
        Err(error) => Err(refuse(stream, error).await),
    }
}

async fn exchange(stream: &mut Stream, challenge: Challenge<'_>, mock: &MockKey) -> Result<Proof, Error> {
    let failed = |error| match error {
        ScramError::Mismatch => Error::Password { user: challenge.user.to_owned() },
        error => Error::Scram(error),
    };
    // Made whether it is needed or not, so that it takes no time of its own where there is no login.
    let nobody = mock.verifier_for(challenge.salt_name);
    let binding = stream.tls().and_then(|tls| tls.server_end_point.clone());
    let server = Server::new(challenge.verifier.unwrap_or(&nobody), challenge.verifier.is_some(), binding);

    ask(stream, SASL, &offer(server.mechanisms())).await?;
    let initial = response(stream).await?;
    let (mechanism, client_first) = initial_response(&initial)?;
    let client_first = match client_first {
        Some(bytes) => bytes.to_vec(),
        // A client may choose first and speak when asked (RFC 4422, 4.3.b).
        None => {
            ask(stream, SASL_CONTINUE, b"").await?;
            response(stream).await?
        }
    };
    let (server, server_first) = server.start(mechanism, &client_first).map_err(failed)?;
    ask(stream, SASL_CONTINUE, &server_first).await?;
    let client_final = response(stream).await?;
    let (server_final, keys) = server.finish(&client_final).map_err(failed)?;
    Ok(Proof { keys, answer: request(SASL_FINAL, &server_final)? })
}

/// The body of a request that offers these: each ended by a NUL, all of them by another.
fn offer(mechanisms: &[&str]) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    for mechanism in mechanisms {
        body.extend_from_slice(mechanism.as_bytes());
        body.push(0);
    }
    body.push(0);
    body
}

/// An authentication request.
fn request(code: u32, body: &[u8]) -> Result<BytesMut, Error> {
    let mut message = BytesMut::with_capacity(9 + body.len());
    message.put_u8(b'R');
    message.put_u32(u32::try_from(8 + body.len()).map_err(|_| Error::Malformed("too long an answer"))?);
    message.put_u32(code);
    message.put_slice(body);
    Ok(message)
}

async fn ask(stream: &mut Stream, code: u32, body: &[u8]) -> Result<(), Error> {
    stream.write_all(&request(code, body)?).await.map_err(Error::Io)?;
    stream.flush().await.map_err(Error::Io)
}

/// Reads the body of a `p` message.
async fn response(stream: &mut Stream) -> Result<Vec<u8>, Error> {
    let left = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Closed("authentication"),
        _ => Error::Io(error),
    };
    let mut inbox = Inbox::new();
    let length = loop {
        match inbox.bytes() {
            [] | [b'p'] | [b'p', _] | [b'p', _, _] | [b'p', _, _, _] => {}
            [b'p', a, b, c, d, ..] => break u32::from_be_bytes([*a, *b, *c, *d]),
            [b'X', ..] => return Err(Error::Closed("authentication")),
            [other, ..] => return Err(Error::UnexpectedMessage(*other)),
        }
        if inbox.read(stream).await.map_err(left)? == 0 {
            return Err(Error::Closed("authentication"));
        }
    };
    let (4..=MESSAGE_BYTES_MAX, Some(rest)) = (length, length.checked_sub(4)) else {
        return Err(Error::MessageLength(length));
    };
    let mut message = inbox.message(stream, HEADER_BYTES + rest as usize).await.map_err(left)?;
    message.drain(..HEADER_BYTES);
    Ok(message)
}

/// The mechanism of a SASLInitialResponse, and the client's first words if it has any yet.
fn initial_response(body: &[u8]) -> Result<(&str, Option<&[u8]>), Error> {
    let malformed = || Error::Malformed("initial response");
    let end = memchr::memchr(0, body).ok_or_else(malformed)?;
    let mechanism = std::str::from_utf8(&body[..end]).map_err(|_| malformed())?;
    let (length, data) = body[end + 1..].split_first_chunk::<4>().ok_or_else(malformed)?;
    match i32::from_be_bytes(*length) {
        -1 if data.is_empty() => Ok((mechanism, None)),
        length if usize::try_from(length).is_ok_and(|length| length == data.len()) => Ok((mechanism, Some(data))),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
#[path = "authenticate_tests.rs"]
mod tests;
