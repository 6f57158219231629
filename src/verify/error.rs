//! Why a check could not be played to its end.

use std::io;

/// What kept a check from showing anything.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tenant could not log in through the proxy.
    #[error("log in as {user}")]
    Login {
        /// The user name, which names the tenant.
        user: String,
        /// The refusal.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A statement that must succeed did not.
    #[error("{doing}: {said}")]
    Statement {
        /// What it was for.
        doing: &'static str,
        /// What the server said.
        said: String,
    },
    /// The driver or the server broke off.
    #[error("{doing}")]
    Postgres {
        /// What it was for.
        doing: &'static str,
        /// The failure.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A connection of our own to the proxy.
    #[error("{doing}")]
    Io {
        /// What it was for.
        doing: &'static str,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// What a check waits for did not come.
    #[error("{0} did not come")]
    Absent(&'static str),
}

impl Error {
    /// For `map_err`: a failure of the driver.
    pub(super) fn postgres(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Postgres { doing, source }
    }

    /// For `map_err`: a failure of a connection of our own.
    pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}
