//! What clients are told when a session cannot go on: the one place where the session's failures become reports.

use crate::backend::ConnectError;
use crate::pool::CheckoutError;
use crate::protocol::{LengthError, Report, Severity, SqlState};

/// Shutdown, drain.
pub(crate) fn shutdown() -> Report {
    Report::fatal(SqlState::ADMIN_SHUTDOWN, "(PT-SHUTDOWN) terminating connection due to administrator command")
}

/// Nobody is there to be told.
pub(super) fn client_lost() -> Report {
    Report::fatal(SqlState::CONNECTION_FAILURE, "connection to client lost")
}

/// The login took too long.
pub(super) fn login_timeout() -> Report {
    Report::fatal(SqlState::CANNOT_CONNECT_NOW, "(PT-UNAVAILABLE) login took too long, try again")
}

/// A length that no message may have.
pub(super) fn length(error: LengthError) -> Report {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
}

/// A message type that clients do not send here.
pub(super) fn message_type(kind: u8) -> Report {
    Report::fatal(SqlState::PROTOCOL_VIOLATION, format!("invalid frontend message type {kind}"))
}

/// The unnamed statement is not there any more: another client used the connection meanwhile.
pub(super) fn no_unnamed_statement() -> Report {
    Report::error(SqlState::INVALID_SQL_STATEMENT_NAME, "unnamed prepared statement does not exist")
}

/// The server connection went away without a word.
pub(super) fn server_lost() -> Report {
    Report::fatal(SqlState::CONNECTION_FAILURE, "(PT-BACKEND) server closed the connection unexpectedly")
}

/// The tenant's context could not be set on a shared connection.
pub(super) fn not_asserted() -> Report {
    Report::fatal(SqlState::CONNECTION_FAILURE, "(PT-BACKEND) the tenant's settings could not be made on the server")
}

/// A cancel request that came while the client waited for a server connection.
pub(super) fn canceled() -> Report {
    Report::error(SqlState::QUERY_CANCELED, "canceling statement due to user request")
}

/// No server connection, and why.
pub(super) fn checkout(error: &CheckoutError<ConnectError>, severity: Severity) -> Report {
    match error {
        CheckoutError::Timeout(limit) => Report::new(
            severity,
            SqlState::TOO_MANY_CONNECTIONS,
            format!("(PT-CHECKOUT) no server connection became free in {}", humantime::format_duration(*limit)),
        ),
        CheckoutError::QueueFull(limit) => Report::new(
            severity,
            SqlState::TOO_MANY_CONNECTIONS,
            format!("(PT-LIMIT) {limit} clients wait for a server connection already (queue_length_max = {limit})"),
        ),
        CheckoutError::Connect(error) => Report { severity, ..error.report() },
        CheckoutError::Draining => Report { severity, ..shutdown() },
    }
}
