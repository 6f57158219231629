//! What has passed through a pool: counters of one thread, read when somebody looks.

use std::cell::Cell;
use std::time::Duration;

/// The counters of one pool.
#[derive(Debug, Default)]
pub struct Traffic {
    totals: Cell<Totals>,
}

/// What they stand at.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Transactions that have ended.
    pub transactions: u64,
    /// ReadyForQuery messages to clients: simple queries and Syncs.
    pub queries: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// From the first byte to a server to the end of the transaction, all transactions together.
    pub transaction_time: Duration,
    /// From bytes to a server to its ReadyForQuery, all together.
    pub query_time: Duration,
    /// How long clients have waited for a connection, all together.
    pub wait_time: Duration,
}

impl Totals {
    /// Adds those of another pool.
    pub fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.transaction_time += other.transaction_time;
        self.query_time += other.query_time;
        self.wait_time += other.wait_time;
    }
}

impl Traffic {
    /// What the counters stand at.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals.get()
    }

    /// Changes them.
    pub fn add(&self, change: impl FnOnce(&mut Totals)) {
        let mut totals = self.totals.get();
        change(&mut totals);
        self.totals.set(totals);
    }
}
