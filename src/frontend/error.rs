//! What can go wrong between accept and the end of authentication, and what the client is told of it.

use std::io;

use crate::auth::scram::ScramError;
use crate::protocol::{OptionsError, ProxyHeaderError, Report, SqlState, StartupError};

use super::names::Source;

/// Why a client did not get in. `report` says what it is told; the rest is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("talk to the client")]
    Io(#[source] io::Error),
    /// The client left in the middle of something.
    #[error("the client closed the connection during {0}")]
    Closed(&'static str),
    /// A balancer, or who comes from where balancers are, does not say who its client is.
    #[error(transparent)]
    ProxyHeader(#[from] ProxyHeaderError),
    /// The first packet is not one.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// The `options` parameter cannot be read.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Bytes came with a request for encryption: an error of the client's, or someone in between put them there.
    #[error("received unencrypted data after {0}")]
    EarlyData(&'static str),
    /// A request for encryption where none is due.
    #[error("unexpected {request}: {why}")]
    UnexpectedRequest {
        /// The request.
        request: &'static str,
        /// Why it is not due.
        why: &'static str,
    },
    /// The TLS handshake failed.
    #[error("TLS handshake with the client")]
    Tls(#[source] io::Error),
    /// TLS without asking, but without ALPN to say that PostgreSQL is meant.
    #[error("received direct SSL connection request without ALPN protocol negotiation extension")]
    NoAlpn,
    /// A connection in clear where TLS is demanded.
    #[error("(PT-TLS) connections without TLS are not accepted here")]
    TlsRequired,
    /// A parameter that is no setting.
    #[error("unrecognized configuration parameter \"{0}\"")]
    UnknownSetting(String),
    /// The `replication` parameter has a value it cannot have.
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    ReplicationValue(String),
    /// Replication was asked for and is not allowed.
    #[error("permission denied to set parameter \"replication\"")]
    ReplicationDenied,
    /// Nothing in the connection names a tenant, and there is no default.
    #[error("(PT-NOTENANT) no tenant given")]
    NoTenant {
        /// The ways to name one here.
        hint: String,
    },
    /// Two names that are not the same known tenant's. Unknown against known is the same error, so that it tells nothing.
    #[error("(PT-CONFLICT) conflicting tenants \"{}\" ({}) and \"{}\" ({})", .first.0, .first.1, .second.0, .second.1)]
    Conflict {
        /// One name, and where it was given.
        first: (String, Source),
        /// The other name, and where it was given.
        second: (String, Source),
    },
    /// The registry cannot be reached and the tenant is not known from before.
    #[error("(PT-UNAVAILABLE) the tenant registry cannot be reached; try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A message during authentication that is not an answer to what was asked.
    #[error("expected SASL response, got message type {0}")]
    UnexpectedMessage(u8),
    /// A message during authentication that is longer, or shorter, than any can be.
    #[error("invalid length of message during authentication: {0}")]
    MessageLength(u32),
    /// An authentication message that cannot be read.
    #[error("malformed SASL message: {0}")]
    Malformed(&'static str),
    /// An exchange that breaks SCRAM itself, or is bound to another channel.
    #[error(transparent)]
    Scram(#[from] ScramError),
    /// Wrong password, or unknown login or tenant: the client is not told which.
    #[error("password authentication failed for user \"{user}\"")]
    Password {
        /// The user name as the client sent it.
        user: String,
    },
}

impl Error {
    /// What the client is told; nothing where it is gone, where it does not speak the protocol, or where PostgreSQL says nothing.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        let sqlstate = match self {
            Self::Startup(error) => return error.report(),
            Self::Options(error) => return Some(error.report()),
            Self::Io(_) | Self::Closed(_) | Self::ProxyHeader(_) => return None,
            Self::Tls(_) | Self::NoAlpn | Self::MessageLength(_) => return None,
            Self::Scram(ScramError::ChannelBinding | ScramError::ChannelBindingNegotiation) => {
                SqlState::INVALID_AUTHORIZATION
            }
            Self::Scram(ScramError::AuthorizationIdentity | ScramError::Extension) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::EarlyData(_) | Self::UnexpectedRequest { .. } | Self::Scram(_) => SqlState::PROTOCOL_VIOLATION,
            Self::UnexpectedMessage(_) | Self::Malformed(_) => SqlState::PROTOCOL_VIOLATION,
            Self::TlsRequired | Self::NoTenant { .. } | Self::Conflict { .. } => SqlState::INVALID_AUTHORIZATION,
            Self::UnknownSetting(_) => SqlState::UNDEFINED_OBJECT,
            Self::ReplicationValue(_) => SqlState::INVALID_PARAMETER_VALUE,
            Self::ReplicationDenied => SqlState::INSUFFICIENT_PRIVILEGE,
            Self::Unavailable(_) => SqlState::CANNOT_CONNECT_NOW,
            Self::Password { .. } => SqlState::INVALID_PASSWORD,
        };
        let report = Report::fatal(sqlstate, self.to_string());
        Some(match self {
            Self::EarlyData(_) => report.detail(
                "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
            ),
            Self::TlsRequired => report.hint("Connect with sslmode=require or stronger."),
            Self::ReplicationValue(_) => report.hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."),
            Self::NoTenant { hint } => report.hint(hint.as_str()),
            _ => report,
        })
    }

    /// A bounded word for it: the metric label.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::Closed(_) => "closed",
            Self::ProxyHeader(_) => "proxy_header",
            Self::Startup(_) => "startup",
            Self::Options(_) => "options",
            Self::EarlyData(_) => "early_data",
            Self::UnexpectedRequest { .. }
            | Self::UnexpectedMessage(_)
            | Self::MessageLength(_)
            | Self::Malformed(_) => "protocol",
            Self::Tls(_) | Self::NoAlpn => "tls",
            Self::TlsRequired => "tls_required",
            Self::UnknownSetting(_) => "setting",
            Self::ReplicationValue(_) | Self::ReplicationDenied => "replication",
            Self::NoTenant { .. } => "no_tenant",
            Self::Conflict { .. } => "conflict",
            Self::Unavailable(_) => "unavailable",
            Self::Scram(_) => "scram",
            Self::Password { .. } => "password",
        }
    }
}
