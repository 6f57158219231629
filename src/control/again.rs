//! Which failures are worth another try.

use tokio_postgres::error::{DbError, SqlState};

use super::error::Error;

impl Error {
    /// Whether doing the same again may go well: someone else did something at the same moment.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Sql { source, .. } => source.as_db_error().is_some_and(is_transient),
            // Temporary tables of a session that is just ending.
            Self::Owns { .. } => true,
            _ => false,
        }
    }

    /// Whether a place is not what its module's files make of it, so that nothing was tried.
    pub(crate) const fn is_drift(&self) -> bool {
        matches!(
            self,
            Self::MigrationChanged { .. }
                | Self::MigrationUnknown { .. }
                | Self::MigrationGap { .. }
                | Self::MigrationBegun { .. }
        )
    }

    /// Whether a migration had to give way to someone else, and may be applied when it is tried again.
    pub(crate) fn is_collision(&self) -> bool {
        let (Self::Migration { source, .. } | Self::Sql { source, .. }) = self else { return false };
        source.as_db_error().is_some_and(|error| {
            let collisions =
                [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
            collisions.contains(error.code()) || is_concurrent_change(error)
        })
    }
}

/// Collisions between sessions that make, grant or drop the same thing, all of which are over once the other has ended.
pub(crate) fn is_transient(error: &DbError) -> bool {
    is_concurrent_change(error)
        || [
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::OBJECT_IN_USE,
            SqlState::DUPLICATE_DATABASE,
            SqlState::DUPLICATE_OBJECT,
            SqlState::DUPLICATE_SCHEMA,
        ]
        .contains(error.code())
}

/// Two sessions changed the same row of a catalog.
fn is_concurrent_change(error: &DbError) -> bool {
    match *error.code() {
        SqlState::UNIQUE_VIOLATION => error.schema() == Some("pg_catalog"),
        SqlState::INTERNAL_ERROR => error.message().starts_with("tuple concurrently "),
        _ => false,
    }
}
