//! Logging in to a server: the startup message, authentication, and what the server tells before it is ready.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::message::frontend;

use super::error::{Broken, ConnectError};
use super::fields::{parameter_status, set_parameter, sqlstate_of, take_i32};
use super::frames::{Exchange, Frame, ReadError};
use super::target::Credential;
use crate::auth::{self, scram};
use crate::net::{Peer, Stream};
use crate::protocol::cstring;

/// Most notices kept for the client, and bytes of all of them.
const NOTICES_MAX: usize = 32;
const NOTICES_BYTES_MAX: usize = 32 * 1024;
/// Lengths of a cancel key's secret.
const SECRET_BYTES_MAX: usize = 256;

/// What a server tells of a new session.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) process_id: i32,
    pub(super) secret: Vec<u8>,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) notices: Vec<Bytes>,
}

impl Session {
    /// Takes over what the server reported later.
    pub(super) fn update(&mut self, parameters: Vec<(String, String)>) {
        for (name, value) in parameters {
            set_parameter(&mut self.parameters, name, value);
        }
    }
}

/// Logs in on a stream over which nothing was said yet.
pub(super) async fn log_in(
    stream: &mut Stream,
    user: &str,
    database: &str,
    startup: &[(String, String)],
    credential: &Credential,
) -> Result<Session, ConnectError> {
    let own = [("user", user), ("database", database)];
    let given = startup.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let given = given.filter(|(name, _)| !matches!(*name, "user" | "database"));
    let mut message = BytesMut::with_capacity(256);
    frontend::startup_message(own.into_iter().chain(given), &mut message)
        .map_err(ConnectError::io("encode the startup message"))?;
    let mut login = Login { exchange: Exchange::new(stream), user, credential, session: Session::default() };
    login.send(&message).await?;
    login.authenticate().await?;
    login.until_ready().await?;
    Ok(login.session)
}

struct Login<'a> {
    exchange: Exchange<'a>,
    user: &'a str,
    credential: &'a Credential,
    session: Session,
}

impl Login<'_> {
    async fn send(&mut self, message: &[u8]) -> Result<(), ConnectError> {
        self.exchange.send(message).await.map_err(ConnectError::io("send to the server"))
    }

    /// The next message that is not a notice, a parameter or an error.
    async fn receive(&mut self) -> Result<Frame, ConnectError> {
        loop {
            let frame = self.next().await?;
            if let Some(frame) = self.note(frame)? {
                return Ok(frame);
            }
        }
    }

    async fn next(&mut self) -> Result<Frame, ConnectError> {
        self.exchange.receive().await.map_err(|error| match error {
            ReadError::Io(error) => ConnectError::io("read from the server")(error),
            ReadError::Broken(broken) => broken.into(),
        })
    }

    /// Takes note of what may come at any time; gives back the rest.
    fn note(&mut self, frame: Frame) -> Result<Option<Frame>, ConnectError> {
        match frame.kind() {
            b'N' => self.keep_notice(frame),
            b'S' => {
                let (name, value) = parameter_status(&frame.body()).ok_or(frame.malformed())?;
                if !set_parameter(&mut self.session.parameters, name, value) {
                    return Err(frame.unexpected().into());
                }
            }
            b'E' => return Err(self.refusal(&frame)),
            // The answer to options of the protocol that we did not ask for changes nothing.
            b'v' => {}
            _ => return Ok(Some(frame)),
        }
        Ok(None)
    }

    fn keep_notice(&mut self, frame: Frame) {
        let notices = &mut self.session.notices;
        let bytes: usize = notices.iter().map(Bytes::len).sum();
        if notices.len() < NOTICES_MAX && bytes + frame.0.len() <= NOTICES_BYTES_MAX {
            notices.push(frame.0);
        }
    }

    fn refusal(&self, frame: &Frame) -> ConnectError {
        let Some(sqlstate) = sqlstate_of(&frame.0) else { return frame.malformed().into() };
        let raw = frame.0.clone();
        if sqlstate.starts_with("28") && !matches!(self.credential, Credential::Keys(_)) {
            return ConnectError::StoredLoginRefused { sqlstate, raw };
        }
        ConnectError::Server { sqlstate, raw }
    }

    /// The next authentication request and what comes with it.
    async fn request(&mut self) -> Result<(i32, Bytes), ConnectError> {
        let frame = self.receive().await?;
        if frame.kind() != b'R' {
            return Err(frame.unexpected().into());
        }
        let mut body = frame.body();
        let kind = take_i32(&mut body).ok_or(frame.malformed())?;
        Ok((kind, body))
    }

    async fn authenticate(&mut self) -> Result<(), ConnectError> {
        let (kind, body) = self.request().await?;
        match kind {
            request::OK => return Ok(()),
            request::CLEARTEXT => self.cleartext().await?,
            request::MD5 => self.md5(&body).await?,
            request::SASL => self.sasl(&body).await?,
            other => return Err(ConnectError::UnknownMethod(other)),
        }
        match self.request().await? {
            (request::OK, _) => Ok(()),
            _ => Err(Broken::Unexpected(b'R').into()),
        }
    }

    fn password(&self, method: &'static str) -> Result<&str, ConnectError> {
        match self.credential {
            Credential::Password(password) => Ok(password.expose()),
            _ => Err(ConnectError::Method { method, needs: "a stored password" }),
        }
    }

    async fn cleartext(&mut self) -> Result<(), ConnectError> {
        let method = "a password in clear";
        let stream = self.exchange.stream();
        if stream.tls().is_none() && *stream.peer() != Peer::Unix {
            return Err(ConnectError::Method { method, needs: "TLS" });
        }
        let mut message = BytesMut::new();
        frontend::password_message(self.password(method)?.as_bytes(), &mut message)
            .map_err(ConnectError::io("encode the password"))?;
        self.send(&message).await
    }

    async fn md5(&mut self, salt: &[u8]) -> Result<(), ConnectError> {
        let salt = <[u8; 4]>::try_from(salt).map_err(|_| Broken::Malformed(b'R'))?;
        let password = self.password("an MD5 password")?;
        let hash = md5_hash(self.user.as_bytes(), password.as_bytes(), salt);
        let mut message = BytesMut::new();
        frontend::password_message(hash.as_bytes(), &mut message).map_err(ConnectError::io("encode the password"))?;
        self.send(&message).await
    }

    async fn sasl(&mut self, offered: &[u8]) -> Result<(), ConnectError> {
        let failed = |error| ConnectError::Scram(Arc::new(error));
        let offered = mechanisms(offered).ok_or(Broken::Malformed(b'R'))?;
        let credential = match self.credential {
            Credential::Keys(keys) => auth::Credential::Keys(keys.clone()),
            Credential::Password(password) => auth::Credential::Password(password.clone()),
            Credential::Nothing => {
                return Err(ConnectError::Method { method: "SCRAM", needs: "a stored password or the client's keys" });
            }
        };
        let binding = self.exchange.stream().tls().and_then(|tls| tls.server_end_point.clone());
        let mut client = scram::Client::new(credential, binding);
        let mechanism = client
            .mechanism(&offered)
            .ok_or(ConnectError::Method { method: "an unknown SASL mechanism", needs: "SCRAM-SHA-256" })?;
        let mut message = BytesMut::new();
        frontend::sasl_initial_response(mechanism, &client.first(), &mut message)
            .map_err(ConnectError::io("encode a SASL message"))?;
        self.exchange.send(&message).await.map_err(ConnectError::io("send to the server"))?;

        let server_first = self.sasl_answer(request::SASL_CONTINUE).await?;
        message.clear();
        frontend::sasl_response(&client.update(&server_first).map_err(failed)?, &mut message)
            .map_err(ConnectError::io("encode a SASL message"))?;
        self.send(&message).await?;

        let server_final = self.sasl_answer(request::SASL_FINAL).await?;
        client.finish(&server_final).map_err(failed)
    }

    async fn sasl_answer(&mut self, expected: i32) -> Result<Bytes, ConnectError> {
        match self.request().await? {
            (kind, body) if kind == expected => Ok(body),
            (request::OK, _) => Err(Broken::AuthenticationEnd.into()),
            _ => Err(Broken::Unexpected(b'R').into()),
        }
    }

    /// Reads until the server waits for a statement, and nothing is left half read.
    async fn until_ready(&mut self) -> Result<(), ConnectError> {
        loop {
            let frame = self.receive().await?;
            match frame.kind() {
                b'K' => self.keep_key(&frame)?,
                b'Z' if frame.body().as_ref() == b"I" => break,
                _ => return Err(frame.unexpected().into()),
            }
        }
        while !self.exchange.is_at_end() {
            let frame = self.next().await?;
            if let Some(frame) = self.note(frame)? {
                return Err(frame.unexpected().into());
            }
        }
        Ok(())
    }

    fn keep_key(&mut self, frame: &Frame) -> Result<(), ConnectError> {
        let mut body = frame.body();
        self.session.process_id = take_i32(&mut body).ok_or(frame.malformed())?;
        if body.is_empty() || body.len() > SECRET_BYTES_MAX {
            return Err(frame.malformed().into());
        }
        self.session.secret = body.to_vec();
        Ok(())
    }
}

/// Kinds of authentication requests.
mod request {
    pub(super) const OK: i32 = 0;
    pub(super) const CLEARTEXT: i32 = 3;
    pub(super) const MD5: i32 = 5;
    pub(super) const SASL: i32 = 10;
    pub(super) const SASL_CONTINUE: i32 = 11;
    pub(super) const SASL_FINAL: i32 = 12;
}

/// The names in an AuthenticationSASL: each ends with a NUL, the list with another.
fn mechanisms(mut body: &[u8]) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    loop {
        let (name, rest) = cstring(body)?;
        if name.is_empty() {
            return rest.is_empty().then_some(names);
        }
        names.push(std::str::from_utf8(name).ok()?);
        body = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_list_of_mechanisms_is_read_to_its_end() {
        assert_eq!(mechanisms(b"A\0B\0\0"), Some(vec!["A", "B"]));
        for bad in [&b"A\0B\0"[..], b"A", b"", b"A\0\0x", b"\xff\0\0"] {
            assert_eq!(mechanisms(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_mechanisms_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = mechanisms(&bytes);
        }
    }
}
