//! What can go wrong with the registry.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::contents::Problems;
use crate::net::TlsError;
use crate::tenant::NameError;

/// Why something asked of the registry was not done.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The configuration names neither a database nor a file, or both.
    #[error("exactly one of registry.url and registry.file must be given")]
    NoStore,
    /// The connection URL is not one. Its text may hold a password and is not shown.
    #[error("the registry's connection URL is malformed")]
    Url(#[source] tokio_postgres::Error),
    /// A parameter of the connection URL has a value it cannot have.
    #[error("the registry's connection URL has a wrong {parameter}")]
    UrlParameter {
        /// The parameter.
        parameter: &'static str,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// TLS could not be set up.
    #[error("set up TLS for the registry")]
    Tls(#[source] TlsError),
    /// The pool could not be made.
    #[error("make the registry's connection pool")]
    Build(#[source] deadpool_postgres::BuildError),
    /// No connection to be had.
    #[error("connect to the registry")]
    Connect(#[source] deadpool_postgres::PoolError),
    /// The database took too long.
    #[error("{doing}: no answer from the registry in {}", humantime::format_duration(*after))]
    Timeout {
        /// What was being done.
        doing: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The program is shutting down.
    #[error("the look-up was cut short")]
    Cancelled,
    /// The tables are not there.
    #[error("the registry database has not been set up: run `pgtenant registry init`")]
    NotInitialised(#[source] tokio_postgres::Error),
    /// The database refused a row: a name, place or role that is taken, a row that others need, a rule broken.
    #[error("{doing}: {}", database_message(source))]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// What PostgreSQL said.
        source: tokio_postgres::Error,
    },
    /// Any other failure of a query.
    #[error("{doing}")]
    Query {
        /// What was being done.
        doing: &'static str,
        /// What PostgreSQL or the connection said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A row does not read as what it should be.
    #[error("{doing}: the registry's answer is malformed")]
    Malformed {
        /// What was being done.
        doing: &'static str,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// A tenant is not what it was when the change to it was prepared.
    #[error("tenant \"{tenant}\" was changed by someone else at the same time; run the same again")]
    Moved {
        /// Its slug.
        tenant: String,
    },
    /// A migration that was applied is not the one this program has.
    #[error("registry migration {version} ({name}) was applied with other contents than this program's")]
    MigrationChanged {
        /// Its number.
        version: i32,
        /// Its name.
        name: String,
    },
    /// The registry is ahead of this program.
    #[error("the registry has migration {version}, which this program does not know: use a newer pgtenant")]
    Newer {
        /// The highest number found.
        version: i32,
    },
    /// A registry file is not TOML of the right shape.
    #[error("read the registry file {}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// A registry file contradicts itself.
    #[error("the registry file {} is wrong", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// In which ways.
        #[source]
        source: Problems,
    },
    /// A registry could not be written as TOML.
    #[error("write the registry as TOML")]
    WriteToml(#[source] toml::ser::Error),
    /// A file could not be read or written.
    #[error("{doing} {}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl RegistryError {
    /// The error of a query, sorted by what PostgreSQL said.
    pub(super) fn query(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| match source.code().map(SqlState::code) {
            // undefined_table, invalid_schema_name, undefined_function: no registry here.
            Some("42P01" | "3F000" | "42883") => Self::NotInitialised(source),
            // Integrity (23…), the state of things (55…), names (42602, 42622, 42704), no data (P0002).
            Some(code)
                if code.starts_with("23")
                    || code.starts_with("55")
                    || matches!(code, "42602" | "42622" | "42704" | "P0002") =>
            {
                Self::Refused { doing, source }
            }
            _ => Self::Query { doing, source },
        }
    }

    /// PostgreSQL's code, where it gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::NotInitialised(source) | Self::Refused { source, .. } | Self::Query { source, .. } => {
                source.code().map(SqlState::code)
            }
            _ => None,
        }
    }

    /// Whether the registry is there, but has no leases for the one who asked: an older one (undefined_table, undefined_function), or
    /// a role without the right to them (insufficient_privilege).
    #[must_use]
    pub fn has_no_leases(&self) -> bool {
        matches!(self.sqlstate(), Some("42P01" | "42883" | "42501"))
    }

    /// Whether a name, place or role was refused because it is another's.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.sqlstate() == Some(SqlState::UNIQUE_VIOLATION.code())
    }

    /// Whether a row was refused because other rows refer to it, or because one that it refers to is not there.
    #[must_use]
    pub fn is_reference(&self) -> bool {
        self.sqlstate() == Some(SqlState::FOREIGN_KEY_VIOLATION.code())
    }
}

/// What PostgreSQL said, with its DETAIL: its own Display says "db error".
fn database_message(source: &tokio_postgres::Error) -> String {
    match source.as_db_error() {
        Some(db) => match db.detail() {
            Some(detail) => format!("{} ({detail})", db.message()),
            None => db.message().to_owned(),
        },
        None => source.to_string(),
    }
}

/// The registry cannot be asked and nothing usable is remembered: the caller answers 57P03, never with another tenant.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the registry cannot be reached")]
pub struct Unavailable(#[source] pub(super) Arc<RegistryError>);
