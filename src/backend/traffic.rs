//! What has passed through a pool: counters of one thread, read when somebody looks.

use std::cell::{Cell, OnceCell};
use std::ops::AddAssign;
use std::rc::Rc;
use std::time::Duration;

/// The counters of one pool.
#[derive(Debug, Default)]
pub struct Traffic {
    totals: Cell<Totals>,
    heir: OnceCell<Rc<Traffic>>,
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

    /// Who gets what has been counted here when this goes.
    pub fn bequeath(&self, heir: &Rc<Self>) {
        self.heir.get_or_init(|| Rc::clone(heir));
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        if let Some(heir) = self.heir.get() {
            heir.add(|totals| *totals += self.totals());
        }
    }
}

impl Totals {
    /// What has come since it stood at `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            transactions: self.transactions.saturating_sub(before.transactions),
            queries: self.queries.saturating_sub(before.queries),
            received_bytes: self.received_bytes.saturating_sub(before.received_bytes),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            transaction_time: self.transaction_time.saturating_sub(before.transaction_time),
            query_time: self.query_time.saturating_sub(before.query_time),
            wait_time: self.wait_time.saturating_sub(before.wait_time),
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, more: Self) {
        self.transactions += more.transactions;
        self.queries += more.queries;
        self.received_bytes += more.received_bytes;
        self.sent_bytes += more.sent_bytes;
        self.transaction_time += more.transaction_time;
        self.query_time += more.query_time;
        self.wait_time += more.wait_time;
    }
}
