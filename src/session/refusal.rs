//! Why a session could not begin, as its client is told.

use bytes::Bytes;

use super::error;
use super::ticket::Ticket;
use crate::backend::{ConnectError, Unfit};
use crate::pool::CheckoutError;
use crate::protocol::{Report, Severity, error_field};
use crate::tenant::Pooling;

/// Where PostgreSQL looks whether a role may log in, as its errors say.
const ROLE_ROUTINE: &[u8] = b"InitializeSessionUserId";

/// Why a session could not begin.
pub(super) enum Refusal {
    Report(Report),
    /// The server's own last word, passed on as it is.
    Raw(Bytes),
}

impl From<Report> for Refusal {
    fn from(report: Report) -> Self {
        Self::Report(report)
    }
}

impl Ticket {
    /// The server's own words where it has refused, of the login only what is about the client's own role: whatever else is wrong with
    /// it is the operator's matter, since the client has proved itself.
    pub(super) fn no_server(&self, failure: CheckoutError<ConnectError>) -> Refusal {
        if let CheckoutError::Connect(error) = &failure
            && let Some(raw) = error.raw()
        {
            let about_role = || error_field(raw, b'R') == Some(ROLE_ROUTINE);
            match error.sqlstate() {
                // Expired, or another one on the server.
                "28P01" => return error::password(&self.visitor.user).into(),
                sqlstate if !sqlstate.starts_with("28") || about_role() => return Refusal::Raw(raw.clone()),
                _ => {}
            }
        }
        error::checkout(&failure, Severity::Fatal).into()
    }

    /// What PostgreSQL would say of a role that may not log in; of the service login of a common pool, which is no client's business, only
    /// that it is the operator's.
    pub(super) fn not_let_in(&self, role: &str, unfit: Unfit) -> Refusal {
        tracing::warn!(tenant = %self.tenant.slug, role, ?unfit, "role may not log in");
        let report = if self.placement.terms.pooling == Pooling::Shared && role == self.server_user {
            error::service_login()
        } else if unfit == Unfit::NoLogin {
            error::no_login(role)
        } else {
            error::password(&self.visitor.user)
        };
        report.into()
    }
}
