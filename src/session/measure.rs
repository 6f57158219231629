//! What a thread counts of its sessions, for those who watch all of them.

use std::ops::AddAssign;

use super::control::Doing;
use crate::backend::{PoolState, Totals};
use crate::times::{Histogram, Times};

/// What a thread's sessions are doing, what its pools hold and how long things have taken, at one moment.
#[derive(Debug)]
pub struct ThreadState {
    /// How many sessions do what.
    pub sessions: Sessions,
    /// How long things have taken.
    pub times: SessionTimes<Histogram>,
    /// The pools.
    pub pools: Vec<PoolState>,
    /// What has passed through pools that are gone.
    pub departed: Totals,
}

/// How long things take sessions.
#[derive(Debug, Default, Clone)]
pub struct SessionTimes<T> {
    /// Waiting for a server connection, not at all mostly.
    pub waits: T,
    /// From a transaction's first byte to a server to its end.
    pub transactions: T,
    /// From bytes to a server to its ReadyForQuery.
    pub queries: T,
}

impl SessionTimes<Times> {
    /// What they stand at.
    #[must_use]
    pub fn histograms(&self) -> SessionTimes<Histogram> {
        SessionTimes {
            waits: self.waits.histogram(),
            transactions: self.transactions.histogram(),
            queries: self.queries.histogram(),
        }
    }
}

impl SessionTimes<Histogram> {
    /// What has come since they were like this.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            waits: self.waits.since(&earlier.waits),
            transactions: self.transactions.since(&earlier.transactions),
            queries: self.queries.since(&earlier.queries),
        }
    }
}

impl AddAssign<&Self> for SessionTimes<Histogram> {
    fn add_assign(&mut self, other: &Self) {
        self.waits += &other.waits;
        self.transactions += &other.transactions;
        self.queries += &other.queries;
    }
}

/// How many sessions do what.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sessions {
    counts: [usize; Doing::ALL.len()],
}

impl Sessions {
    pub(super) fn add(&mut self, doing: Doing) {
        self.counts[doing as usize] += 1;
    }

    /// How many do this.
    #[must_use]
    pub const fn doing(&self, doing: Doing) -> usize {
        self.counts[doing as usize]
    }
}
