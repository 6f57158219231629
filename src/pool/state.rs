//! The books of a pool: what is idle, active and being opened, who waits, and who gets what next. Synchronous and pure but for the clock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use super::config::Limits;
use super::error::CheckoutError;
use super::manage::Manage;

/// How often later waiters may be served before a waiting head that their connections do not fit.
const PASSES_MAX: u32 = 16;

/// A connection and its clock.
pub(super) struct Slot<C> {
    /// Boxed: it moves from hand to hand with every transaction.
    pub(super) conn: Box<C>,
    /// When it was opened.
    opened_at: Instant,
    /// When it is too old; none means never.
    expires_at: Option<Instant>,
    /// When it was last given back.
    idle_since: Instant,
    /// When its health was last checked while it was idle.
    checked_at: Instant,
}

impl<C> Slot<C> {
    pub(super) fn new(conn: C, limits: &Limits, now: Instant) -> Self {
        // Up to a tenth less, so that connections made together do not end together.
        let expires_at = (!limits.max_lifetime.is_zero())
            .then(|| now.checked_add(limits.max_lifetime.mul_f64(rand::random_range(0.9..=1.0))))
            .flatten();
        Self { conn: Box::new(conn), opened_at: now, expires_at, idle_since: now, checked_at: now }
    }

    fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

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
struct Waiter<M: Manage> {
    id: u64,
    want: M::Want,
    since: Instant,
    /// How often others were served before it although it was at the head.
    passed: u32,
    delivery: Rc<RefCell<Delivery<M>>>,
}

/// One connection being opened.
struct Connecting {
    id: u64,
    class: u64,
    started: Instant,
    /// The waiter whose want it was opened with.
    launched_for: u64,
    /// The waiter that counts on it; none when that one was served otherwise or left.
    promised_to: Option<u64>,
}

/// A connection to be opened, once the books are closed.
pub(super) struct Launch<W> {
    pub(super) id: u64,
    pub(super) want: W,
}

/// What to do once the books are closed: nothing here runs foreign code while they are open.
pub(super) struct Effects<M: Manage> {
    pub(super) launches: Vec<Launch<M::Want>>,
    pub(super) wakers: Vec<Waker>,
    /// Connections to close, by dropping.
    pub(super) closed: Vec<Slot<M::Conn>>,
    /// When to look again, though nothing happens before.
    pub(super) retry_at: Option<Instant>,
}

impl<M: Manage> Default for Effects<M> {
    fn default() -> Self {
        Self { launches: Vec::new(), wakers: Vec::new(), closed: Vec::new(), retry_at: None }
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

/// The books.
pub(super) struct State<M: Manage> {
    /// Least recently used first.
    idle: Vec<Slot<M::Conn>>,
    active: u32,
    connecting: Vec<Connecting>,
    /// First come first; ids ascend.
    waiters: VecDeque<Waiter<M>>,
    backoff: Backoff<M::Error>,
    last_error: Option<(M::Error, Instant)>,
    next_id: u64,
    draining: bool,
    /// Connections opened before are closed when they come back.
    renewed_at: Option<Instant>,
    retry_armed: bool,
}

impl<M: Manage> State<M> {
    pub(super) fn new() -> Self {
        Self {
            idle: Vec::new(),
            active: 0,
            connecting: Vec::new(),
            waiters: VecDeque::new(),
            backoff: Backoff::Healthy,
            last_error: None,
            next_id: 0,
            draining: false,
            renewed_at: None,
            retry_armed: false,
        }
    }

    /// Takes the best idle connection for a newcomer, if nobody is waiting. Dead ones found on the way go to `closed`.
    pub(super) fn take_idle(
        &mut self,
        manager: &M,
        want: &M::Want,
        closed: &mut Vec<Slot<M::Conn>>,
    ) -> Option<Slot<M::Conn>> {
        if !self.waiters.is_empty() {
            return None;
        }
        let slot = self.take_fitting(manager, want, closed)?;
        self.active += 1;
        Some(slot)
    }

    /// Takes an idle connection that was neither used nor checked for so long.
    pub(super) fn take_unchecked(&mut self, interval: Duration, now: Instant) -> Option<Slot<M::Conn>> {
        if !self.waiters.is_empty() {
            return None;
        }
        let due =
            |slot: &Slot<M::Conn>| now.saturating_duration_since(slot.idle_since.max(slot.checked_at)) >= interval;
        let mut slot = self.idle.remove(self.idle.iter().position(due)?);
        slot.checked_at = now;
        self.active += 1;
        Some(slot)
    }

    /// A connection comes back from its check, as long unused as before.
    pub(super) fn give_back_checked(&mut self, slot: Slot<M::Conn>, now: Instant) -> Option<Slot<M::Conn>> {
        if self.is_over(&slot, now) {
            return Some(slot);
        }
        let at = self.idle.partition_point(|other| other.idle_since <= slot.idle_since);
        self.idle.insert(at, slot);
        None
    }

    /// Puts a client at the end of the queue and says under which id it waits.
    pub(super) fn enqueue(
        &mut self,
        want: M::Want,
        delivery: Rc<RefCell<Delivery<M>>>,
        limits: &Limits,
        now: Instant,
    ) -> Result<u64, CheckoutError<M::Error>> {
        if self.draining {
            return Err(CheckoutError::Draining);
        }
        if self.waiters.len() >= limits.queue_length_max as usize {
            return Err(CheckoutError::QueueFull(limits.queue_length_max));
        }
        let id = self.fresh_id();
        self.waiters.push_back(Waiter { id, want, since: now, passed: 0, delivery });
        Ok(id)
    }

    /// Forgets a client that no longer waits.
    pub(super) fn leave(&mut self, id: u64) {
        if let Ok(at) = self.waiters.binary_search_by_key(&id, |w| w.id) {
            self.waiters.remove(at);
            self.release_promise(id);
        }
    }

    /// A lease ends.
    pub(super) fn end_lease(&mut self) {
        self.active -= 1;
    }

    /// A connection comes back, its lease still standing; given out again to be closed if its time is over.
    pub(super) fn give_back(&mut self, mut slot: Slot<M::Conn>, now: Instant) -> Option<Slot<M::Conn>> {
        if self.is_over(&slot, now) {
            return Some(slot);
        }
        slot.idle_since = now;
        self.idle.push(slot);
        None
    }

    /// An attempt to connect succeeded.
    pub(super) fn connected(&mut self, id: u64, slot: Slot<M::Conn>) -> Option<Slot<M::Conn>> {
        self.forget_connecting(id);
        self.backoff.succeeded();
        if self.draining {
            return Some(slot);
        }
        self.idle.push(slot);
        None
    }

    /// An attempt to connect failed.
    pub(super) fn connect_failed(
        &mut self,
        id: u64,
        error: M::Error,
        against_server: bool,
        now: Instant,
        effects: &mut Effects<M>,
    ) {
        let Some(attempt) = self.forget_connecting(id) else { return };
        self.last_error = Some((error.clone(), now));
        if against_server {
            self.backoff.failed(error, attempt.started, now);
            return;
        }
        self.backoff.succeeded();
        // Another waiter that counted on this attempt may want it with other credentials: it gets an attempt of its own.
        if attempt.promised_to == Some(attempt.launched_for)
            && let Ok(at) = self.waiters.binary_search_by_key(&attempt.launched_for, |w| w.id)
        {
            self.fail(at, CheckoutError::Connect(error), effects);
        }
    }

    /// An attempt to connect was dropped before it ended.
    pub(super) fn connect_dropped(&mut self, id: u64) {
        self.forget_connecting(id);
    }

    /// Brings everything forward that can go forward: idle connections to waiters, then new connections for the rest.
    pub(super) fn settle(&mut self, manager: &M, limits: &Limits, now: Instant, effects: &mut Effects<M>) {
        if self.waiters.is_empty() {
            return;
        }
        self.serve_waiters(manager, limits, now, effects);
        if self.waiters.is_empty() {
            return;
        }
        if let Some((error, until)) = self.backoff.refusal(now) {
            let error = CheckoutError::Connect(error.clone());
            if self.active == 0 && self.connecting.is_empty() {
                while !self.waiters.is_empty() {
                    self.fail(0, error.clone(), effects);
                }
            } else if !self.retry_armed {
                self.retry_armed = true;
                effects.retry_at = Some(until);
            }
            return;
        }
        self.plan_connects(manager, limits, now, effects);
    }

    /// The time that was asked for in [`Effects::retry_at`] has come.
    pub(super) fn disarm_retry(&mut self) {
        self.retry_armed = false;
    }

    /// Closes idle connections that are dead, too old or unused for too long.
    pub(super) fn sweep(&mut self, manager: &M, limits: &Limits, now: Instant) -> Vec<Slot<M::Conn>> {
        let is_stale = |slot: &mut Slot<M::Conn>| {
            let unused = now.saturating_duration_since(slot.idle_since);
            (!limits.idle_timeout.is_zero() && unused >= limits.idle_timeout)
                || slot.is_expired(now)
                || !manager.is_alive(&mut slot.conn)
        };
        self.idle.extract_if(.., is_stale).collect()
    }

    fn is_over(&self, slot: &Slot<M::Conn>, now: Instant) -> bool {
        self.draining || slot.is_expired(now) || self.renewed_at.is_some_and(|at| slot.opened_at <= at)
    }

    /// Gives out the idle connections to be closed; those in use follow when they come back.
    pub(super) fn renew(&mut self, now: Instant) -> Vec<Slot<M::Conn>> {
        self.renewed_at = Some(now);
        std::mem::take(&mut self.idle)
    }

    pub(super) fn each_idle(&self, look: impl FnMut(&M::Conn)) {
        self.idle.iter().map(|slot| &*slot.conn).for_each(look);
    }

    /// Refuses whoever waits and will come, and gives out the idle connections to be closed.
    pub(super) fn drain(&mut self, effects: &mut Effects<M>) {
        self.draining = true;
        effects.closed.append(&mut self.idle);
        while !self.waiters.is_empty() {
            self.fail(0, CheckoutError::Draining, effects);
        }
    }

    pub(super) fn stats(&self, now: Instant) -> Stats {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Stats {
            active: self.active,
            idle: count(self.idle.len()),
            connecting: count(self.connecting.len()),
            waiting: count(self.waiters.len()),
            maxwait: self.waiters.front().map_or(Duration::ZERO, |w| now.saturating_duration_since(w.since)),
        }
    }

    pub(super) fn last_error(&self) -> Option<(M::Error, Instant)> {
        self.last_error.clone()
    }

    pub(super) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Nobody has, opens or awaits a connection.
    pub(super) fn is_idle(&self) -> bool {
        self.active == 0 && self.connecting.is_empty() && self.waiters.is_empty()
    }

    pub(super) fn is_backing_off(&self, now: Instant) -> bool {
        self.backoff.refusal(now).is_some()
    }

    /// First come first served, as far as idle connections fit.
    fn serve_waiters(&mut self, manager: &M, limits: &Limits, now: Instant, effects: &mut Effects<M>) {
        let mut at = 0;
        while at < self.waiters.len() && !self.idle.is_empty() {
            let want = self.waiters[at].want.clone();
            let Some(slot) = self.take_fitting(manager, &want, &mut effects.closed) else {
                at += 1;
                continue;
            };
            if at > 0 && self.head_is_passed_over(limits, now) {
                effects.closed.push(slot);
                return;
            }
            self.active += 1;
            self.deliver(at, Ok(slot), effects);
        }
    }

    /// Counts that the head is about to be passed by a later waiter; true when it has been passed too often and could
    /// have a connection of its own if this one were closed.
    fn head_is_passed_over(&mut self, limits: &Limits, now: Instant) -> bool {
        let Some(head) = self.waiters.front() else { return false };
        let covered = self.connecting.iter().any(|c| c.promised_to == Some(head.id));
        // The connection in hand is neither idle nor active at this moment.
        let room = self.open() + 1 < limits.size as usize || !self.idle.is_empty();
        let may_connect = self.backoff.refusal(now).is_none() && self.connecting.len() < self.concurrency(limits);
        if covered || room || !may_connect {
            return false;
        }
        let Some(head) = self.waiters.front_mut() else { return false };
        head.passed += 1;
        head.passed > PASSES_MAX
    }

    /// Opens connections for waiters that none is being opened for, as far as the limits let it.
    fn plan_connects(&mut self, manager: &M, limits: &Limits, now: Instant, effects: &mut Effects<M>) {
        for at in 0..self.waiters.len() {
            let may_launch = self.connecting.len() < self.concurrency(limits);
            if !may_launch && self.connecting.iter().all(|c| c.promised_to.is_some()) {
                return;
            }
            let waiter = &self.waiters[at];
            let (id, class) = (waiter.id, manager.class(&waiter.want));
            if self.connecting.iter().any(|c| c.promised_to == Some(id)) {
                continue;
            }
            if let Some(orphan) = self.connecting.iter_mut().find(|c| c.promised_to.is_none() && c.class == class) {
                orphan.promised_to = Some(id);
                continue;
            }
            if !may_launch {
                continue;
            }
            if self.open() >= limits.size as usize {
                // What is idle here fits nobody who waits.
                if self.idle.is_empty() {
                    return;
                }
                effects.closed.push(self.idle.remove(0));
            }
            let want = self.waiters[at].want.clone();
            let attempt = self.fresh_id();
            self.connecting.push(Connecting {
                id: attempt,
                class,
                started: now,
                launched_for: id,
                promised_to: Some(id),
            });
            effects.launches.push(Launch { id: attempt, want });
        }
    }

    /// The most recently used idle connection of the same class and affinity, else of the same class.
    fn take_fitting(&mut self, manager: &M, want: &M::Want, closed: &mut Vec<Slot<M::Conn>>) -> Option<Slot<M::Conn>> {
        let (class, affinity) = (manager.class(want), manager.affinity(want));
        loop {
            let fits = |slot: &Slot<M::Conn>| manager.class_of(&slot.conn) == class;
            let at = self
                .idle
                .iter()
                .rposition(|slot| fits(slot) && manager.affinity_of(&slot.conn) == affinity)
                .or_else(|| self.idle.iter().rposition(fits))?;
            let mut slot = self.idle.remove(at);
            if manager.is_alive(&mut slot.conn) {
                return Some(slot);
            }
            closed.push(slot);
        }
    }

    fn fail(&mut self, at: usize, error: CheckoutError<M::Error>, effects: &mut Effects<M>) {
        self.deliver(at, Err(error), effects);
    }

    fn deliver(&mut self, at: usize, outcome: Outcome<M>, effects: &mut Effects<M>) {
        let Some(waiter) = self.waiters.remove(at) else { return };
        self.release_promise(waiter.id);
        let mut delivery = waiter.delivery.borrow_mut();
        delivery.outcome = Some(outcome);
        effects.wakers.extend(delivery.waker.take());
    }

    fn release_promise(&mut self, waiter: u64) {
        if let Some(attempt) = self.connecting.iter_mut().find(|c| c.promised_to == Some(waiter)) {
            attempt.promised_to = None;
        }
    }

    fn forget_connecting(&mut self, id: u64) -> Option<Connecting> {
        let at = self.connecting.iter().position(|c| c.id == id)?;
        Some(self.connecting.swap_remove(at))
    }

    /// How many connections may be being opened: a failing server is tried by one at a time.
    fn concurrency(&self, limits: &Limits) -> usize {
        if self.backoff.is_failing() { 1 } else { limits.connect_concurrency.max(1) as usize }
    }

    fn open(&self) -> usize {
        self.idle.len() + self.active as usize + self.connecting.len()
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}
