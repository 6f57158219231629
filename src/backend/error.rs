//! What can go wrong on the way to a server, and what clients are told of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::scram::ScramError;
use crate::net::TlsError;
use crate::protocol::{LengthError, Report, SqlState};

/// How a server broke the protocol. Servers are not trusted more than clients are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A length that no message may have.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// A message longer than this exchange needs.
    #[error("message of type {kind:#04x} is longer than {max} bytes")]
    TooLong {
        /// The message type.
        kind: u8,
        /// The bound, in bytes.
        max: usize,
    },
    /// More messages than this exchange needs.
    #[error("more than {max} bytes in one exchange")]
    TooMuch {
        /// The bound, in bytes.
        max: usize,
    },
    /// A message that has no place here.
    #[error("unexpected message of type {0:#04x}")]
    Unexpected(u8),
    /// A message that is not what its type says.
    #[error("malformed message of type {0:#04x}")]
    Malformed(u8),
    /// Another answer to a request for encryption than yes or no.
    #[error("unexpected answer {0:#04x} to a request for encryption")]
    Encryption(u8),
    /// Plain bytes behind the server's agreement to encryption: somebody may have put them there (CVE-2021-23222).
    #[error("unencrypted data after the agreement to encryption")]
    EarlyData,
    /// The server let us in before it proved that it knows the password.
    #[error("authentication ended early")]
    AuthenticationEnd,
}

/// Why a connection to a server could not be opened. Clones share their cause, so that all who wait can be told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The network, or the server went away.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// All steps together took too long.
    #[error("not done in {0:?}")]
    Timeout(Duration),
    /// The TLS handshake: no acceptable certificate, for one.
    #[error("TLS handshake with the server")]
    TlsHandshake(#[source] Arc<io::Error>),
    /// The server does not speak TLS, and `sslmode` wants it.
    #[error("the server does not support TLS, but sslmode requires it")]
    TlsRefused,
    /// The settings of TLS cannot be made: the file of authorities, for one.
    #[error("settings of TLS")]
    TlsSettings(#[source] Arc<TlsError>),
    /// The host has no name that TLS could verify or send.
    #[error("the host has no name for TLS")]
    TlsName,
    /// The server broke the protocol.
    #[error("the server broke the protocol")]
    Broken(#[from] Broken),
    /// The server refused, in its own words.
    #[error("the server refused: {sqlstate} {}", message_of(raw))]
    Server {
        /// The code.
        sqlstate: String,
        /// The whole ErrorResponse as it came.
        raw: Bytes,
    },
    /// The server refused a login whose password is pgtenant's, not the client's: an operator's matter.
    #[error("the server refused the stored login: {sqlstate} {}", message_of(raw))]
    StoredLoginRefused {
        /// The code.
        sqlstate: String,
        /// The whole ErrorResponse as it came; not for clients.
        raw: Bytes,
    },
    /// The SCRAM exchange failed on our side: the server is not who it should be, or speaks it wrongly.
    #[error("SCRAM authentication of the server")]
    Scram(#[source] Arc<ScramError>),
    /// The server asks for something that this credential cannot give.
    #[error("the server asks for {method}, which needs {needs}")]
    Method {
        /// What the server asks for.
        method: &'static str,
        /// What would be needed.
        needs: &'static str,
    },
    /// The server asks for a kind of authentication that pgtenant does not have.
    #[error("the server asks for authentication of kind {0}, which is not supported")]
    UnknownMethod(i32),
    /// The placement's schema does not exist.
    #[error("schema \"{0}\" does not exist")]
    MissingSchema(String),
    /// The look for the placement's schema failed.
    #[error("looking for the schema")]
    Schema(#[source] Arc<QueryError>),
    /// The server gave no key by which its session could be cancelled.
    #[error("the server gave no cancel key")]
    NoCancelKey,
    /// The runtime that connects is going down.
    #[error("the proxy is shutting down")]
    Shutdown,
}

impl ConnectError {
    pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source: Arc::new(source) }
    }

    /// What a client is told. Neither host nor credentials are in it; the log has them.
    #[must_use]
    pub fn report(&self) -> Report {
        let (sqlstate, message) = match self {
            Self::Io { .. } => (SqlState::CONNECTION_FAILURE, "the tenant's server cannot be reached"),
            Self::Timeout(_) => (SqlState::CONNECTION_FAILURE, "the tenant's server did not answer in time"),
            Self::TlsHandshake(_) | Self::TlsRefused | Self::TlsName | Self::TlsSettings(_) => {
                (SqlState::CONNECTION_FAILURE, "no encrypted connection to the tenant's server is possible")
            }
            Self::Broken(_) => (SqlState::CONNECTION_FAILURE, "the tenant's server broke the protocol"),
            Self::Server { .. } => (SqlState::CONNECTION_FAILURE, "the tenant's server refused the connection"),
            Self::StoredLoginRefused { .. } | Self::Scram(_) | Self::Method { .. } | Self::UnknownMethod(_) => {
                (SqlState::CONNECTION_FAILURE, "logging in to the tenant's server failed")
            }
            Self::MissingSchema(_) => (SqlState::INVALID_SCHEMA_NAME, "the tenant's schema does not exist"),
            Self::Schema(_) => (SqlState::CONNECTION_FAILURE, "the tenant's schema could not be looked for"),
            Self::NoCancelKey => (SqlState::FEATURE_NOT_SUPPORTED, "the tenant's server cannot cancel"),
            Self::Shutdown => (SqlState::ADMIN_SHUTDOWN, "the proxy is shutting down"),
        };
        let code = if matches!(self, Self::Shutdown) { "PT-SHUTDOWN" } else { "PT-BACKEND" };
        let report = Report::fatal(sqlstate, format!("({code}) {message}"));
        match self {
            Self::MissingSchema(schema) => report.detail(format!("Schema \"{schema}\" is not there.")),
            Self::Method { method, needs } => report.detail(format!("It asks for {method}, which needs {needs}.")),
            _ => report,
        }
    }

    /// The server's own ErrorResponse, to be passed on unchanged where there is one that is the client's business.
    #[must_use]
    pub fn raw(&self) -> Option<&Bytes> {
        match self {
            Self::Server { raw, .. } => Some(raw),
            _ => None,
        }
    }

    /// The code that a client sees.
    #[must_use]
    pub fn sqlstate(&self) -> &str {
        match self {
            Self::Server { sqlstate, .. } => sqlstate,
            other => other.report().sqlstate.0,
        }
    }

    /// Whether it is the server (or pgtenant's own login) that is in trouble, rather than this client that is refused.
    #[must_use]
    pub fn counts_against_server(&self) -> bool {
        match self {
            // Insufficient resources, operator intervention (starting up, shutting down), system and internal errors.
            Self::Server { sqlstate, .. } => {
                matches!(sqlstate.get(..2), Some("53" | "57" | "58" | "XX" | "08"))
            }
            Self::Io { .. }
            | Self::Timeout(_)
            | Self::TlsHandshake(_)
            | Self::TlsRefused
            | Self::TlsName
            | Self::TlsSettings(_)
            | Self::Broken(_)
            | Self::StoredLoginRefused { .. }
            | Self::Schema(_) => true,
            Self::Scram(_)
            | Self::Method { .. }
            | Self::UnknownMethod(_)
            | Self::MissingSchema(_)
            | Self::NoCancelKey
            | Self::Shutdown => false,
        }
    }
}

/// Why a statement of pgtenant's own failed. After any but [`QueryError::Server`] the connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The network, or the server went away.
    #[error("exchange with the server")]
    Io(#[from] io::Error),
    /// No end in this time.
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    /// The server broke the protocol.
    #[error("the server broke the protocol")]
    Broken(#[from] Broken),
    /// The server reported an error; it is ready for the next statement.
    #[error("the server refused: {sqlstate} {}", message_of(raw))]
    Server {
        /// The code.
        sqlstate: String,
        /// The whole ErrorResponse as it came.
        raw: Bytes,
    },
    /// The statement has a NUL in it.
    #[error("statement with a NUL")]
    Nul(#[source] io::Error),
}

/// The primary message of an ErrorResponse, for logs.
fn message_of(raw: &Bytes) -> String {
    crate::protocol::error_field(raw, b'M').map_or_else(String::new, |m| String::from_utf8_lossy(m).into_owned())
}
