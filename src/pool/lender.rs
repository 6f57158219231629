//! The pool itself: lends connections, opens them when there are none, and keeps those that come back.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::account::{Account, Accounts};
use super::config::Limits;
use super::error::CheckoutError;
use super::manage::Manage;
use super::parts::{Delivery, Effects, Launch, Position, Slot, Stats};
use super::share::{Lane, Share};
use super::state::State;

/// A pool of one manager's connections, for one thread. Use it inside a `LocalSet`: connections are opened by local tasks
/// of the pool's own, so that an attempt whose client left ends as an idle connection.
pub struct Pool<M: Manage> {
    manager: M,
    limits: Cell<Limits>,
    state: RefCell<State<M>>,
}

impl<M: Manage> Pool<M> {
    /// A pool without connections.
    #[must_use]
    pub fn new(manager: M, limits: Limits) -> Rc<Self> {
        Self::under(manager, limits, Vec::new())
    }

    /// The same under quotas that it has in common with other pools. If there are several, the last is the one with other owners.
    #[must_use]
    pub fn under(manager: M, limits: Limits, accounts: Vec<Account>) -> Rc<Self> {
        let limits = at_least_one(limits);
        let state = RefCell::new(State::new(Accounts::new(accounts), &limits));
        Rc::new(Self { manager, limits: Cell::new(limits), state })
    }

    /// Whoever makes this pool's connections.
    pub fn manager(&self) -> &M {
        &self.manager
    }

    /// The limits that hold now.
    pub fn limits(&self) -> Limits {
        self.limits.get()
    }

    /// Other limits, from now on: connections beyond a smaller size are closed when they are free.
    pub fn set_limits(self: &Rc<Self>, limits: Limits) {
        let limits = at_least_one(limits);
        if self.limits.replace(limits) != limits {
            let surplus = self.state.borrow_mut().shrink(&limits);
            drop(surplus);
            self.settle();
        }
    }

    /// Another share of what it has in common with other owners' pools.
    pub fn set_share(&self, share: Share) {
        self.state.borrow_mut().set_share(share);
    }

    /// To be called when the bell of its accounts was rung: takes what is reserved for it, gives up what it owes.
    pub fn heed(self: &Rc<Self>) {
        if self.state.borrow().is_called() {
            self.settle();
            self.relieve();
        }
    }

    /// A fitting idle connection at once; none if there is none or if others wait already.
    pub fn try_checkout(self: &Rc<Self>, want: &M::Want) -> Option<Checkout<M>> {
        let mut dead = Vec::new();
        let slot = self.state.borrow_mut().take_idle(&self.manager, want, &mut dead);
        drop(dead);
        Some(self.lend(slot?, self.manager.lane(want).cloned()))
    }

    /// A fitting connection: an idle one, else a new one, else the next that becomes free. Dropping the future loses
    /// neither a connection nor a place.
    ///
    /// # Errors
    /// [`CheckoutError`]: too many wait, none came in time, none could be opened, or the pool is draining.
    pub async fn checkout(self: &Rc<Self>, want: M::Want) -> Result<Checkout<M>, CheckoutError<M::Error>> {
        if let Some(checkout) = self.try_checkout(&want) {
            return Ok(checkout);
        }
        let limits = self.limits.get();
        let limit = limits.checkout_timeout;
        let delivery = Rc::new(RefCell::new(Delivery::default()));
        let lane = self.manager.lane(&want).cloned();
        let entered =
            self.state.borrow_mut().enqueue(want, lane.clone(), Rc::clone(&delivery), &limits, Instant::now());
        let wait = Wait { pool: Rc::clone(self), position: entered?, lane, delivery };
        self.settle();
        tokio::time::timeout(limit, wait).await.unwrap_or(Err(CheckoutError::Timeout(limit)))
    }

    /// Closes idle connections that are dead, too old, or unused for too long. To be called now and then.
    pub fn sweep(self: &Rc<Self>, now: Instant) {
        let stale = self.state.borrow_mut().sweep(&self.manager, &self.limits.get(), now);
        drop(stale);
        self.settle();
    }

    /// An idle connection whose health should be checked: neither used nor checked for this long. Give it back with
    /// [`Checkout::checkin_checked`], or drop it if it is dead.
    pub fn take_unchecked(self: &Rc<Self>, interval: Duration) -> Option<Checkout<M>> {
        let slot = self.state.borrow_mut().take_unchecked(interval, Instant::now());
        Some(self.lend(slot?, None))
    }

    /// Closes idle connections now and the others as they come back; whoever waits or comes later is refused.
    pub fn drain(&self) {
        let mut effects = Effects::default();
        self.state.borrow_mut().drain(&mut effects);
        effects.wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// What it holds now.
    pub fn stats(&self) -> Stats {
        self.state.borrow().stats(Instant::now())
    }

    /// Looks at each connection that waits for a client.
    pub fn each_idle(&self, look: impl FnMut(&M::Conn)) {
        self.state.borrow().each_idle(look);
    }

    /// Closes its connections: those that wait at once, those that serve somebody when they come back.
    pub fn reconnect(self: &Rc<Self>) {
        let closed = self.state.borrow_mut().renew(Instant::now());
        drop(closed);
        self.settle();
    }

    /// Why opening a connection failed last, and when.
    pub fn last_error(&self) -> Option<(M::Error, Instant)> {
        self.state.borrow().last_error()
    }

    /// Whether nobody has, awaits or opens a connection of it; it may still hold idle ones.
    pub fn is_idle(&self) -> bool {
        self.state.borrow().is_idle()
    }

    /// Whether it leaves a failing server alone for now.
    pub fn is_backing_off(&self) -> bool {
        self.state.borrow().is_backing_off(Instant::now())
    }

    fn lend(self: &Rc<Self>, slot: Slot<M::Conn>, lane: Option<Rc<Lane>>) -> Checkout<M> {
        Checkout { slot, lease: Lease { pool: Rc::clone(self), lane } }
    }

    /// Brings forward whatever can go forward.
    fn settle(self: &Rc<Self>) {
        // The common case, before the clock is looked at.
        if !self.state.borrow().has_waiters() {
            return self.step_back();
        }
        let mut effects = Effects::default();
        self.state.borrow_mut().settle(&self.manager, &self.limits.get(), Instant::now(), &mut effects);
        self.apply(effects);
    }

    /// Nobody waits: it wants nothing of its quotas.
    fn step_back(&self) {
        if self.state.borrow().is_in_line() {
            self.state.borrow_mut().step_back();
        }
    }

    /// Gives up what others wait for.
    #[cold]
    fn relieve(self: &Rc<Self>) {
        let mut effects = Effects::default();
        self.state.borrow_mut().relieve(Instant::now(), &mut effects);
        self.apply(effects);
    }

    /// Must not be called while the state is borrowed.
    fn apply(self: &Rc<Self>, effects: Effects<M>) {
        let Effects { launches, wakers, closed, retry_at, review_at } = effects;
        drop(closed);
        wakers.into_iter().for_each(std::task::Waker::wake);
        for launch in launches {
            self.launch(launch);
        }
        if let Some(at) = retry_at {
            self.later(at, |pool| {
                pool.state.borrow_mut().disarm_retry();
                pool.settle();
            });
        }
        if let Some(at) = review_at {
            self.later(at, |pool| {
                pool.state.borrow_mut().review();
                pool.settle();
                pool.relieve();
            });
        }
    }

    fn later(self: &Rc<Self>, at: Instant, then: impl FnOnce(&Rc<Self>) + 'static) {
        let pool = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(at).await;
            if let Some(pool) = pool.upgrade() {
                then(&pool);
            }
        });
    }

    fn launch(self: &Rc<Self>, launch: Launch<M::Want>) {
        let attempt = Attempt { pool: Rc::downgrade(self), id: launch.id };
        let connect = self.manager.connect(&launch.want, launch.permits);
        tokio::task::spawn_local(async move { attempt.end(connect.await) });
    }
}

/// A pool of none would serve nobody.
fn at_least_one(limits: Limits) -> Limits {
    Limits { size: limits.size.max(1), ..limits }
}

impl<M: Manage> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A connection on loan. [`Checkout::checkin`] gives it back; dropping it closes it, which is right whenever its state is
/// not known for certain.
pub struct Checkout<M: Manage> {
    // Dropped before the lease: the connection is closed before its place is given to another.
    slot: Slot<M::Conn>,
    lease: Lease<M>,
}

impl<M: Manage> Checkout<M> {
    /// Gives the connection back: to the first waiter that it fits, else to the idle ones.
    pub fn checkin(self) {
        let Self { slot, lease } = self;
        lease.end(slot);
    }

    /// Gives it back after a health check, which is no use of it.
    pub fn checkin_checked(self) {
        let Self { slot, lease } = self;
        let closed = lease.pool.state.borrow_mut().give_back_checked(slot, Instant::now());
        drop(closed);
    }

    /// The pool it comes from.
    pub fn pool(&self) -> &Rc<Pool<M>> {
        &self.lease.pool
    }
}

impl<M: Manage> Deref for Checkout<M> {
    type Target = M::Conn;
    fn deref(&self) -> &M::Conn {
        &self.slot.conn
    }
}

impl<M: Manage> DerefMut for Checkout<M> {
    fn deref_mut(&mut self) -> &mut M::Conn {
        &mut self.slot.conn
    }
}

impl<M: Manage> fmt::Debug for Checkout<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkout").finish_non_exhaustive()
    }
}

/// One active connection in the books; they are set right whichever way it ends.
struct Lease<M: Manage> {
    pool: Rc<Pool<M>>,
    lane: Option<Rc<Lane>>,
}

impl<M: Manage> Lease<M> {
    fn end(self, slot: Slot<M::Conn>) {
        let closed = self.pool.state.borrow_mut().give_back(slot, Instant::now());
        // The place is free again only when the connection is really closed.
        drop(closed);
    }
}

impl<M: Manage> Drop for Lease<M> {
    fn drop(&mut self) {
        self.pool.state.borrow_mut().end_lease(self.lane.as_ref());
        self.pool.settle();
        if self.pool.state.borrow().is_pressed() {
            self.pool.relieve();
        }
    }
}

/// One attempt to connect in the books; a task that is dropped half-way leaves no trace.
struct Attempt<M: Manage> {
    pool: Weak<Pool<M>>,
    id: u64,
}

impl<M: Manage> Attempt<M> {
    fn end(self, result: Result<M::Conn, M::Error>) {
        // Without a pool the connection is closed.
        let Some(pool) = self.pool.upgrade() else { return };
        let now = Instant::now();
        let mut effects = Effects::default();
        let mut state = pool.state.borrow_mut();
        match result {
            Ok(conn) => effects.closed.extend(state.connected(self.id, Slot::new(conn, &pool.limits.get(), now))),
            Err(error) => {
                let against_server = pool.manager.counts_against_server(&error);
                state.connect_failed(self.id, error, against_server, now, &mut effects);
            }
        }
        state.settle(&pool.manager, &pool.limits.get(), now, &mut effects);
        if state.is_pressed() {
            state.relieve(now, &mut effects);
        }
        drop(state);
        pool.apply(effects);
    }
}

impl<M: Manage> Drop for Attempt<M> {
    fn drop(&mut self) {
        // No settling here: when the runtime is going down that would only open the next one.
        if let Some(pool) = self.pool.upgrade() {
            pool.state.borrow_mut().connect_dropped(self.id);
        }
    }
}

/// A client in the queue.
struct Wait<M: Manage> {
    pool: Rc<Pool<M>>,
    position: Position,
    lane: Option<Rc<Lane>>,
    delivery: Rc<RefCell<Delivery<M>>>,
}

impl<M: Manage> Future for Wait<M> {
    type Output = Result<Checkout<M>, CheckoutError<M::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut delivery = self.delivery.borrow_mut();
        match delivery.outcome.take() {
            Some(outcome) => Poll::Ready(outcome.map(|slot| self.pool.lend(slot, self.lane.clone()))),
            None => {
                match &mut delivery.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    waker => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl<M: Manage> Drop for Wait<M> {
    fn drop(&mut self) {
        let outcome = self.delivery.borrow_mut().outcome.take();
        match outcome {
            Some(Ok(slot)) => self.pool.lend(slot, self.lane.take()).checkin(),
            Some(Err(_)) => {}
            None => {
                self.pool.state.borrow_mut().leave(self.position);
                if !self.pool.state.borrow().has_waiters() {
                    self.pool.step_back();
                }
            }
        }
    }
}
