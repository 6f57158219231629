//! The beginning of a connection: encryption, then a startup message or a cancel request.
//!
//! Nothing said in clear is ever taken for something said under TLS (CVE-2021-23222 and its kin): whatever is read together with
//! a request for encryption ends the connection.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use bytes::{BufMut, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::net::{Peer, ServerTls, Stream};
use crate::protocol::{
    Announced, CancelKey, Protocol, Report, STARTUP_HEADER_BYTES, Severity, Startup, StartupError, encode_negotiation,
    startup_length,
};

use super::config::ClientTls;
use super::error::Error;
use super::inbox::Inbox;

/// The first byte of a TLS handshake record; as the first of a length word it would announce 352 MB.
const TLS_HANDSHAKE: u8 = 0x16;
/// Most bytes of a refused client that are read away, so that closing does not take the refusal with it.
const DISCARD_BYTES_MAX: usize = 16 * 1024;

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Opening {
    /// Someone wants a statement stopped. The client waits until the stream is closed.
    Cancel(CancelKey, Stream),
    /// Someone wants a session.
    Session(Opened),
    /// Nobody: a health check, a port scan, another protocol. There is nothing to say and nothing to log.
    Silent,
}

/// A client that sent its startup message and waits for what is asked of it.
#[derive(Debug)]
pub struct Opened {
    /// The connection, under TLS if that was agreed.
    pub stream: Stream,
    /// The protocol version that both sides know of.
    pub protocol: Protocol,
    /// Names and values of the startup message in their order, with a user that is not empty.
    pub parameters: Vec<(String, String)>,
}

/// TLS for clients.
#[derive(Debug, Clone)]
pub struct Encryption {
    /// The certificate, and what is agreed to with it.
    pub tls: Arc<ServerTls>,
    /// Where handshakes are done, which take too long for a thread that relays.
    pub runtime: Handle,
}

/// Brings a new connection to its startup message or cancel request. Where the client is refused it has been told so, and the
/// connection is closed. The caller bounds the time.
///
/// # Errors
/// [`Error`]: of the socket, of TLS, or what the client did wrong.
pub async fn open(mut stream: Stream, tls: Option<&Encryption>, policy: ClientTls) -> Result<Opening, Error> {
    let is_local = *stream.peer() == Peer::Unix;
    let tls = tls.filter(|_| policy != ClientTls::Disable && !is_local);
    let mut requests = Requests::default();
    loop {
        let mut inbox = Inbox::new();
        let Some(header) = read_header(&mut stream, &mut inbox).await else { return Ok(Opening::Silent) };
        if header[0] == TLS_HANDSHAKE && requests == Requests::default() {
            let Some(tls) = tls else { return Ok(Opening::Silent) };
            stream = direct_tls(stream, inbox.bytes(), tls).await?;
            requests = Requests { encrypted: true, ..requests };
            continue;
        }
        let announced = match Announced::parse(header) {
            Ok(announced) => announced,
            Err(StartupError::Length(_)) => return Ok(Opening::Silent),
            Err(error) => return Err(refuse(&mut stream, error.into()).await),
        };
        match announced {
            Announced::SslRequest | Announced::GssEncRequest => {
                let yes = tls.filter(|_| announced == Announced::SslRequest);
                match requests.take(announced).and(early_data(&inbox, announced)) {
                    Ok(()) => stream = answer(stream, yes).await?,
                    Err(error) => return Err(refuse(&mut stream, error).await),
                }
                requests.encrypted = yes.is_some();
            }
            Announced::Cancel { rest } => {
                let packet = read_packet(&mut stream, inbox, rest, "cancel request").await?;
                let key = CancelKey::parse(&packet[STARTUP_HEADER_BYTES..])?;
                return Ok(Opening::Cancel(key, stream));
            }
            Announced::Startup { version, rest } => {
                let packet = read_packet(&mut stream, inbox, rest, "startup packet").await?;
                let body = &packet[STARTUP_HEADER_BYTES..];
                let in_clear = policy == ClientTls::Require && !requests.encrypted && !is_local;
                return match startup(version, body, in_clear, &mut stream).await {
                    Ok((protocol, parameters)) => Ok(Opening::Session(Opened { stream, protocol, parameters })),
                    Err(error) => Err(refuse(&mut stream, error).await),
                };
            }
        }
    }
}

/// Tells a client why it is refused, and closes the connection. The caller bounds the time.
pub async fn turn_away(stream: &mut Stream, report: &Report) {
    say_goodbye(stream, &report.to_bytes()).await;
}

/// Tells a client why it is refused, if there is something to tell, and closes the connection. Returns the error for the log.
pub(crate) async fn refuse(stream: &mut Stream, error: Error) -> Error {
    if let Some(farewell) = farewell(&error) {
        say_goodbye(stream, &farewell).await;
    }
    error
}

impl Encryption {
    /// Makes a stream a TLS one, elsewhere, and takes it back. A handshake that is not waited for any more ends.
    async fn accept(&self, stream: Stream, prefix: &[u8]) -> io::Result<Stream> {
        let (client, tls, prefix) = (stream.detach()?, Arc::clone(&self.tls), prefix.to_vec());
        let mut handshake = JoinSet::new();
        let shake_hands = async move { client.attach().accept_tls(&prefix, &tls).await?.detach() };
        handshake.spawn_on(shake_hands, &self.runtime);
        match handshake.join_next().await {
            Some(Ok(done)) => Ok(done?.attach()),
            Some(Err(_)) | None => Err(io::Error::other("the handshake's runtime ended")),
        }
    }
}

/// Which requests for encryption a connection has made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Requests {
    ssl: bool,
    gss: bool,
    encrypted: bool,
}

impl Requests {
    /// Each request is made once, and none under encryption.
    fn take(&mut self, announced: Announced) -> Result<(), Error> {
        let taken = if announced == Announced::SslRequest { &mut self.ssl } else { &mut self.gss };
        let why = match (self.encrypted, std::mem::replace(taken, true)) {
            (false, false) => return Ok(()),
            (true, _) => "the connection is encrypted already",
            (false, true) => "it was answered already",
        };
        Err(Error::UnexpectedRequest { request: name_of(announced), why })
    }
}

const fn name_of(announced: Announced) -> &'static str {
    match announced {
        Announced::SslRequest => "SSLRequest",
        Announced::GssEncRequest => "GSSENCRequest",
        Announced::Cancel { .. } => "cancel request",
        Announced::Startup { .. } => "startup packet",
    }
}

/// The first eight bytes, with which others may have come; none if the client leaves before, or does not speak the protocol.
async fn read_header(stream: &mut Stream, inbox: &mut Inbox) -> Option<[u8; STARTUP_HEADER_BYTES]> {
    loop {
        if let Some(header) = inbox.bytes().first_chunk() {
            return Some(*header);
        }
        // What is not this protocol is sent away at its fourth byte, since it may never send an eighth.
        if let Some(length) = inbox.bytes().first_chunk()
            && length[0] != TLS_HANDSHAKE
            && startup_length(*length).is_err()
        {
            return None;
        }
        if !matches!(inbox.read(stream).await, Ok(1..)) {
            return None;
        }
    }
}

/// A packet of which `rest` bytes follow the header.
async fn read_packet(stream: &mut Stream, inbox: Inbox, rest: usize, what: &'static str) -> Result<Vec<u8>, Error> {
    inbox.message(stream, STARTUP_HEADER_BYTES + rest).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Closed(what),
        _ => Error::Io(error),
    })
}

/// TLS without asking first. There ALPN must say that PostgreSQL is meant, so that no other protocol's TLS is answered (as
/// PostgreSQL demands).
async fn direct_tls(stream: Stream, prefix: &[u8], tls: &Encryption) -> Result<Stream, Error> {
    let mut stream = tls.accept(stream, prefix).await.map_err(Error::Tls)?;
    match stream.tls().and_then(|info| info.alpn.as_deref()) {
        Some(crate::net::tls::ALPN) => Ok(stream),
        _ => Err(refuse(&mut stream, Error::NoAlpn).await),
    }
}

/// A request for encryption is the last thing a client says before the answer. Whatever comes with it was put there by a
/// broken client, or by someone who wants it taken for the client's own words under TLS.
fn early_data(inbox: &Inbox, request: Announced) -> Result<(), Error> {
    if inbox.bytes().len() == STARTUP_HEADER_BYTES {
        return Ok(());
    }
    Err(Error::EarlyData(match request {
        Announced::SslRequest => "SSL request",
        _ => "GSSAPI encryption request",
    }))
}

/// Answers a request for encryption: `S` and TLS, or `N`.
async fn answer(mut stream: Stream, tls: Option<&Encryption>) -> Result<Stream, Error> {
    stream.write_all(if tls.is_some() { b"S" } else { b"N" }).await.map_err(Error::Io)?;
    match tls {
        Some(tls) => tls.accept(stream, &[]).await.map_err(Error::Tls),
        None => {
            stream.expect_wait();
            Ok(stream)
        }
    }
}

/// Reads the startup message and tells the client of what it asks for and this side does not know.
async fn startup(
    version: u32,
    body: &[u8],
    refused_in_clear: bool,
    stream: &mut Stream,
) -> Result<(Protocol, Vec<(String, String)>), Error> {
    let startup = Startup::parse(version, body)?;
    if refused_in_clear {
        return Err(Error::TlsRequired);
    }
    let protocol = Protocol::at_most(startup.minor);
    let unsupported: Vec<_> = startup.protocol_options().map(str::to_owned).collect();
    if protocol.minor() != startup.minor || !unsupported.is_empty() {
        let mut message = BytesMut::new();
        encode_negotiation(protocol, &unsupported, &mut message);
        stream.write_all(&message).await.map_err(Error::Io)?;
        stream.flush().await.map_err(Error::Io)?;
    }
    startup.user()?;
    Ok((protocol, startup.parameters))
}

/// The last message to a refused client. Those of before version 3 get it in the form they know.
fn farewell(error: &Error) -> Option<BytesMut> {
    let report = error.report()?;
    if !matches!(error, Error::Startup(StartupError::Version { major: 1 | 2, .. })) {
        return Some(report.to_bytes());
    }
    let mut old = BytesMut::new();
    old.put_slice(format!("E{}:  {}\n\0", Severity::Fatal.as_str(), report.message).as_bytes());
    Some(old)
}

async fn say_goodbye(stream: &mut Stream, message: &[u8]) {
    let told = async {
        stream.write_all(message).await?;
        stream.shutdown().await
    };
    if let Err(error) = told.await {
        tracing::debug!(%error, "tell a client why it is refused");
        return;
    }
    // A socket closed with unread bytes is reset, and the client may then never see the message.
    let mut buffer = [0; 1024];
    poll_fn(|cx| {
        let mut discarded = 0;
        while discarded < DISCARD_BYTES_MAX {
            match stream.poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(read @ 1..)) => discarded += read,
                _ => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
