//! What is told of a session to those who watch.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::control::{Control, Doing};
use crate::net::Peer;
use crate::tenant::{Placement, Tenant};

/// Who a client is, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// The user name that it sent.
    pub user: Box<str>,
    /// Where it comes from.
    pub peer: Peer,
    /// What it calls itself.
    pub application_name: Box<str>,
    /// When its session began.
    pub connected_at: SystemTime,
    /// Whether TLS is between it and pgtenant.
    pub encrypted: bool,
}

/// A session at one moment.
#[derive(Debug, Clone)]
pub struct ClientState {
    /// The session's number.
    pub id: u64,
    /// Who it is.
    pub visitor: Visitor,
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// Where it goes.
    pub placement: Arc<Placement>,
    /// What it is doing.
    pub doing: Doing,
    /// Since when, to the tick of its thread's clock.
    pub since: Instant,
    /// The server process that it has; 0 for none.
    pub server_pid: i32,
    /// Why it keeps it beyond a transaction; empty when it does not.
    pub pinned_by: String,
}

impl ClientState {
    pub(super) fn of(control: &Rc<Control>) -> Self {
        let (doing, since) = control.doing();
        Self {
            id: control.id,
            visitor: control.visitor.clone(),
            tenant: Arc::clone(&control.tenant),
            placement: Arc::clone(&control.placement),
            doing,
            since,
            server_pid: control.server_pid.get(),
            pinned_by: control.pinned_by.get().to_string(),
        }
    }
}
