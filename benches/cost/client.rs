//! A client that takes little memory and no runtime, so that thousands of them fit into a process and none disturbs what is measured.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pgtenant::auth::scram::{self, SCRAM_SHA_256};
use pgtenant::auth::{Credential, Secret};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::place::PASSWORD;

pub(crate) const HOST: &str = "127.0.0.1";
/// Longest wait for an answer: a hang must fail.
const PATIENCE: Duration = Duration::from_secs(30);
/// Answers are short.
const BUFFER_BYTES: usize = 512;
const PROTOCOL_3_0: u32 = 3 << 16;
const SSL_REQUEST: u32 = 80_877_103;

/// Codes of Authentication messages.
const AUTHENTICATION_OK: u32 = 0;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// Whom a client names.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) database: &'static str,
}

enum Channel {
    Clear(TcpStream),
    Encrypted(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(buffer),
            Self::Encrypted(stream) => stream.read(buffer),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.write(bytes),
            Self::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Clear(stream) => stream.flush(),
            Self::Encrypted(stream) => stream.flush(),
        }
    }
}

/// A session.
pub(crate) struct Client {
    channel: BufReader<Channel>,
    /// Of the last message received.
    body: Vec<u8>,
}

impl Client {
    /// Logs in, under TLS where its settings are given.
    pub(crate) fn login(login: &Login, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let (mut client, mut scram, first) = Self::claim(login, tls)?;
        let last = scram.update(&first).context("the server's first message of SCRAM")?;
        client.send(&message(b'p', &[&last]))?;
        scram.finish(client.authentication(SASL_FINAL)?).context("the server's last message of SCRAM")?;
        client.authentication(AUTHENTICATION_OK)?;
        client.until_ready()?;
        Ok(client)
    }

    /// Names a user and hears what there is to prove, but proves nothing and leaves.
    pub(crate) fn knock(login: &Login) -> Result<()> {
        Self::claim(login, None).map(drop)
    }

    /// As far as the server's first message of SCRAM.
    fn claim(login: &Login, tls: Option<&Arc<ClientConfig>>) -> Result<(Self, scram::Client, Vec<u8>)> {
        let mut client =
            Self { channel: BufReader::with_capacity(BUFFER_BYTES, connect(login.port, tls)?), body: Vec::new() };
        let parameters =
            [b"user\0", login.user.as_bytes(), b"\0database\0", login.database.as_bytes(), b"\0\0"].concat();
        client.send(&untyped(PROTOCOL_3_0, &parameters))?;
        client.authentication(SASL)?;
        let mut scram = scram::Client::new(Credential::Password(Secret::new(PASSWORD.to_owned())), None);
        let mechanism = scram.mechanism(&[SCRAM_SHA_256]).context("SCRAM without channel binding")?;
        let first = scram.first();
        let length = u32::try_from(first.len())?.to_be_bytes();
        client.send(&message(b'p', &[mechanism.as_bytes(), b"\0", &length, &first]))?;
        let challenge = client.authentication(SASL_CONTINUE)?.to_vec();
        Ok((client, scram, challenge))
    }

    /// Sends messages that bring one ReadyForQuery, and waits for it.
    pub(crate) fn ask(&mut self, messages: &[u8]) -> Result<()> {
        self.send(messages)?;
        self.until_ready()
    }

    /// The first column of the last row of the answer to messages, as text.
    pub(crate) fn value(&mut self, messages: &[u8]) -> Result<String> {
        self.send(messages)?;
        let mut value = None;
        loop {
            match self.receive()? {
                b'D' => {
                    let (length, rest) = self.body.get(2..).and_then(<[u8]>::split_first_chunk).context("a row")?;
                    let text = rest.get(..usize::try_from(u32::from_be_bytes(*length))?).context("a value")?;
                    value = Some(String::from_utf8(text.to_vec())?);
                }
                b'Z' => return value.context("no row"),
                _ => {}
            }
        }
    }

    /// Says that it leaves, and waits until the connection is closed.
    pub(crate) fn leave(mut self) -> Result<()> {
        self.send(&message(b'X', &[]))?;
        // How the other side closes a connection is its own business.
        let _ = self.channel.read(&mut [0]);
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let channel = self.channel.get_mut();
        channel.write_all(bytes)?;
        Ok(channel.flush()?)
    }

    fn until_ready(&mut self) -> Result<()> {
        while self.receive()? != b'Z' {}
        Ok(())
    }

    /// What follows the code in an Authentication message, which must be this one.
    fn authentication(&mut self, expected: u32) -> Result<&[u8]> {
        let kind = self.receive()?;
        let (code, rest) = self.body.split_first_chunk().context("an Authentication message")?;
        let code = u32::from_be_bytes(*code);
        ensure!(kind == b'R' && code == expected, "{:?} {code} for Authentication {expected}", char::from(kind));
        Ok(rest)
    }

    /// The next message's type; its body is kept until the next call.
    fn receive(&mut self) -> Result<u8> {
        let mut head = [0; 5];
        self.channel.read_exact(&mut head).context("wait for an answer")?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length).checked_sub(4).context("a message's length")?;
        self.body.resize(usize::try_from(length)?, 0);
        self.channel.read_exact(&mut self.body).context("read an answer")?;
        if kind == b'E' {
            bail!("{}", String::from_utf8_lossy(&self.body).replace('\0', " "));
        }
        Ok(kind)
    }
}

fn connect(port: u16, tls: Option<&Arc<ClientConfig>>) -> Result<Channel> {
    let mut stream = TcpStream::connect((HOST, port)).with_context(|| format!("connect to {HOST}:{port}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let Some(tls) = tls else { return Ok(Channel::Clear(stream)) };
    stream.write_all(&untyped(SSL_REQUEST, &[]))?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(answer == *b"S", "TLS was refused");
    let connection = ClientConnection::new(Arc::clone(tls), ServerName::try_from("localhost")?)?;
    Ok(Channel::Encrypted(Box::new(StreamOwned::new(connection, stream))))
}

/// A message before a session: a code, and what follows it.
fn untyped(code: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(rest.len() + 8).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), &code.to_be_bytes(), rest].concat()
}

fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[kind], &length.to_be_bytes()[..], &body].concat()
}

/// Query.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"])
}

/// Parse and Sync.
pub(crate) fn prepare(name: &str, sql: &str) -> Vec<u8> {
    [parse(name, sql), sync()].concat()
}

/// Bind, Execute and Sync.
pub(crate) fn run(name: &str) -> Vec<u8> {
    let bind = message(b'B', &[b"\0", name.as_bytes(), b"\0\0\0\0\0\0\0"]);
    [bind, message(b'E', &[b"\0\0\0\0\0"]), sync()].concat()
}

/// Parse of the unnamed statement, Bind, Execute and Sync.
pub(crate) fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql), run("")].concat()
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"])
}

fn sync() -> Vec<u8> {
    message(b'S', &[])
}
