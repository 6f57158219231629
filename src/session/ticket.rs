//! What a session begins from: what the login learnt of its client, and what its thread has for all of them.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::Instant;

use super::client::Visitor;
use super::keys::CancelKeys;
use super::thread::Thread;
use crate::backend::{Credential, Pools};
use crate::frontend::Claim;
use crate::pool;
use crate::protocol::Report;
use crate::tenant::{Placement, Tenant};

/// What the login learnt of a client.
pub struct Ticket {
    /// The session's number.
    pub id: u64,
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// Where it goes.
    pub placement: Arc<Placement>,
    /// As whom, and what it asked for.
    pub claim: Arc<Claim>,
    /// Who the client is.
    pub visitor: Visitor,
    /// What opens server connections for it.
    pub credential: Credential,
    /// The role that the credential opens.
    pub server_user: String,
    /// Whether it gets a long cancel key (protocol 3.2).
    pub long_key: bool,
    /// The answer to its proof, which it must get before anything else.
    pub answer: BytesMut,
    /// What it is told before it may begin.
    pub notices: Vec<Report>,
    /// When the login must be over.
    pub deadline: Instant,
}

impl Ticket {
    /// The settings that the client asked for.
    pub(super) fn settings(&self) -> &[(String, String)] {
        &self.claim.request.settings
    }

    /// `replication`, where it asked for that.
    pub(super) fn replication(&self) -> Option<&str> {
        self.claim.request.replication.as_deref()
    }
}

/// What a thread needs to begin sessions.
pub struct Begin {
    /// The thread.
    pub thread: Rc<Thread>,
    /// Its number.
    pub thread_index: usize,
    /// Its pools.
    pub pools: Rc<Pools>,
    /// The settings of pools.
    pub pool: RefCell<Rc<pool::Config>>,
    /// All cancel keys.
    pub keys: CancelKeys,
    /// Makes room for a pool on another thread, when there are as many as may be.
    pub make_room: MakeRoom,
}

/// Asks elsewhere for an idle pool to be given up; whether one was.
pub type MakeRoom = Rc<dyn Fn() -> Pin<Box<dyn Future<Output = bool>>>>;
