//! What the books of a pool are made of: connections, those who wait, attempts to connect, and what is to be done once the books are closed.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::account::Permits;
use super::config::Limits;
use super::error::CheckoutError;
use super::manage::Manage;
use super::share::Lane;

/// A connection and its clock.
pub(super) struct Slot<C> {
    /// Boxed: it moves from hand to hand with every transaction.
    pub(super) conn: Box<C>,
    /// When it was opened.
    pub(super) opened_at: Instant,
    /// When it is too old; none means never.
    pub(super) expires_at: Option<Instant>,
    /// When it was last given back.
    pub(super) idle_since: Instant,
    /// When its health was last checked while it was idle.
    pub(super) checked_at: Instant,
}

impl<C> Slot<C> {
    pub(super) fn new(conn: C, limits: &Limits, now: Instant) -> Self {
        // Up to a tenth less, so that connections made together do not end together.
        let expires_at = (!limits.max_lifetime.is_zero())
            .then(|| now.checked_add(limits.max_lifetime.mul_f64(rand::random_range(0.9..=1.0))))
            .flatten();
        Self { conn: Box::new(conn), opened_at: now, expires_at, idle_since: now, checked_at: now }
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// Where a client stands in the queue: its lane's place in time, then its own number.
pub(super) type Position = (u64, u64);

/// What a waiter is given in the end.
pub(super) type Outcome<M> = Result<Slot<<M as Manage>::Conn>, CheckoutError<<M as Manage>::Error>>;

/// Where the outcome is laid for the waiting future.
pub(super) struct Delivery<M: Manage> {
    pub(super) outcome: Option<Outcome<M>>,
    pub(super) waker: Option<Waker>,
}

impl<M: Manage> Default for Delivery<M> {
    fn default() -> Self {
        Self { outcome: None, waker: None }
    }
}

/// One client in the queue.
pub(super) struct Waiter<M: Manage> {
    pub(super) position: Position,
    pub(super) want: M::Want,
    pub(super) lane: Option<Rc<Lane>>,
    pub(super) since: Instant,
    /// How often others were served before it although it was at the head.
    pub(super) passed: u32,
    pub(super) delivery: Rc<RefCell<Delivery<M>>>,
}

impl<M: Manage> Waiter<M> {
    /// Its lane has all that it may have.
    pub(super) fn is_blocked(&self) -> bool {
        self.lane.as_ref().is_some_and(|lane| lane.is_full())
    }
}

/// One connection being opened.
pub(super) struct Connecting {
    pub(super) id: u64,
    pub(super) class: u64,
    pub(super) started: Instant,
    /// The waiter whose want it was opened with.
    pub(super) launched_for: Position,
    /// The waiter that counts on it; none when that one was served otherwise or left.
    pub(super) promised_to: Option<Position>,
}

/// A connection to be opened, once the books are closed.
pub(super) struct Launch<W> {
    pub(super) id: u64,
    pub(super) want: W,
    pub(super) permits: Permits,
}

/// What to do once the books are closed: nothing here runs foreign code while they are open.
pub(super) struct Effects<M: Manage> {
    pub(super) launches: Vec<Launch<M::Want>>,
    pub(super) wakers: Vec<Waker>,
    /// Connections to close, by dropping.
    pub(super) closed: Vec<Slot<M::Conn>>,
    /// When to look again, though nothing happens before.
    pub(super) retry_at: Option<Instant>,
    /// When to ask again whose turn it is, and what need not be kept.
    pub(super) review_at: Option<Instant>,
}

impl<M: Manage> Default for Effects<M> {
    fn default() -> Self {
        Self { launches: Vec::new(), wakers: Vec::new(), closed: Vec::new(), retry_at: None, review_at: None }
    }
}

/// What a pool holds at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections checked out.
    pub active: u32,
    /// Connections that wait for a client.
    pub idle: u32,
    /// Connections being opened.
    pub connecting: u32,
    /// Clients that wait for a connection.
    pub waiting: u32,
    /// How long the first of them has waited.
    pub maxwait: Duration,
}
