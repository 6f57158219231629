//! Taking SCRAM messages apart: `a=value` attributes, comma by comma, with bounds.

use base64ct::{Base64, Encoding as _};

use super::error::ScramError;

/// Longest message of a client: PostgreSQL's own bound for SASL messages.
pub(super) const CLIENT_MESSAGE_BYTES_MAX: usize = 1024;
/// Longest message of a server.
pub(super) const SERVER_MESSAGE_BYTES_MAX: usize = 4096;
/// Longest nonce of one party.
pub(super) const NONCE_BYTES_MAX: usize = 256;
/// Random bytes of an own nonce, as PostgreSQL's.
const NONCE_RANDOM_BYTES: usize = 18;

/// The attributes of a message, in their order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a>(Option<&'a str>);

impl<'a> Attributes<'a> {
    /// A message's text, if it is text and within bounds. PostgreSQL lets any bytes be a user name, no known client sends
    /// other than UTF-8.
    pub(super) fn of(message: &'a [u8], bytes_max: usize) -> Result<Self, ScramError> {
        if message.len() > bytes_max {
            return Err(ScramError::Bounds("message"));
        }
        if message.contains(&0) {
            return Err(ScramError::Malformed("zero byte"));
        }
        std::str::from_utf8(message).map(|text| Self(Some(text))).map_err(|_| ScramError::Malformed("not UTF-8"))
    }

    /// What is left, unread.
    pub(super) const fn rest(&self) -> Option<&'a str> {
        self.0
    }

    /// The next part up to a comma, whatever it is.
    pub(super) fn part(&mut self) -> Option<&'a str> {
        let text = self.0?;
        let (part, rest) = text.split_once(',').map_or((text, None), |(part, rest)| (part, Some(rest)));
        self.0 = rest;
        Some(part)
    }

    /// The value of the next attribute, which must bear this name.
    pub(super) fn value(&mut self, name: char, what: &'static str) -> Result<&'a str, ScramError> {
        let attribute = self.part().ok_or(ScramError::Malformed(what))?;
        match (attribute.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')), attribute) {
            (Some(value), _) => Ok(value),
            // RFC 5802, 5.1: a mandatory extension that is not understood ends the exchange.
            (None, other) if other.starts_with("m=") => Err(ScramError::Extension),
            (None, _) => Err(ScramError::Malformed(what)),
        }
    }

    /// The next attribute of any name: its name and value.
    pub(super) fn any(&mut self) -> Result<Option<(char, &'a str)>, ScramError> {
        let Some(attribute) = self.part() else { return Ok(None) };
        let mut chars = attribute.chars();
        match (chars.next(), chars.next()) {
            (Some('m'), Some('=')) => Err(ScramError::Extension),
            (Some(name), Some('=')) if name.is_ascii_alphabetic() => Ok(Some((name, chars.as_str()))),
            _ => Err(ScramError::Malformed("attribute")),
        }
    }

    /// Optional extensions to the message's end, which are ignored.
    pub(super) fn skip_extensions(mut self) -> Result<(), ScramError> {
        while self.any()?.is_some() {}
        Ok(())
    }
}

/// A nonce of our own.
pub(super) fn nonce() -> String {
    let random: [u8; NONCE_RANDOM_BYTES] = rand::random();
    Base64::encode_string(&random)
}

/// Checks a nonce's letters (printable ASCII; commas cannot be in it) and length.
pub(super) fn check_nonce(nonce: &str, bytes_max: usize) -> Result<(), ScramError> {
    if nonce.len() > bytes_max {
        return Err(ScramError::Bounds("nonce"));
    }
    let printable = !nonce.is_empty() && nonce.bytes().all(|b| b.is_ascii_graphic());
    if printable { Ok(()) } else { Err(ScramError::Malformed("nonce")) }
}
