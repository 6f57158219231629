//! What can go wrong with a temporary server.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// An error of a temporary server; `log` is the end of what the server wrote to its log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No PostgreSQL server is installed where we look.
    #[error(
        "no PostgreSQL server programs (initdb, postgres) in PGTENANT_PG_BIN, PATH or /usr/lib/postgresql; \
         install them (Debian: apt-get install postgresql) or set PGTENANT_PG_BIN to their directory"
    )]
    NotInstalled,
    /// PostgreSQL refuses root, and there is nobody else to run it as.
    #[error("PostgreSQL cannot run as root, and there is no user \"postgres\" or \"nobody\" to run it as")]
    NoUser,
    /// A file or a program could not be used.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The directory for temporary files has too long a path for a Unix socket.
    #[error("the path {} is too long for a Unix socket; set TMPDIR to a shorter one", .0.display())]
    LongPath(PathBuf),
    /// A program that prepares the data directory failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// The server's certificate could not be made.
    #[error("make a certificate for the server")]
    Certificate(#[from] rcgen::Error),
    /// The server ended by itself.
    #[error("the server ended ({status}): {log}")]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// Every port that was tried was taken by someone else in the meantime.
    #[error("no free port found for the server in {attempts} attempts")]
    NoPort {
        /// How many were tried.
        attempts: u32,
    },
    /// The server accepted no connection for a long time.
    #[error("the server accepts no connections after {}: {log}", humantime::format_duration(*waited))]
    NotReady {
        /// How long it had.
        waited: Duration,
        /// The end of its log.
        log: String,
        /// What the last attempt met.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server refused a connection for good.
    #[error("connect to the temporary server")]
    Connect(#[source] tokio_postgres::Error),
    /// The server did not end when told to.
    #[error("the server did not stop within {}", humantime::format_duration(*.0))]
    NotStopped(Duration),
    /// The server is stopped; start it first.
    #[error("the server is not running")]
    NotRunning,
    /// The runtime ended while the server was being started or stopped.
    #[error("interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl Error {
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}
