//! What clients are told when a session cannot go on: the one place where the session's failures become reports.

use crate::backend::ConnectError;
use crate::pool::CheckoutError;
use crate::protocol::{LengthError, Refusal, Report, Severity, SqlState};
use crate::tenant::Slug;

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

/// As PostgreSQL says it, of a role with NOLOGIN.
pub(super) fn no_login(role: &str) -> Report {
    Report::fatal(SqlState::INVALID_AUTHORIZATION, format!("role \"{role}\" is not permitted to log in"))
}

/// As PostgreSQL says it, of a password that it does not take, or not any more.
pub(super) fn password(user: &str) -> Report {
    Report::fatal(SqlState::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""))
}

/// The service login of a common pool may not log in.
pub(super) fn service_login() -> Report {
    Report::fatal(SqlState::CONNECTION_FAILURE, "(PT-BACKEND) logging in to the tenant's server failed")
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

/// The server reads texts in another way than it did when the session began: what was sent fails, and the session ends.
pub(super) fn settings_changed() -> [Report; 2] {
    let message = "(PT-SHUTDOWN) the server's settings have changed; connect again";
    [Report::error(SqlState::ADMIN_SHUTDOWN, message), Report::fatal(SqlState::ADMIN_SHUTDOWN, message)]
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

/// A statement that did not go to the server.
pub(super) fn refused(refusal: Refusal, tenant: &Slug) -> Report {
    match refusal {
        Refusal::Pin(state) => {
            let features: Vec<_> = state.names().map(feature).collect();
            let message = format!("{} cannot be used with transaction pooling", features.join(" and "));
            Report::error(SqlState::FEATURE_NOT_SUPPORTED, message)
                .detail("It would keep the server connection for this client (pool.pinning = \"refuse\").")
                .hint("Use session pooling for this module, or allow pinning.")
        }
        Refusal::OtherSchema => {
            let message = format!("search_path may only lead to schemas of tenant \"{tenant}\"");
            Report::error(SqlState::INSUFFICIENT_PRIVILEGE, message)
        }
        Refusal::TenantParameter => {
            let message = format!("permission denied to change what says that this is tenant \"{tenant}\"");
            Report::error(SqlState::INSUFFICIENT_PRIVILEGE, message)
        }
    }
}

/// What users call a state.
fn feature(state: &str) -> &str {
    match state {
        "listen" => "LISTEN",
        "advisory_lock" => "session-level advisory locks",
        "temporary" => "temporary objects",
        "hold_cursor" => "WITH HOLD cursors",
        "prepare" => "PREPARE",
        "load" => "LOAD",
        "opaque_parameter" => "a parameter whose name cannot be told",
        "sequence" => "lastval, currval and setseed",
        "code" => "function calls and DO",
        "prepared_statement" => "long prepared statements",
        "unreadable" => "text that cannot be read",
        other => other,
    }
}

/// The client's path led to somebody else's schemas, and is the tenant's own again.
pub(super) fn path_restored(tenant: &Slug) -> Report {
    let message = format!("search_path may only lead to schemas of tenant \"{tenant}\" and was set back");
    Report::new(Severity::Warning, SqlState::INSUFFICIENT_PRIVILEGE, message)
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
