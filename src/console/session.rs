//! A console session: simple queries in, rows out.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::command::{Command, Which};
use super::config::Role;
use super::rows::command_complete;
use super::show::show;
use crate::backend::{PoolState, ServerUse};
use crate::limits;
use crate::net::Stream;
use crate::pool::Standing;
use crate::protocol::{
    HEADER_BYTES, Report, SqlState, authentication_ok, backend_key_data, header, parameter_status, ready_for_query,
};
use crate::session::ClientState;
use crate::tenant::{PoolMode, Tenant, TenantId};

/// Longest message of a console client.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// What is told of the server at the start: drivers look at some of these. The version is pgtenant's own.
const PARAMETERS: [(&str, &str); 7] = [
    ("server_version", concat!(env!("CARGO_PKG_VERSION"), "/pgtenant")),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "GMT"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "on"),
];
/// Most time that an answer may take to be accepted.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A setting as SHOW CONFIG has it. Never a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `section.key`.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What it is when nothing is said.
    pub default: String,
    /// Whether RELOAD applies a change.
    pub changeable: bool,
}

/// The proxy at one moment.
#[derive(Debug)]
pub struct View {
    /// All sessions.
    pub clients: Vec<ClientState>,
    /// All pools.
    pub pools: Vec<PoolState>,
    /// How far the servers' connections are used.
    pub servers: Vec<ServerUse>,
    /// How far tenants' are.
    pub tenants: HashMap<TenantId, Standing>,
    /// The tenants of the pools, as they were last known: they may have no session.
    pub owners: HashMap<TenantId, Arc<Tenant>>,
    /// What a tenant may take of which the registry says nothing else.
    pub limits: limits::Config,
    /// How many threads did not answer in time: theirs are missing.
    pub silent_threads: usize,
    /// Clients on their way through login, and sessions, of at most so many.
    pub clients_used: usize,
    /// Most of them.
    pub clients_max: usize,
    /// How long the process has run.
    pub uptime: Duration,
    /// Tenants, or tenant and module, whose transactions are held.
    pub paused: Vec<String>,
    /// Those that let no new client in.
    pub disabled: Vec<String>,
    /// How sessions are pooled where module and tenant say nothing else.
    pub default_mode: PoolMode,
    /// The settings.
    pub settings: Vec<Setting>,
}

/// What the console needs of the proxy.
pub trait Operations: Send + Sync {
    /// What it is doing.
    fn view(&self) -> impl Future<Output = View> + Send;
    /// Whom a name means, whether it exists, what became of the command; an error is for the operator.
    fn act(&self, command: Command) -> impl Future<Output = Result<(), Report>> + Send;
    /// Returns when the process ends.
    fn closing(&self) -> impl Future<Output = ()> + Send;
}

/// Serves a console user who has proved to be one, until either side ends it. `first` goes in front of everything.
pub async fn serve(mut stream: Stream, first: BytesMut, role: Role, user: &str, operations: &impl Operations) {
    let served = tokio::select! {
        served = converse(&mut stream, first, role, user, operations) => served,
        () = operations.closing() => {
            let mut out = BytesMut::new();
            Report::fatal(SqlState::ADMIN_SHUTDOWN, "(PT-SHUTDOWN) terminating connection due to administrator command").encode(&mut out);
            send(&mut stream, &mut out).await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, user, "console client lost");
    }
    // A client that is gone cannot be told so.
    let _ = tokio::time::timeout(WRITE_TIMEOUT, stream.shutdown()).await;
}

async fn converse(
    stream: &mut Stream,
    mut out: BytesMut,
    role: Role,
    user: &str,
    operations: &impl Operations,
) -> std::io::Result<()> {
    welcome(&mut out).map_err(std::io::Error::other)?;
    send(stream, &mut out).await?;
    let mut input = BytesMut::new();
    let mut skipping = false;
    loop {
        let Some((kind, body)) = receive(stream, &mut input).await? else { return Ok(()) };
        match kind {
            b'X' => return Ok(()),
            b'S' => skipping = false,
            _ if skipping => continue,
            b'Q' => {
                let text = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(&body)).into_owned();
                if let Err(report) = answer(&text, role, user, operations, &mut out).await {
                    report.encode(&mut out);
                }
            }
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'F' => {
                Report::error(SqlState::FEATURE_NOT_SUPPORTED, "the console takes simple queries only")
                    .encode(&mut out);
                skipping = kind != b'F';
            }
            _ => {
                let message = format!("invalid frontend message type {kind}");
                Report::fatal(SqlState::PROTOCOL_VIOLATION, message).encode(&mut out);
                return send(stream, &mut out).await;
            }
        }
        if !skipping {
            ready_for_query(&mut out).map_err(std::io::Error::other)?;
        }
        send(stream, &mut out).await?;
    }
}

async fn answer(
    text: &str,
    role: Role,
    user: &str,
    operations: &impl Operations,
    out: &mut BytesMut,
) -> Result<(), Report> {
    let command = Command::parse(text)?;
    if !command.is_allowed(role) {
        return Err(Report::error(SqlState::INSUFFICIENT_PRIVILEGE, "admin access needed")
            .hint("This console user has the role \"stats\", which may only look."));
    }
    let tag = command.tag();
    match command {
        Command::Empty => {
            out.put_slice(&[b'I', 0, 0, 0, 4]);
            return Ok(());
        }
        Command::Set => {}
        Command::Show(what) => show(&what, &operations.view().await)?.encode(out),
        command => {
            tracing::info!(user, ?command, "console");
            operations.act(command).await?;
        }
    }
    command_complete(out, tag);
    Ok(())
}

fn welcome(out: &mut BytesMut) -> pgwire::error::PgWireResult<()> {
    authentication_ok(out)?;
    for (name, value) in PARAMETERS {
        parameter_status(out, name, value)?;
    }
    // There is nothing to cancel.
    backend_key_data(out, 0, &[0; 4])?;
    ready_for_query(out)
}

/// The next message; none at the end.
async fn receive(stream: &mut Stream, input: &mut BytesMut) -> std::io::Result<Option<(u8, BytesMut)>> {
    loop {
        let head = header(input).map_err(std::io::Error::other)?;
        if head.is_some_and(|head| head.frame_bytes > MESSAGE_BYTES_MAX) {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        if let Some(head) = head
            && input.len() >= head.frame_bytes
        {
            let mut frame = input.split_to(head.frame_bytes);
            return Ok(Some((head.kind, frame.split_off(HEADER_BYTES))));
        }
        if stream.read_buf(input).await? == 0 {
            return Ok(None);
        }
    }
}

async fn send(stream: &mut Stream, out: &mut BytesMut) -> std::io::Result<()> {
    let bytes = out.split();
    let sent = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    tokio::time::timeout(WRITE_TIMEOUT, sent).await.unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))
}

impl Which {
    /// As the operator wrote it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Named(name) => Some(name),
        }
    }
}
