//! Which of pgtenant's prepared statements a server connection has.

use std::collections::{BTreeMap, HashMap};

/// A statement's number.
pub type StatementId = u32;

/// What has to be done before a statement can be used on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// Nothing: it is there.
    There,
    /// Parse it.
    Parse,
    /// Close the old one of the same name, then parse it.
    Again,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    used: u64,
    /// Its plan is out of date: it must be closed and parsed again.
    stale: bool,
}

/// The prepared statements of one connection, least recently used ones given up beyond a bound.
#[derive(Debug, Default)]
pub struct PreparedSet {
    entries: HashMap<StatementId, Entry>,
    /// By their last use: a client may leave any number of them in one batch, and each new one looks for the oldest.
    by_use: BTreeMap<u64, StatementId>,
    clock: u64,
    /// The one used last, if it is there and good.
    last: Option<StatementId>,
    batch: u64,
    /// Changes of schemas that they were prepared after.
    changes: u64,
}

impl PreparedSet {
    /// From here on, statements used before may be given up: no portal of theirs can be open any more.
    pub fn batch_begins(&mut self) {
        self.batch = self.clock;
    }

    /// Notes a use; what has to be done first.
    pub fn use_statement(&mut self, id: StatementId) -> Preparation {
        // As a batch does, which prepares, binds and describes the same one: nothing changes by that.
        if self.last == Some(id) && self.clock > self.batch {
            return Preparation::There;
        }
        match self.enter(id, false) {
            None => Preparation::Parse,
            Some(old) if old.stale => Preparation::Again,
            Some(_) => Preparation::There,
        }
    }

    /// A statement to be closed because there are more than `max`; none that is in use in this batch.
    pub fn surplus(&mut self, max: usize) -> Option<StatementId> {
        if self.entries.len() <= max {
            return None;
        }
        let oldest = self.by_use.first_entry().filter(|oldest| *oldest.key() <= self.batch)?;
        let id = oldest.remove();
        self.entries.remove(&id);
        Some(id)
    }

    /// Whether a statement is there is not known: the message that prepared or closed it was not answered.
    pub fn doubt(&mut self, id: StatementId) {
        self.enter(id, true);
    }

    fn enter(&mut self, id: StatementId, stale: bool) -> Option<Entry> {
        self.clock += 1;
        self.last = (!stale).then_some(id);
        let old = self.entries.insert(id, Entry { used: self.clock, stale });
        if let Some(old) = &old {
            self.by_use.remove(&old.used);
        }
        self.by_use.insert(self.clock, id);
        old
    }

    /// All are out of date if schemas have changed since.
    pub fn follow(&mut self, changes: u64) {
        if self.changes != changes {
            self.changes = changes;
            self.expire();
        }
    }

    /// All are gone.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_use.clear();
        self.last = None;
    }

    /// All are out of date.
    pub fn expire(&mut self) {
        self.last = None;
        self.entries.values_mut().for_each(|entry| entry.stale = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first_but_never_one_of_this_batch() {
        let mut set = PreparedSet::default();
        for id in [1, 2, 3] {
            assert_eq!(set.use_statement(id), Preparation::Parse);
        }
        assert_eq!(set.surplus(2), None, "all are of this batch");
        set.batch_begins();
        assert_eq!(set.use_statement(1), Preparation::There);
        assert_eq!(set.surplus(2), Some(2));
        assert_eq!(set.surplus(2), None);
        assert_eq!(set.use_statement(2), Preparation::Parse);
    }

    #[test]
    fn a_stale_statement_is_prepared_again_once() {
        let mut set = PreparedSet::default();
        set.use_statement(1);
        set.expire();
        assert_eq!(set.use_statement(1), Preparation::Again);
        assert_eq!(set.use_statement(1), Preparation::There);
        set.doubt(1);
        assert_eq!(set.use_statement(1), Preparation::Again);
    }

    #[test]
    fn a_statement_used_in_the_last_batch_and_in_this_one_is_not_given_up_in_this_one() {
        let mut set = PreparedSet::default();
        set.use_statement(1);
        set.batch_begins();
        assert_eq!(set.use_statement(1), Preparation::There);
        assert_eq!(set.use_statement(1), Preparation::There);
        assert_eq!(set.surplus(0), None);
        set.clear();
        assert_eq!(set.use_statement(1), Preparation::Parse);
    }
}
