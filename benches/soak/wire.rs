//! A client that speaks the protocol byte by byte and never panics: what it meets is a [`Trouble`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pgtenant::auth::scram::{self, Client as Scram};
use pgtenant::auth::{Credential, Secret};
use pgtenant::net::{Stream, server_name};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for a message: longer than any time-out of the proxy's that may come before it.
const PATIENCE: Duration = Duration::from_secs(45);
/// Longest message that the soak asks for.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What a client met instead of its answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// An ErrorResponse.
    #[error("{sqlstate}: {message}")]
    Refused { sqlstate: String, message: String },
    /// Nobody listens, or the connection ended without a word before the session began.
    #[error("the proxy cannot be reached")]
    Away,
    /// The connection ended without a word.
    #[error("the connection ended without a word")]
    Closed,
    /// No answer in time.
    #[error("no answer in {PATIENCE:?}")]
    Silent,
    /// A row that is not the tenant's own.
    #[error("tenant {slug} was shown {row:?}")]
    Foreign { slug: String, row: String },
    /// Another answer than PostgreSQL's.
    #[error("{0}")]
    Wrong(String),
}

impl Trouble {
    /// The code of an ErrorResponse.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Refused { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }
}

/// A message: its type and body.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse.
    fn field(&self, code: u8) -> String {
        let found = self.body.split(|byte| *byte == 0).find(|field| field.first() == Some(&code));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    }

    /// The ErrorResponse as what it means to a client.
    pub(crate) fn refusal(&self) -> Trouble {
        Trouble::Refused { sqlstate: self.field(b'C'), message: self.field(b'M') }
    }

    /// All columns of a DataRow as text, NULL as the empty one.
    pub(crate) fn columns(&self) -> Vec<String> {
        let (mut rest, mut columns) = (self.body.get(2..).unwrap_or_default(), Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0).min(after.len());
            columns.push(String::from_utf8_lossy(&after[..length]).into_owned());
            rest = &after[length..];
        }
        columns
    }
}

/// Bytes of one message of a client.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &length_of(body), body].concat()
}

fn length_of(body: &[u8]) -> [u8; 4] {
    // Nothing here comes near the bound.
    u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes()
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// Parse, without parameter types.
pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

/// Bind of the unnamed portal with one parameter, as text.
pub(crate) fn bind(statement: &str, parameter: &str) -> Vec<u8> {
    let length = u32::try_from(parameter.len()).unwrap_or(0).to_be_bytes();
    message(b'B', &[b"\0", statement.as_bytes(), b"\0\0\0\0\x01", &length, parameter.as_bytes(), b"\0\0"].concat())
}

/// Execute of the unnamed portal, all rows.
pub(crate) fn execute() -> Vec<u8> {
    message(b'E', b"\0\0\0\0\0")
}

pub(crate) fn close_statement(name: &str) -> Vec<u8> {
    message(b'C', &[b"S", name.as_bytes(), b"\0"].concat())
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// A startup packet of protocol 3.0.
pub(crate) fn startup(user: &str, database: &str) -> Vec<u8> {
    let parameters = format!("user\0{user}\0database\0{database}\0application_name\0soak\0\0");
    let body = [&196_608_u32.to_be_bytes()[..], parameters.as_bytes()].concat();
    [&length_of(&body)[..], &body].concat()
}

/// Where a client knocks, and whether it wants TLS there.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// A raw connection, and after its login the key of its session.
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    key: Vec<u8>,
}

impl Wire {
    /// A connection on which nothing has been said.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Trouble> {
        let connected = timeout(PATIENCE, TcpStream::connect(address)).await.map_err(|_| Trouble::Silent)?;
        let stream = connected.map_err(|_| Trouble::Away)?;
        Ok(Self { stream: Stream::from_tcp(stream), key: Vec::new() })
    }

    /// The same, where TLS comes first if it is wanted.
    async fn enter(door: &Door) -> Result<Self, Trouble> {
        let mut wire = Self::open(door.address).await?;
        let Some(tls) = &door.tls else { return Ok(wire) };
        wire.send(&[&8_u32.to_be_bytes()[..], &((1234_u32 << 16) | 5679).to_be_bytes()].concat()).await?;
        let mut answer = [0];
        let answered = timeout(PATIENCE, wire.stream.read_exact(&mut answer)).await.map_err(|_| Trouble::Silent)?;
        answered.map_err(|_| Trouble::Closed)?;
        if answer != *b"S" {
            return Err(Trouble::Wrong(format!("TLS was answered with {answer:?}")));
        }
        let name = server_name("localhost").ok_or(Trouble::Closed)?;
        let handshake = timeout(PATIENCE, wire.stream.connect_tls(name, Arc::clone(tls)));
        wire.stream = match handshake.await.map_err(|_| Trouble::Silent)? {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Trouble::Wrong(format!("TLS: {error}")));
            }
            Err(_) => return Err(Trouble::Closed),
        };
        Ok(wire)
    }

    /// A session after its first ReadyForQuery.
    pub(crate) async fn login(door: &Door, user: &str, database: &str, password: &str) -> Result<Self, Trouble> {
        Self::begin(door, user, database, password).await.map_err(|trouble| match trouble {
            Trouble::Closed => Trouble::Away,
            other => other,
        })
    }

    async fn begin(door: &Door, user: &str, database: &str, password: &str) -> Result<Self, Trouble> {
        let mut wire = Self::enter(door).await?;
        wire.send(&startup(user, database)).await?;
        let mut scram = Scram::new(Credential::Password(Secret::new(password.to_owned())), None);
        let broken = |error: scram::ScramError| Trouble::Wrong(format!("SCRAM: {error}"));
        loop {
            let answer = wire.receive().await?;
            match (answer.kind, answer.body.get(..4)) {
                (b'R', Some([0, 0, 0, 10])) => {
                    let mechanism = scram.mechanism(&[scram::SCRAM_SHA_256]).unwrap_or_default();
                    let first = scram.first();
                    let length = u32::try_from(first.len()).unwrap_or(0).to_be_bytes();
                    wire.send(&message(b'p', &[mechanism.as_bytes(), b"\0", &length, &first].concat())).await?;
                }
                (b'R', Some([0, 0, 0, 11])) => {
                    let last = scram.update(&answer.body[4..]).map_err(broken)?;
                    wire.send(&message(b'p', &last)).await?;
                }
                (b'R', Some([0, 0, 0, 12])) => scram.finish(&answer.body[4..]).map_err(broken)?,
                (b'K', _) => wire.key = answer.body,
                (b'Z', _) => return Ok(wire),
                (b'E', _) => return Err(answer.refusal()),
                _ => {}
            }
        }
    }

    /// Sends bytes. Where the peer is gone what it said before is still to be read: that tells more.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(PATIENCE, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.last_words().await),
            Err(_) => Err(Trouble::Silent),
        }
    }

    async fn last_words(&mut self) -> Trouble {
        loop {
            match self.receive().await {
                Ok(message) if message.kind == b'E' => return message.refusal(),
                Ok(_) => {}
                Err(trouble) => return trouble,
            }
        }
    }

    /// The next message.
    pub(crate) async fn receive(&mut self) -> Result<Message, Trouble> {
        let read = async {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head).await.map_err(|_| Trouble::Closed)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if !(4..MESSAGE_BYTES_MAX).contains(&length) {
                return Err(Trouble::Wrong(format!("message of type {:#04x} with length {length}", head[0])));
            }
            let mut body = vec![0; length - 4];
            self.stream.read_exact(&mut body).await.map_err(|_| Trouble::Closed)?;
            Ok(Message { kind: head[0], body })
        };
        timeout(PATIENCE, read).await.map_err(|_| Trouble::Silent)?
    }

    /// All rows up to ReadyForQuery, CopyData as a row of one column; or the first error, after which the session may go on if
    /// ReadyForQuery came.
    pub(crate) async fn rows(&mut self) -> Result<Vec<Vec<String>>, Trouble> {
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            let message = match self.receive().await {
                Ok(message) => message,
                Err(trouble) => return Err(refused.unwrap_or(trouble)),
            };
            match message.kind {
                b'D' => rows.push(message.columns()),
                b'd' => rows.push(vec![String::from_utf8_lossy(&message.body).trim_end().to_owned()]),
                b'E' if refused.is_none() => refused = Some(message.refusal()),
                b'Z' => return refused.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// A simple query and its rows.
    pub(crate) async fn ask(&mut self, sql: &str) -> Result<Vec<Vec<String>>, Trouble> {
        self.send(&query(sql)).await?;
        self.rows().await
    }

    /// Waits for the next message of a kind; whatever comes before is passed over, but not errors.
    pub(crate) async fn until(&mut self, kind: u8) -> Result<Message, Trouble> {
        loop {
            let message = self.receive().await?;
            if message.kind == kind {
                return Ok(message);
            }
            if message.kind == b'E' {
                return Err(message.refusal());
            }
        }
    }

    /// Leaves as it should be.
    pub(crate) async fn leave(mut self) -> Result<(), Trouble> {
        self.send(&message(b'X', b"")).await
    }

    /// Leaves with a reset: nothing more is sent, nothing more is taken.
    pub(crate) fn reset(self) {
        // It is about to be closed in any case.
        let _ = self.socket(|socket| socket.set_linger(Some(Duration::ZERO)));
    }

    /// Sets something of the socket.
    pub(crate) fn socket(&self, set: impl FnOnce(socket2::SockRef<'_>) -> io::Result<()>) -> io::Result<()> {
        set(socket2::SockRef::from(&self.stream.duplicate()?))
    }

    /// Whether the other side ends the connection within this time, whatever it says before.
    pub(crate) async fn ends_within(&mut self, limit: Duration) -> bool {
        let end = async {
            let mut taken = [0; 1024];
            while self.stream.read(&mut taken).await.is_ok_and(|length| length > 0) {}
        };
        timeout(limit, end).await.is_ok()
    }

    /// What asks for a cancel of this session's statement: to be sent on a connection of its own.
    pub(crate) async fn cancel(address: SocketAddr, key: &[u8]) -> Result<(), Trouble> {
        let code = (1234_u32 << 16) | 5678;
        let body = [&code.to_be_bytes()[..], key].concat();
        let mut wire = Self::open(address).await?;
        wire.send(&[&length_of(&body)[..], &body].concat()).await?;
        if wire.ends_within(PATIENCE).await { Ok(()) } else { Err(Trouble::Silent) }
    }

    /// What a cancel request is sent with.
    pub(crate) fn key(&self) -> Vec<u8> {
        self.key.clone()
    }
}
