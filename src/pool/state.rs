//! The books of a pool: what is idle, active and being opened, who waits, and who gets what next. Synchronous and pure but for the clock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::account::Accounts;
use super::backoff::Backoff;
use super::config::Limits;
use super::error::CheckoutError;
use super::manage::Manage;
use super::parts::{Connecting, Delivery, Effects, Launch, Outcome, Position, Slot, Stats, Waiter};
use super::quota::TURN;
use super::share::{Lane, Share};

/// How often later waiters may be served before a waiting head that their connections do not fit.
const PASSES_MAX: u32 = 16;
/// How long an idle connection is kept while others wait for one that would take its place. Up to ten times as long where
/// it is one of the least that its owner is to have.
const REST: Duration = Duration::from_millis(500);
/// How much longer.
const REST_OF_LEAST: u32 = 10;

/// The books.
pub(super) struct State<M: Manage> {
    /// Least recently used first.
    idle: Vec<Slot<M::Conn>>,
    active: u32,
    connecting: Vec<Connecting>,
    /// Most connections: [`Limits::size`], where nothing else of the limits is looked at.
    size: usize,
    /// By position.
    waiters: VecDeque<Waiter<M>>,
    /// The lanes' time: that of the last waiter that was served.
    time: u64,
    accounts: Accounts,
    backoff: Backoff<M::Error>,
    last_error: Option<(M::Error, Instant)>,
    next_id: u64,
    draining: bool,
    /// Connections opened before are closed when they come back.
    renewed_at: Option<Instant>,
    retry_armed: bool,
    review_armed: bool,
}

impl<M: Manage> State<M> {
    pub(super) fn new(accounts: Accounts, limits: &Limits) -> Self {
        Self {
            idle: Vec::new(),
            active: 0,
            connecting: Vec::new(),
            size: limits.size as usize,
            waiters: VecDeque::new(),
            time: 0,
            accounts,
            backoff: Backoff::Healthy,
            last_error: None,
            next_id: 0,
            draining: false,
            renewed_at: None,
            retry_armed: false,
            review_armed: false,
        }
    }

    /// Takes the best idle connection for a newcomer, if nobody is waiting. Dead ones found on the way go to `closed`.
    pub(super) fn take_idle(
        &mut self,
        manager: &M,
        want: &M::Want,
        closed: &mut Vec<Slot<M::Conn>>,
    ) -> Option<Slot<M::Conn>> {
        let lane = manager.lane(want);
        if !self.waiters.is_empty() || lane.is_some_and(|lane| lane.is_full()) {
            return None;
        }
        let slot = self.take_fitting(manager, want, closed)?;
        self.lease(lane);
        self.accounts.note_idle(self.idle.len());
        Some(slot)
    }

    fn lease(&mut self, lane: Option<&Rc<Lane>>) {
        self.active += 1;
        lane.into_iter().for_each(|lane| lane.take());
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
        self.lease(None);
        self.accounts.note_idle(self.idle.len());
        Some(slot)
    }

    /// A connection comes back from its check, as long unused as before.
    pub(super) fn give_back_checked(&mut self, slot: Slot<M::Conn>, now: Instant) -> Option<Slot<M::Conn>> {
        if self.is_over(&slot, now) {
            return Some(slot);
        }
        let at = self.idle.partition_point(|other| other.idle_since <= slot.idle_since);
        self.idle.insert(at, slot);
        self.accounts.note_idle(self.idle.len());
        None
    }

    /// Puts a client into the queue, behind the others of its lane, and says where it waits.
    pub(super) fn enqueue(
        &mut self,
        want: M::Want,
        lane: Option<Rc<Lane>>,
        delivery: Rc<RefCell<Delivery<M>>>,
        limits: &Limits,
        now: Instant,
    ) -> Result<Position, CheckoutError<M::Error>> {
        if self.draining {
            return Err(CheckoutError::Draining);
        }
        if self.waiters.len() >= limits.queue_length_max as usize {
            return Err(CheckoutError::QueueFull(limits.queue_length_max));
        }
        if let Some(max) = lane.as_ref().and_then(|lane| lane.is_crowded()) {
            return Err(CheckoutError::QueueFull(max));
        }
        let position = (lane.as_ref().map_or(0, |lane| lane.join(self.time)), self.fresh_id());
        let at = self.waiters.partition_point(|waiter| waiter.position < position);
        self.waiters.insert(at, Waiter { position, want, lane, since: now, passed: 0, delivery });
        Ok(position)
    }

    /// Forgets a client that no longer waits.
    pub(super) fn leave(&mut self, position: Position) {
        if let Ok(at) = self.find(position) {
            drop(self.remove(at));
        }
    }

    fn find(&self, position: Position) -> Result<usize, usize> {
        self.waiters.binary_search_by_key(&position, |waiter| waiter.position)
    }

    fn remove(&mut self, at: usize) -> Option<Waiter<M>> {
        let waiter = self.waiters.remove(at)?;
        waiter.lane.iter().for_each(|lane| lane.leave());
        self.release_promise(waiter.position);
        Some(waiter)
    }

    /// A lease ends.
    pub(super) fn end_lease(&mut self, lane: Option<&Rc<Lane>>) {
        self.active -= 1;
        lane.into_iter().for_each(|lane| lane.give_back());
    }

    /// A connection comes back, its lease still standing; given out again to be closed if its time is over, or another pool's has come.
    pub(super) fn give_back(&mut self, mut slot: Slot<M::Conn>, now: Instant) -> Option<Slot<M::Conn>> {
        let surplus = self.open() > self.size || (self.accounts.owes() && self.accounts.pay());
        if surplus || self.is_over(&slot, now) {
            return Some(slot);
        }
        slot.idle_since = now;
        self.idle.push(slot);
        self.accounts.note_idle(self.idle.len());
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
        self.accounts.note_idle(self.idle.len());
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
            && let Ok(at) = self.find(attempt.launched_for)
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
        let lacking = self.bring_forward(manager, limits, now, effects);
        self.accounts.note_idle(self.idle.len());
        if lacking == 0 {
            return self.accounts.withdraw();
        }
        if self.accounts.ask(lacking) && !self.idle.is_empty() {
            // It fits nobody who waits here; what it leaves room for goes to whose turn it is.
            effects.closed.push(self.idle.remove(0));
        }
        if !self.review_armed {
            self.review_armed = true;
            effects.review_at = Some(now + TURN);
        }
    }

    /// As [`State::settle`]; how many connections more would be opened if they might.
    fn bring_forward(&mut self, manager: &M, limits: &Limits, now: Instant, effects: &mut Effects<M>) -> u32 {
        if self.waiters.is_empty() {
            return 0;
        }
        self.serve_waiters(manager, limits, now, effects);
        if self.waiters.is_empty() {
            return 0;
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
            return 0;
        }
        self.plan_connects(manager, limits, now, effects)
    }

    /// The time that was asked for in [`Effects::retry_at`] has come.
    pub(super) fn disarm_retry(&mut self) {
        self.retry_armed = false;
    }

    /// Whether other pools wait for what this one has, or something is reserved for it.
    pub(super) fn is_called(&self) -> bool {
        self.accounts.is_pressed() || self.accounts.has_reserved()
    }

    /// Whether other pools wait for what this one has.
    pub(super) fn is_pressed(&self) -> bool {
        self.accounts.is_pressed()
    }

    /// Whether it stands in line for permits, or has some reserved.
    pub(super) fn is_in_line(&self) -> bool {
        self.accounts.has_asked() || self.accounts.has_reserved()
    }

    pub(super) fn set_share(&mut self, share: Share) {
        self.accounts.set_share(share);
    }

    /// Gives out the idle connections beyond a size, to be closed.
    pub(super) fn shrink(&mut self, limits: &Limits) -> Vec<Slot<M::Conn>> {
        self.size = limits.size as usize;
        let surplus = self.open().saturating_sub(self.size).min(self.idle.len());
        let closed = self.idle.drain(..surplus).collect();
        self.accounts.note_idle(self.idle.len());
        closed
    }

    /// Wants no permits.
    pub(super) fn step_back(&mut self) {
        self.accounts.withdraw();
    }

    /// Gives up idle connections that are owed, and one that has rested for long enough while others wait.
    pub(super) fn relieve(&mut self, now: Instant, effects: &mut Effects<M>) {
        while !self.idle.is_empty() && self.accounts.owes() && self.accounts.pay() {
            effects.closed.push(self.idle.remove(0));
        }
        if self.accounts.is_short()
            && let Some(longest) = self.idle.first()
        {
            let is_of_least = self.open() <= self.accounts.least() as usize;
            let rest = if is_of_least { REST * REST_OF_LEAST } else { REST };
            let rested = longest.idle_since.max(longest.opened_at) + rest <= now;
            if rested {
                effects.closed.push(self.idle.remove(0));
            }
            if !self.idle.is_empty() && !self.review_armed {
                self.review_armed = true;
                effects.review_at = Some(now + TURN);
            }
        }
        self.accounts.note_idle(self.idle.len());
    }

    /// The time that was asked for in [`Effects::review_at`] has come.
    pub(super) fn review(&mut self) {
        self.review_armed = false;
        self.accounts.review();
    }

    /// Closes idle connections that are dead, too old or unused for too long.
    pub(super) fn sweep(&mut self, manager: &M, limits: &Limits, now: Instant) -> Vec<Slot<M::Conn>> {
        let is_stale = |slot: &mut Slot<M::Conn>| {
            let unused = now.saturating_duration_since(slot.idle_since);
            (!limits.idle_timeout.is_zero() && unused >= limits.idle_timeout)
                || slot.is_expired(now)
                || !manager.is_alive(&mut slot.conn)
        };
        let stale = self.idle.extract_if(.., is_stale).collect();
        self.accounts.note_idle(self.idle.len());
        stale
    }

    fn is_over(&self, slot: &Slot<M::Conn>, now: Instant) -> bool {
        self.draining || slot.is_expired(now) || self.renewed_at.is_some_and(|at| slot.opened_at <= at)
    }

    /// Gives out the idle connections to be closed; those in use follow when they come back.
    pub(super) fn renew(&mut self, now: Instant) -> Vec<Slot<M::Conn>> {
        self.renewed_at = Some(now);
        self.accounts.note_idle(0);
        std::mem::take(&mut self.idle)
    }

    pub(super) fn each_idle(&self, look: impl FnMut(&M::Conn)) {
        self.idle.iter().map(|slot| &*slot.conn).for_each(look);
    }

    /// Refuses whoever waits and will come, and gives out the idle connections to be closed.
    pub(super) fn drain(&mut self, effects: &mut Effects<M>) {
        self.draining = true;
        effects.closed.append(&mut self.idle);
        self.accounts.note_idle(0);
        self.accounts.withdraw();
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
            maxwait: self.longest_wait(now),
        }
    }

    /// Of the first in its lane for each of them; with one lane, of the first.
    fn longest_wait(&self, now: Instant) -> Duration {
        let mixed = self.waiters.front().is_some_and(|waiter| waiter.lane.is_some());
        let since =
            if mixed { self.waiters.iter().map(|w| w.since).min() } else { self.waiters.front().map(|w| w.since) };
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
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

    /// In their order, as far as idle connections fit and no lane gets more than it may have.
    fn serve_waiters(&mut self, manager: &M, limits: &Limits, now: Instant, effects: &mut Effects<M>) {
        let (mut at, mut head) = (0, None);
        while at < self.waiters.len() && !self.idle.is_empty() {
            if self.waiters[at].is_blocked() {
                at += 1;
                continue;
            }
            let want = self.waiters[at].want.clone();
            let Some(slot) = self.take_fitting(manager, &want, &mut effects.closed) else {
                head.get_or_insert(at);
                at += 1;
                continue;
            };
            if let Some(head) = head
                && self.is_passed_over(head, limits, now)
            {
                effects.closed.push(slot);
                return;
            }
            let waiter = &self.waiters[at];
            self.time = self.time.max(waiter.position.0);
            let lane = waiter.lane.clone();
            self.lease(lane.as_ref());
            self.deliver(at, Ok(slot), effects);
        }
    }

    /// Counts that the head is about to be passed by a later waiter; true when it has been passed too often and could
    /// have a connection of its own if this one were closed.
    fn is_passed_over(&mut self, head: usize, limits: &Limits, now: Instant) -> bool {
        let position = self.waiters[head].position;
        let covered = self.connecting.iter().any(|c| c.promised_to == Some(position));
        // The connection in hand is neither idle nor active at this moment.
        let room = self.open() + 1 < limits.size as usize || !self.idle.is_empty();
        let may_connect = self.backoff.refusal(now).is_none() && self.connecting.len() < self.concurrency(limits);
        if covered || (room && !self.accounts.has_asked()) || !may_connect {
            return false;
        }
        let head = &mut self.waiters[head];
        head.passed += 1;
        head.passed > PASSES_MAX
    }

    /// Opens connections for waiters that none is being opened for, as far as the limits let it; how many more it would open if it might.
    fn plan_connects(&mut self, manager: &M, limits: &Limits, now: Instant, effects: &mut Effects<M>) -> u32 {
        let mut lacking = 0;
        for at in 0..self.waiters.len() {
            let may_launch = self.connecting.len() + (lacking as usize) < self.concurrency(limits);
            if !may_launch && self.connecting.iter().all(|c| c.promised_to.is_some()) {
                break;
            }
            let waiter = &self.waiters[at];
            let (position, class) = (waiter.position, manager.class(&waiter.want));
            if waiter.is_blocked() || self.connecting.iter().any(|c| c.promised_to == Some(position)) {
                continue;
            }
            if let Some(orphan) = self.connecting.iter_mut().find(|c| c.promised_to.is_none() && c.class == class) {
                orphan.promised_to = Some(position);
                continue;
            }
            if !may_launch {
                continue;
            }
            if self.open() + lacking as usize >= limits.size as usize {
                // What is idle here fits nobody who waits.
                if self.idle.is_empty() {
                    break;
                }
                effects.closed.push(self.idle.remove(0));
            }
            let permits = if lacking == 0 { self.accounts.take() } else { None };
            let Some(permits) = permits else {
                lacking += 1;
                continue;
            };
            let want = self.waiters[at].want.clone();
            let attempt = self.fresh_id();
            self.connecting.push(Connecting {
                id: attempt,
                class,
                started: now,
                launched_for: position,
                promised_to: Some(position),
            });
            effects.launches.push(Launch { id: attempt, want, permits });
        }
        lacking
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
        let Some(waiter) = self.remove(at) else { return };
        let mut delivery = waiter.delivery.borrow_mut();
        delivery.outcome = Some(outcome);
        effects.wakers.extend(delivery.waker.take());
    }

    fn release_promise(&mut self, waiter: Position) {
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
