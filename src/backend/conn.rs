//! A connection to a server as pools keep it and sessions use it.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::cancel::CancelTarget;
use super::connect::Connected;
use super::departure::Departure;
use super::endpoint::Endpoint;
use super::fields::{parameter_status, set_parameter, sqlstate_of};
use super::frames::take_frame;
use super::prepared::PreparedSet;
use super::want::{Want, digest};
use crate::net::Stream;
use crate::tenant::TenantId;

/// Bytes of messages that came unasked, read at one look.
const LOOK_BYTES: usize = 2 * 1024;
/// Most reads of one look: a server with more to say unasked is not one to wait for.
const LOOKS_MAX: usize = 8;

/// What a server session has been told about whom it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The tenant it serves.
    pub tenant: Option<TenantId>,
    /// Settings asserted by `SET`, beyond those of the start.
    pub settings: Vec<(String, String)>,
    /// The role asserted by `SET ROLE`.
    pub role: Option<String>,
}

/// What is known of a server session's context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asserted {
    /// As it started.
    Fresh,
    /// As asserted.
    Is(Rc<Context>),
    /// Nothing: an error or a client's own statement may have changed it.
    Unknown,
}

/// The parameters of a session on a server as it began.
#[derive(Debug)]
pub struct Start {
    /// Of two that are alike it is the same.
    pub digest: u64,
    /// Names and values.
    pub parameters: Box<[(String, String)]>,
}

impl Start {
    fn of(parameters: &[(String, String)]) -> Self {
        Self { digest: digest(parameters), parameters: parameters.into() }
    }
}

/// A session on a server. Dropping it closes it.
pub struct ServerConn {
    /// The stream, registered with this thread's runtime.
    pub stream: Stream,
    /// The server process.
    pub process_id: i32,
    /// The secret of its cancel key; empty when the server gave none. Never for clients.
    pub secret: Vec<u8>,
    /// What the server last reported of its parameters.
    pub parameters: Vec<(String, String)>,
    /// What it reported of them when it was opened, before anything was asserted.
    pub start: Start,
    /// NoticeResponse messages of the start, as they came.
    pub notices: Vec<Bytes>,
    /// The digest of its startup settings: it serves only wants of this class.
    pub class: u64,
    /// The digest of tenant and context asserted on it: it serves such wants best.
    pub affinity: u64,
    /// What is asserted on it.
    pub asserted: Asserted,
    /// The session whose unnamed statement is there; 0 when there is none.
    pub unnamed_owner: u64,
    /// The session it last served; 0 for none.
    pub last_session: u64,
    /// The prepared statements it has of ours.
    pub prepared: PreparedSet,
    /// When it was opened.
    pub created: Instant,
    /// When it last served somebody.
    pub last_used: Instant,
    endpoint: Arc<Endpoint>,
    departure: Departure,
}

impl Drop for ServerConn {
    fn drop(&mut self) {
        self.departure.begin(&self.stream);
    }
}

impl fmt::Debug for ServerConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process_id, class, affinity, endpoint, .. } = self;
        let mut shown = f.debug_struct("ServerConn");
        shown.field("endpoint", endpoint).field("process_id", process_id);
        shown.field("class", class).field("affinity", affinity).finish_non_exhaustive()
    }
}

impl ServerConn {
    /// Brings a new connection into this thread's runtime.
    ///
    /// # Errors
    /// The runtime could not register the socket.
    pub fn attach(
        connected: Connected,
        endpoint: Arc<Endpoint>,
        want: &Want,
        departure: Departure,
    ) -> io::Result<Self> {
        let Connected { stream, process_id, secret, parameters, notices } = connected;
        let now = Instant::now();
        Ok(Self {
            start: Start::of(&parameters),
            stream: stream.attach(),
            process_id,
            secret,
            parameters,
            notices,
            class: want.class,
            affinity: want.affinity,
            asserted: Asserted::Fresh,
            unnamed_owner: 0,
            last_session: 0,
            prepared: PreparedSet::default(),
            created: now,
            last_used: now,
            endpoint,
            departure,
        })
    }

    /// Where a cancel request for this session goes.
    #[must_use]
    pub fn cancel_target(&self) -> CancelTarget {
        CancelTarget {
            endpoint: Arc::clone(&self.endpoint),
            peer: *self.stream.peer(),
            encrypted: self.stream.tls().is_some(),
        }
    }

    /// Where it leads, for logs and `SHOW SERVERS`.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Notes a parameter that the server reports.
    pub fn set_parameter(&mut self, name: String, value: String) {
        if !set_parameter(&mut self.parameters, name, value) {
            tracing::debug!(endpoint = %self.endpoint, "server reports too many parameters");
        }
    }

    /// Notes parameters that the server reported in an answer.
    pub fn note_parameters(&mut self, parameters: Vec<(String, String)>) {
        for (name, value) in parameters {
            self.set_parameter(name, value);
        }
    }

    /// Whether an unused connection is still good. Never blocks; costs no system call when nothing happened. Takes what
    /// may come unasked (notices, parameters, notifications); after anything else, or the end, the connection is dead.
    pub fn is_alive(&mut self) -> bool {
        let mut cx = TaskContext::from_waker(Waker::noop());
        match self.stream.poll_read_ready(&mut cx) {
            Poll::Pending => true,
            Poll::Ready(Err(_)) => false,
            Poll::Ready(Ok(())) => self.read_unasked(&mut cx),
        }
    }

    #[cold]
    fn read_unasked(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let mut unasked = BytesMut::new();
        let mut look = [0; LOOK_BYTES];
        for _ in 0..LOOKS_MAX {
            match self.stream.poll_read(cx, &mut look) {
                // Half a message would be the next client's trouble.
                Poll::Pending => return unasked.is_empty(),
                Poll::Ready(Err(_) | Ok(0)) => return false,
                Poll::Ready(Ok(read)) => unasked.extend_from_slice(&look[..read]),
            }
            if !self.take_unasked(&mut unasked) {
                return false;
            }
        }
        false
    }

    fn take_unasked(&mut self, unasked: &mut BytesMut) -> bool {
        loop {
            let frame = match take_frame(unasked) {
                Ok(Some(frame)) => frame,
                Ok(None) => return true,
                Err(_) => return false,
            };
            match frame.kind() {
                b'N' | b'A' => {}
                b'S' => match parameter_status(&frame.body()) {
                    Some((name, value)) => self.set_parameter(name, value),
                    None => return false,
                },
                kind => {
                    let sqlstate = if kind == b'E' { sqlstate_of(&frame.0) } else { None };
                    tracing::debug!(endpoint = %self.endpoint, process_id = self.process_id, sqlstate, "server ended an idle connection");
                    return false;
                }
            }
        }
    }
}
