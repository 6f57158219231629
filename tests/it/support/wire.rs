//! A client that speaks the protocol byte by byte, for what drivers never do.

use std::net::SocketAddr;
use std::time::Duration;

use pgtenant::auth::scram::{self, Client as Scram};
use pgtenant::auth::{Credential, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::Tenant;

/// Longest wait for an answer: a hang must fail, not block.
const PATIENCE: Duration = Duration::from_secs(30);

/// A message: its type and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse.
    pub(crate) fn field(&self, code: u8) -> String {
        let fields = self.body.split(|byte| *byte == 0);
        let found = fields.into_iter().find(|field| field.first() == Some(&code));
        String::from_utf8_lossy(found.map_or(&[], |field| &field[1..])).into_owned()
    }
}

/// The first column of the first row of an answer without errors; empty when there is none.
pub(crate) fn value(answer: &[Message]) -> String {
    if let Some(error) = answer.iter().find(|message| message.kind == b'E') {
        panic!("{}: {}", error.field(b'C'), error.field(b'M'));
    }
    assert_eq!(answer.last().map(|message| message.kind), Some(b'Z'), "the connection was closed");
    let row = answer.iter().find(|message| message.kind == b'D').map_or(&[][..], |row| &row.body[..]);
    let length = row.get(2..6).map_or(0, |length| i32::from_be_bytes(length.try_into().expect("four bytes")));
    let length = usize::try_from(length).unwrap_or(0);
    String::from_utf8_lossy(row.get(6..6 + length).unwrap_or_default()).into_owned()
}

/// SQLSTATE and text of the error in an answer, and the transaction status after it (`-` when the connection was closed).
pub(crate) fn failure(answer: &[Message]) -> (String, String, char) {
    let error = answer.iter().find(|message| message.kind == b'E').expect("an error");
    let status = answer.last().filter(|last| last.kind == b'Z').map_or('-', |last| char::from(last.body[0]));
    (error.field(b'C'), error.field(b'M'), status)
}

/// What a statement came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// SQLSTATE and message of the first error.
    pub(crate) error: Option<(String, String)>,
    /// All columns of all rows as text, NULL as the empty one.
    pub(crate) rows: Vec<Vec<String>>,
    /// Whatever the server said, in any message.
    pub(crate) text: String,
    /// The connection was closed.
    pub(crate) ended: bool,
}

impl Outcome {
    /// The SQLSTATE of the error; empty if there was none.
    pub(crate) fn code(&self) -> &str {
        self.error.as_ref().map_or("", |(code, _)| code)
    }
}

/// The columns of a DataRow.
fn columns(body: &[u8]) -> Vec<String> {
    let (mut rest, mut columns) = (&body[2..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        columns.push(String::from_utf8_lossy(&after[..length]).into_owned());
        rest = &after[length..];
    }
    columns
}

/// A raw connection.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    /// What BackendKeyData gave.
    pub(crate) process_id: i32,
    pub(crate) secret: Vec<u8>,
    /// What ParameterStatus gave at the start.
    pub(crate) parameters: Vec<(String, String)>,
    /// Notices before the first ReadyForQuery.
    pub(crate) notices: Vec<Message>,
}

/// One message of a client.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a length");
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

/// Query.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// Parse, without parameter types.
pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

/// Bind of the unnamed portal, without parameters.
pub(crate) fn bind(statement: &str) -> Vec<u8> {
    message(b'B', &[b"\0", statement.as_bytes(), b"\0\0\0\0\0\0\0"].concat())
}

/// Execute of the unnamed portal, all rows.
pub(crate) fn execute() -> Vec<u8> {
    message(b'E', b"\0\0\0\0\0")
}

/// Execute of the unnamed portal, so many rows at most.
pub(crate) fn execute_rows(rows: u32) -> Vec<u8> {
    message(b'E', &[b"\0", &rows.to_be_bytes()[..]].concat())
}

/// Parse, Bind and Execute of the unnamed statement.
pub(crate) fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql), bind(""), execute()].concat()
}

/// Describe (`S` a statement, `P` a portal).
pub(crate) fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[kind], name.as_bytes(), b"\0"].concat())
}

/// Close (`S` a statement, `P` a portal).
pub(crate) fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[kind], name.as_bytes(), b"\0"].concat())
}

/// Sync.
pub(crate) fn sync() -> Vec<u8> {
    message(b'S', b"")
}

/// Flush.
pub(crate) fn flush() -> Vec<u8> {
    message(b'H', b"")
}

/// CopyData.
pub(crate) fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

/// CopyDone.
pub(crate) fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

/// CopyFail.
pub(crate) fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &[reason.as_bytes(), b"\0"].concat())
}

/// Terminate.
pub(crate) fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

/// Asks for a cancel on a connection of its own, and waits until that is closed.
pub(crate) async fn cancel(address: SocketAddr, process_id: i32, secret: &[u8]) {
    let length = u32::try_from(12 + secret.len()).expect("a length");
    let code = (1234_u32 << 16) | 5678;
    let request = [&length.to_be_bytes()[..], &code.to_be_bytes(), &process_id.to_be_bytes(), secret].concat();
    let mut wire = Wire::open(address).await;
    wire.send(&request).await;
    assert!(wire.is_closed().await, "a cancel request gets no answer");
}

/// A startup packet of protocol 3.0.
pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    startup_of(196_608, parameters)
}

/// A startup packet of any version.
pub(crate) fn startup_of(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).expect("a length");
    [&length.to_be_bytes()[..], &body].concat()
}

impl Wire {
    /// A connection on which nothing has been said.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        Self { stream, process_id: 0, secret: Vec::new(), parameters: Vec::new(), notices: Vec::new() }
    }

    /// A session of a tenant's login, after its first ReadyForQuery.
    pub(crate) async fn login(address: SocketAddr, tenant: &Tenant, module: &str) -> Self {
        let user = tenant.user();
        Self::login_with(address, &startup(&[("user", &user), ("database", module)]), &tenant.password)
            .await
            .expect("log in")
    }

    /// Sends this startup packet and logs in; the ErrorResponse if that is what comes.
    pub(crate) async fn login_with(address: SocketAddr, startup: &[u8], password: &str) -> Result<Self, Message> {
        let mut wire = Self::open(address).await;
        wire.send(startup).await;
        wire.authenticate(password).await?;
        Ok(wire)
    }

    /// Answers the SASL exchange and reads up to ReadyForQuery.
    pub(crate) async fn authenticate(&mut self, password: &str) -> Result<(), Message> {
        let secret = Secret::new(password.to_owned());
        let mut scram = Scram::new(Credential::Password(secret), None);
        loop {
            let message = self.receive().await.expect("an answer");
            match (message.kind, message.body.get(..4)) {
                (b'R', Some([0, 0, 0, 10])) => {
                    let mechanism = scram.mechanism(&[scram::SCRAM_SHA_256]).expect("a mechanism");
                    let first = scram.first();
                    let length = u32::try_from(first.len()).expect("a length").to_be_bytes();
                    self.send(&super::wire::message(b'p', &[mechanism.as_bytes(), b"\0", &length, &first].concat()))
                        .await;
                }
                (b'R', Some([0, 0, 0, 11])) => {
                    let last = scram.update(&message.body[4..]).expect("a server-first message");
                    self.send(&super::wire::message(b'p', &last)).await;
                }
                (b'R', Some([0, 0, 0, 12])) => scram.finish(&message.body[4..]).expect("a proof of the server"),
                (b'R' | b'v', _) => {}
                (b'S', _) => {
                    let mut parts =
                        message.body.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
                    self.parameters.push((parts.next().unwrap_or_default(), parts.next().unwrap_or_default()));
                }
                (b'K', Some(id)) => {
                    self.process_id = i32::from_be_bytes(id.try_into().expect("four bytes"));
                    self.secret = message.body[4..].to_vec();
                }
                (b'N', _) => self.notices.push(message),
                (b'Z', _) => return Ok(()),
                _ => return Err(message),
            }
        }
    }

    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("send");
    }

    /// Sends bytes to a peer that may have closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next message; none when the connection was closed.
    pub(crate) async fn receive(&mut self) -> Option<Message> {
        let read = async {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut body = vec![0; length - 4];
            self.stream.read_exact(&mut body).await.ok()?;
            Some(Message { kind: head[0], body })
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an answer in time")
    }

    /// All messages up to and with the next ReadyForQuery, or up to the end of the connection.
    pub(crate) async fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.receive().await {
            let ready = message.kind == b'Z';
            messages.push(message);
            if ready {
                break;
            }
        }
        messages
    }

    /// Sends a simple query and returns the messages up to ReadyForQuery.
    pub(crate) async fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql)).await;
        self.until_ready().await
    }

    /// The same for a query that must succeed: the first column of the first row, empty when there is none.
    pub(crate) async fn ask(&mut self, sql: &str) -> String {
        value(&self.query(sql).await)
    }

    /// What a statement comes to. COPY from the client gets one row.
    pub(crate) async fn run(&mut self, sql: &str) -> Outcome {
        self.send(&query(sql)).await;
        let mut outcome = Outcome::default();
        while let Some(message) = self.receive().await {
            outcome.text.push_str(&String::from_utf8_lossy(&message.body));
            outcome.text.push('\n');
            match message.kind {
                b'D' => outcome.rows.push(columns(&message.body)),
                b'E' if outcome.error.is_none() => outcome.error = Some((message.field(b'C'), message.field(b'M'))),
                b'G' => self.send(&[self::message(b'd', b"planted\n"), self::message(b'c', b"")].concat()).await,
                b'Z' => return outcome,
                _ => {}
            }
        }
        outcome.ended = true;
        outcome
    }

    /// The first column of the only row of a statement that succeeds.
    pub(crate) async fn value(&mut self, sql: &str) -> String {
        let outcome = self.run(sql).await;
        assert_eq!(outcome.error, None, "{sql}");
        assert_eq!(outcome.rows.len(), 1, "{sql}: {:?}", outcome.rows);
        outcome.rows[0][0].clone()
    }

    /// The types of the messages up to the next ReadyForQuery.
    pub(crate) async fn kinds(&mut self) -> String {
        self.until_ready().await.iter().map(|message| char::from(message.kind)).collect()
    }

    /// Waits until the connection ends, whatever is said before.
    pub(crate) async fn until_ended(&mut self) {
        while self.receive().await.is_some() {}
    }

    /// Whether the other side closed the connection; waits for it.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.receive().await.is_none()
    }
}
