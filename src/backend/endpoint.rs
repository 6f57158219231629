//! Where a server is and how it is spoken to: addresses, and TLS before the first message.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OnceCell;

use super::error::{Broken, ConnectError};
use crate::net::tls::client_config;
use crate::net::{Stream, connect_tcp, server_name};
use crate::tenant::{Server, ServerName, SslMode};

/// What tells one server from another: if any of it changes, it is another server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// Its name in the registry.
    pub name: ServerName,
    /// Host name, address, or (with a leading `/`) directory of a Unix socket.
    pub host: String,
    /// TCP port, or the number in the Unix socket's name.
    pub port: u16,
    /// How TLS is used; of no meaning for Unix sockets, as in libpq.
    pub sslmode: SslMode,
    /// File with the certificate authorities to trust; the system's when absent.
    pub ca_file: Option<PathBuf>,
}

impl ServerAddress {
    /// The address of a server of the registry.
    #[must_use]
    pub fn new(server: &Server) -> Self {
        Self {
            name: server.name.clone(),
            host: server.host.clone(),
            port: server.port,
            sslmode: server.sslmode,
            ca_file: server.ca_file.as_ref().map(PathBuf::from),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A server as connections see it.
pub struct Endpoint {
    address: ServerAddress,
    /// In nanoseconds.
    timeout: AtomicU64,
    /// Made at first use, since that may read files.
    tls: OnceCell<Option<Arc<ClientConfig>>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .field("timeout", &self.timeout())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// Which of its ways a connection with `sslmode=prefer` tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    /// TLS as the mode says.
    AsConfigured,
    /// The second attempt of `prefer`.
    Plain,
}

impl Endpoint {
    /// A server at an address; opening one connection may take this long, all steps together.
    #[must_use]
    pub fn new(address: ServerAddress, timeout: Duration) -> Arc<Self> {
        let endpoint = Self { address, timeout: AtomicU64::new(0), tls: OnceCell::new() };
        endpoint.set_timeout(timeout);
        Arc::new(endpoint)
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// How long opening one connection may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout.load(Ordering::Relaxed))
    }

    /// Another time from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.timeout.store(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether a failure leaves `prefer` its second attempt, without TLS.
    pub(super) fn may_fall_back(&self, error: &ConnectError) -> bool {
        let about_encryption = match error {
            ConnectError::TlsHandshake(_) => true,
            // pg_hba.conf lets some in only without TLS.
            ConnectError::Server { sqlstate, .. } | ConnectError::StoredLoginRefused { sqlstate, .. } => {
                sqlstate == "28000"
            }
            _ => false,
        };
        about_encryption && self.address.sslmode == SslMode::Prefer && !self.is_unix()
    }

    /// Connects to `host` (as in [`ServerAddress::host`]) and agrees on TLS.
    pub(super) async fn open(&self, host: &str, encryption: Encryption) -> Result<Stream, ConnectError> {
        let stream = connect_tcp(host, self.address.port).await.map_err(ConnectError::io("connect to the server"))?;
        if self.is_unix() || encryption == Encryption::Plain {
            return Ok(stream);
        }
        match self.tls().await? {
            Some(config) => self.negotiate(stream, config).await,
            None => Ok(stream),
        }
    }

    async fn tls(&self) -> Result<Option<Arc<ClientConfig>>, ConnectError> {
        let make = || async {
            let (mode, ca_file) = (self.address.sslmode, self.address.ca_file.clone());
            let made = tokio::task::spawn_blocking(move || client_config(mode, ca_file.as_deref())).await;
            made.map_err(|_| ConnectError::Shutdown)?.map_err(|error| ConnectError::TlsSettings(Arc::new(error)))
        };
        self.tls.get_or_try_init(make).await.cloned()
    }

    fn is_unix(&self) -> bool {
        self.address.host.starts_with('/')
    }

    async fn negotiate(&self, mut stream: Stream, config: Arc<ClientConfig>) -> Result<Stream, ConnectError> {
        let name = server_name(&self.address.host).ok_or(ConnectError::TlsName)?;
        let answer = ask_for_tls(&mut stream).await.map_err(ConnectError::io("ask the server for TLS"))?;
        match answer.as_slice() {
            b"S" => {
                let shaken = stream.connect_tls(name, config).await;
                shaken.map_err(|error| ConnectError::TlsHandshake(Arc::new(error)))
            }
            b"N" if self.address.sslmode == SslMode::Prefer => Ok(stream),
            b"N" => Err(ConnectError::TlsRefused),
            [b'S' | b'N', ..] => Err(Broken::EarlyData.into()),
            // An ErrorResponse here comes from nobody we know (CVE-2024-10977): its text goes nowhere.
            [other, ..] => Err(Broken::Encryption(*other).into()),
            [] => Err(ConnectError::io("ask the server for TLS")(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// The server's whole answer to SSLRequest; a right one has one byte.
async fn ask_for_tls(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let mut request = BytesMut::with_capacity(8);
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    let mut answer = [0; 16];
    let read = stream.read(&mut answer).await?;
    Ok(answer[..read].to_vec())
}
