//! What all sessions of one relay thread share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rapidhash::RapidHashMap;
use tokio::runtime::Handle;

use super::buffer::Buffers;
use super::client::ClientState;
use super::context::Needed;
use super::control::{Control, Doing};
use super::harmless::Harmless;
use super::held::Held;
use super::measure::{SessionTimes, Sessions};
use super::names::Statements;
use super::profile::Profiles;
use crate::backend::Want;
use crate::protocol::{Report, SqlState};
use crate::times::Times;

/// What a server reported when a connection began.
pub(crate) struct Parameters {
    /// The messages that tell a client.
    pub(crate) messages: BytesMut,
    /// Texts cannot be scanned reliably where these hold.
    pub(crate) is_unreadable: bool,
    /// Of what the connection reported that told them, when it began.
    pub(crate) start: u64,
}

/// How long a server's parameters are told to new clients without asking it again.
const PARAMETERS_TTL: Duration = Duration::from_secs(60);
/// Most sets of parameters remembered.
const PARAMETERS_MAX: usize = 1024;

/// Room for a prefix that is kept.
const PREFIX_BYTES_MAX: usize = 4096;

/// The thread's buffers, clock and sessions.
pub struct Thread {
    pub(crate) buffers: Buffers,
    pub(crate) statements: RefCell<Statements>,
    pub(crate) harmless: RefCell<Harmless>,
    now: Cell<Instant>,
    front: Handle,
    /// Where messages are put together; taken while that lasts.
    pub(crate) scratch: Cell<BytesMut>,
    /// What the last hand-over's messages were in, for those of the next.
    prefix: Cell<BytesMut>,
    sessions: RefCell<RapidHashMap<u64, Rc<Control>>>,
    timeouts: RefCell<super::Config>,
    paused: RefCell<Vec<Held>>,
    times: SessionTimes<Times>,
    parameters: RefCell<RapidHashMap<Known, (Instant, Rc<Parameters>)>>,
    profiles: Profiles,
    draining: Cell<bool>,
}

/// A pool, and the settings of a session in it.
#[derive(PartialEq, Eq, Hash)]
struct Known {
    pool: u64,
    class: u64,
    affinity: u64,
}

impl Thread {
    /// An empty thread; `front` is the runtime that does what must not run on a relay loop.
    #[must_use]
    pub fn new(front: Handle, timeouts: super::Config) -> Rc<Self> {
        Rc::new(Self {
            buffers: Buffers::default(),
            statements: RefCell::default(),
            harmless: RefCell::default(),
            now: Cell::new(Instant::now()),
            front,
            scratch: Cell::default(),
            prefix: Cell::default(),
            sessions: RefCell::default(),
            timeouts: RefCell::new(timeouts),
            paused: RefCell::default(),
            times: SessionTimes::default(),
            parameters: RefCell::default(),
            profiles: Profiles::default(),
            draining: Cell::new(false),
        })
    }

    /// What a session has to send in front of its messages.
    pub(super) fn prefix(&self, needed: &Needed<'_>) -> BytesMut {
        let mut prefix = self.prefix.take();
        needed.put(&mut prefix);
        prefix
    }

    /// Keeps the room of a prefix that was sent.
    pub(super) fn give_prefix(&self, mut prefix: BytesMut) {
        if prefix.capacity() <= PREFIX_BYTES_MAX {
            prefix.clear();
            self.prefix.set(prefix);
        }
    }

    /// The coarse time: that of the last tick.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// The runtime for connecting, TLS, DNS.
    #[must_use]
    pub fn front(&self) -> &Handle {
        &self.front
    }

    /// Enters a session; it leaves when the guard is dropped.
    #[must_use]
    pub fn enter(self: &Rc<Self>, control: &Rc<Control>) -> Entered {
        if self.draining.get() {
            control.drain();
        }
        self.sessions.borrow_mut().insert(control.id, Rc::clone(control));
        Entered { thread: Rc::clone(self), id: control.id }
    }

    /// Has every session end as soon as it is in no transaction, those that begin from now on, too.
    pub fn drain(&self) {
        self.draining.set(true);
        self.sessions.borrow().values().for_each(|control| control.drain());
    }

    /// The session with this number.
    #[must_use]
    pub fn session(&self, id: u64) -> Option<Rc<Control>> {
        self.sessions.borrow().get(&id).cloned()
    }

    /// All sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<Rc<Control>> {
        self.sessions.borrow().values().cloned().collect()
    }

    /// What all sessions are doing.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientState> {
        self.sessions.borrow().values().map(ClientState::of).collect()
    }

    /// Whose sessions get no server connection, and those that have one do not use it for anything new.
    pub fn set_paused(&self, paused: Vec<Held>) {
        *self.paused.borrow_mut() = paused;
        self.sessions.borrow().values().for_each(|control| control.wake());
    }

    /// Whether this session is among them.
    pub(crate) fn is_paused(&self, control: &Control) -> bool {
        let paused = self.paused.borrow();
        !paused.is_empty() && paused.iter().any(|held| held.covers(control.tenant.id, &control.placement))
    }

    /// How many sessions do what.
    #[must_use]
    pub fn doings(&self) -> Sessions {
        let mut sessions = Sessions::default();
        self.sessions.borrow().values().for_each(|control| sessions.add(control.doing().0));
        sessions
    }

    /// How long things take its sessions.
    #[must_use]
    pub const fn times(&self) -> &SessionTimes<Times> {
        &self.times
    }

    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.borrow().len()
    }

    /// What a server reported to a session like this one, not long ago.
    pub(crate) fn parameters(&self, pool: u64, want: &Want) -> Option<Rc<Parameters>> {
        let known = self.parameters.borrow();
        let (since, parameters) = known.get(&Known { pool, class: want.class, affinity: want.affinity })?;
        (self.now().saturating_duration_since(*since) < PARAMETERS_TTL).then(|| Rc::clone(parameters))
    }

    /// Remembers what a server reported.
    pub(crate) fn know_parameters(&self, pool: u64, want: &Want, parameters: Rc<Parameters>) {
        let mut known = self.parameters.borrow_mut();
        if known.len() >= PARAMETERS_MAX {
            known.clear();
        }
        let key = Known { pool, class: want.class, affinity: want.affinity };
        known.insert(key, (self.now(), parameters));
    }

    /// A server reports something else now.
    pub(crate) fn forget_parameters(&self, pool: u64) {
        self.parameters.borrow_mut().retain(|known, _| known.pool != pool);
    }

    /// New time-outs, for running sessions too.
    pub fn set_timeouts(&self, timeouts: super::Config) {
        *self.timeouts.borrow_mut() = timeouts;
    }

    /// What sessions that begin alike have in common.
    pub(crate) const fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// Looks after clients that wait or have closed their side, and forgets what nobody uses. Called about once a second.
    pub fn sweep(&self) {
        self.profiles.sweep();
        let now = self.now();
        self.sessions.borrow().values().for_each(|control| control.probe(now));
    }

    /// Moves the clock and ends what took too long. Called some times a second.
    pub fn tick(&self, now: Instant) {
        self.now.set(now);
        let timeouts = self.timeouts.borrow();
        let over = |since: Instant, limit: std::time::Duration| {
            !limit.is_zero() && now.saturating_duration_since(since) > limit
        };
        for control in self.sessions.borrow().values() {
            if control.stalled_since().is_some_and(|since| over(since, timeouts.client_write)) {
                control.kill(Report::fatal(SqlState::CONNECTION_FAILURE, "client takes no data"));
                continue;
            }
            let (doing, since) = control.doing();
            let own = control.own_timeouts(&timeouts);
            match doing {
                Doing::IdleInTransaction if over(since, own.idle_in_transaction) => control.kill(Report::fatal(
                    SqlState::IDLE_IN_TRANSACTION_TIMEOUT,
                    "terminating connection due to idle-in-transaction timeout",
                )),
                Doing::Pinned if over(since, timeouts.pinned) => control.kill(Report::fatal(
                    SqlState::IDLE_SESSION_TIMEOUT,
                    "terminating connection due to pinned-connection timeout",
                )),
                Doing::Idle | Doing::Pinned if over(since, own.client_idle) => control.kill(Report::fatal(
                    SqlState::IDLE_SESSION_TIMEOUT,
                    "terminating connection due to idle-session timeout",
                )),
                Doing::Active if over(since, own.statement) => {
                    // Again only after another whole time-out: a statement may take a while to notice.
                    control.set_doing(doing, now);
                    control.cancel();
                }
                Doing::Login
                | Doing::Idle
                | Doing::Pinned
                | Doing::IdleInTransaction
                | Doing::Waiting
                | Doing::Active => {}
            }
        }
    }
}

/// A session's place in its thread's list.
pub struct Entered {
    thread: Rc<Thread>,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.thread.sessions.borrow_mut().remove(&self.id);
    }
}
