//! What the rest of the thread may say to a session, and may know of it, while it runs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::client::Visitor;
use crate::protocol::{Effects, Report};
use crate::tenant::{Placement, SessionsEnd, Tenant};

/// What a session is doing, for time-outs and for those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Logging in.
    Login,
    /// Waiting for the client, outside a transaction.
    Idle,
    /// The same, with a server connection that it cannot give back.
    Pinned,
    /// Waiting for the client, inside a transaction.
    IdleInTransaction,
    /// Waiting for a server connection.
    Waiting,
    /// Waiting for the server's answer.
    Active,
}

impl Doing {
    /// All that a session may be doing, in the order of their declaration.
    pub const ALL: [Self; 6] =
        [Self::Login, Self::Idle, Self::Pinned, Self::IdleInTransaction, Self::Waiting, Self::Active];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Idle => "idle",
            Self::Pinned => "pinned",
            Self::IdleInTransaction => "idle_in_transaction",
            Self::Waiting => "waiting",
            Self::Active => "active",
        }
    }
}

/// A client that has waited for this long is looked at from then on.
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// Those time-outs that may differ from tenant to tenant.
pub(crate) struct OwnTimeouts {
    pub(crate) idle_in_transaction: Duration,
    pub(crate) client_idle: Duration,
    pub(crate) statement: Duration,
}

/// The handle of a running session: set from anywhere in its thread, read by the session when it is woken.
pub struct Control {
    /// Its number, unique in the process.
    pub id: u64,
    /// Whose it is, as the registry had it at login.
    pub tenant: Arc<Tenant>,
    /// Where it goes.
    pub placement: Arc<Placement>,
    /// Who its client is.
    pub visitor: Visitor,
    /// The server process that it has; 0 for none.
    pub(crate) server_pid: Cell<i32>,
    /// Why it keeps it.
    pub(crate) pinned_by: Cell<Effects>,
    /// When it ends, while its tenant is suspended with a grace. Boxed, as what follows: few are ever ended.
    end: RefCell<Option<Box<SessionsEnd>>>,
    /// The tenant as the registry has it now.
    latest: RefCell<Arc<Tenant>>,
    doing: Cell<Doing>,
    since: Cell<Instant>,
    stalled_since: Cell<Option<Instant>>,
    /// The client sends nothing more; whether it still listens is not known.
    half_closed: Cell<bool>,
    probe: Cell<bool>,
    cancel: Cell<bool>,
    drain: Cell<bool>,
    kill: RefCell<Option<Box<Report>>>,
    waker: RefCell<Option<Waker>>,
}

impl Control {
    /// A handle for a session that begins now.
    #[must_use]
    pub fn new(id: u64, tenant: Arc<Tenant>, placement: Arc<Placement>, visitor: Visitor, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            id,
            latest: RefCell::new(Arc::clone(&tenant)),
            tenant,
            placement,
            visitor,
            server_pid: Cell::new(0),
            pinned_by: Cell::new(Effects::NONE),
            end: RefCell::new(None),
            doing: Cell::new(Doing::Login),
            since: Cell::new(now),
            stalled_since: Cell::new(None),
            half_closed: Cell::new(false),
            probe: Cell::new(false),
            cancel: Cell::new(false),
            drain: Cell::new(false),
            kill: RefCell::new(None),
            waker: RefCell::new(None),
        })
    }

    /// It ends then, or not.
    pub fn set_end(&self, end: Option<SessionsEnd>) {
        self.end.replace(end.map(Box::new));
    }

    /// When it ends, while its tenant is suspended with a grace.
    #[must_use]
    pub fn end(&self) -> Option<SessionsEnd> {
        self.end.borrow().as_deref().copied()
    }

    /// The tenant is like this now.
    pub fn set_latest(&self, tenant: &Arc<Tenant>) {
        self.latest.replace(Arc::clone(tenant));
    }

    /// The tenant as it is now.
    pub(crate) fn latest(&self) -> Arc<Tenant> {
        Arc::clone(&self.latest.borrow())
    }

    /// What the tenant has of its own in place of these time-outs.
    pub(crate) fn own_timeouts(&self, timeouts: &super::Config) -> OwnTimeouts {
        let latest = self.latest.borrow();
        let own = &latest.limits;
        OwnTimeouts {
            idle_in_transaction: own.idle_in_transaction.unwrap_or(timeouts.idle_in_transaction),
            client_idle: own.client_idle.unwrap_or(timeouts.client_idle),
            statement: own.statement.unwrap_or(timeouts.statement),
        }
    }

    /// Asks for its running statement to be cancelled.
    pub fn cancel(&self) {
        self.cancel.set(true);
        self.wake();
    }

    /// Asks it to end as soon as it is in no transaction.
    pub fn drain(&self) {
        self.drain.set(true);
        self.wake();
    }

    /// Ends it now, with this as its last word.
    pub fn kill(&self, last_word: Report) {
        self.kill.borrow_mut().get_or_insert_with(|| Box::new(last_word));
        self.wake();
    }

    /// What it is doing, and since when (to the tick of the thread's clock).
    #[must_use]
    pub fn doing(&self) -> (Doing, Instant) {
        (self.doing.get(), self.since.get())
    }

    /// Since when the client has taken none of the bytes that wait for it.
    #[must_use]
    pub fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since.get()
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn set_doing(&self, doing: Doing, now: Instant) {
        self.doing.set(doing);
        self.since.set(now);
    }

    /// The client closed its side, and has answers to come.
    pub(crate) fn set_half_closed(&self) {
        self.half_closed.set(true);
    }

    /// Has the client looked at, where nothing is read from it: nobody is told that it left while it waits for a server
    /// connection or its answer, and one that closed its side shows that it is gone altogether only when it is written to.
    pub(crate) fn probe(&self, now: Instant) {
        let waits = matches!(self.doing.get(), Doing::Waiting | Doing::Active)
            && now.saturating_duration_since(self.since.get()) >= PROBE_AFTER;
        if self.half_closed.get() || waits {
            self.probe.set(true);
            self.wake();
        }
    }

    pub(crate) fn take_probe(&self) -> bool {
        self.probe.take()
    }

    pub(crate) fn set_stalled(&self, since: Option<Instant>) {
        self.stalled_since.set(since);
    }

    /// Registers the task that the setters above wake.
    pub(crate) fn listen(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        match kept.as_ref() {
            Some(old) if old.will_wake(waker) => {}
            _ => *kept = Some(waker.clone()),
        }
    }

    /// Waits for [`Control::kill`]; used while the session has no loop of its own yet.
    pub(crate) async fn killed(&self) -> Report {
        std::future::poll_fn(|cx| {
            self.listen(cx.waker());
            self.take_kill().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    pub(crate) fn take_cancel(&self) -> bool {
        self.cancel.take()
    }

    pub(crate) fn wants_cancel(&self) -> bool {
        self.cancel.get()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.get()
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.kill.borrow().is_some()
    }

    pub(crate) fn take_kill(&self) -> Option<Report> {
        self.kill.take().map(|last_word| *last_word)
    }
}
