//! What the HTTP side asks of the process that it is part of.

use std::future::Future;

use crate::backend::ServerUse;
use crate::console;
use crate::registry::Registry;
use crate::session::{SessionTimes, ThreadState};
use crate::times::Histogram;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Clients cannot connect yet.
    Starting,
    /// Clients can connect.
    Serving,
    /// No client can connect any more, and those that are there are being ended.
    Draining,
}

/// The data plane at one moment.
#[derive(Debug, Default)]
pub struct Moment {
    /// Connected clients, logins in progress included.
    pub clients: u32,
    /// Most of them.
    pub clients_max: u32,
    /// What each relay thread is doing.
    pub threads: Vec<ThreadState>,
    /// How far the servers' connections are used by all of them.
    pub servers: Vec<ServerUse>,
    /// How many more threads there are, which did not answer in time.
    pub silent_threads: usize,
}

impl Moment {
    /// How long things have taken the sessions of all threads; none while one of these is silent.
    #[must_use]
    pub fn times(&self) -> Option<SessionTimes<Histogram>> {
        let mut all = SessionTimes::default();
        self.threads.iter().for_each(|thread| all += &thread.times);
        (self.silent_threads == 0).then_some(all)
    }
}

/// The process, as far as it can be asked.
pub trait Plane: Send + Sync + 'static {
    /// Where it is in its life.
    fn phase(&self) -> Phase;

    /// Its registry; none before that is open.
    fn registry(&self) -> Option<Registry>;

    /// What the recorder of metrics holds, as Prometheus text.
    fn recorded(&self) -> String;

    /// What its relay threads are doing; nothing while there are none.
    fn moment(&self) -> impl Future<Output = Option<Moment>> + Send;

    /// All its sessions and pools; nothing while there are none.
    fn whole(&self) -> impl Future<Output = Option<console::View>> + Send;
}
