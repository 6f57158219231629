//! Which of pgtenant's prepared statements a server connection has.

use std::collections::HashMap;

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
    clock: u64,
    batch: u64,
}

impl PreparedSet {
    /// From here on, statements used before may be given up: no portal of theirs can be open any more.
    pub fn batch_begins(&mut self) {
        self.batch = self.clock;
    }

    /// Notes a use; what has to be done first.
    pub fn use_statement(&mut self, id: StatementId) -> Preparation {
        self.clock += 1;
        let fresh = Entry { used: self.clock, stale: false };
        match self.entries.insert(id, fresh) {
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
        let batch = self.batch;
        let old = self.entries.iter().filter(|(_, entry)| entry.used <= batch);
        let id = old.min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id)?;
        self.entries.remove(&id);
        Some(id)
    }

    /// A statement was not prepared after all, or is gone.
    pub fn forget(&mut self, id: StatementId) {
        self.entries.remove(&id);
    }

    /// All are gone.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// All are out of date.
    pub fn expire(&mut self) {
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
        set.forget(1);
        assert_eq!(set.use_statement(1), Preparation::Parse);
    }
}
