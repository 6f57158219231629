//! What all clients have met.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clients::Kind;

/// Most complaints that are kept: the first ones tell the most.
const COMPLAINTS_MAX: usize = 50;

/// Counters of a round, and the complaints of the whole soak.
pub(crate) struct Tally {
    answers: AtomicU64,
    served: [AtomicU64; Kind::ALL.len()],
    errors: Mutex<BTreeMap<String, u64>>,
    complaints: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            answers: AtomicU64::new(0),
            served: [const { AtomicU64::new(0) }; Kind::ALL.len()],
            errors: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

    /// One right answer.
    pub(crate) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// One session that went as it should.
    pub(crate) fn served(&self, kind: Kind) {
        self.served[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many sessions of each kind went as they should, since the beginning.
    pub(crate) fn sessions(&self) -> [u64; Kind::ALL.len()] {
        self.served.each_ref().map(|served| served.load(Ordering::Relaxed))
    }

    /// An error that a client saw, expected or not.
    pub(crate) fn error(&self, sqlstate: &str) {
        *lock(&self.errors).entry(sqlstate.to_owned()).or_default() += 1;
    }

    /// Something that should not have been.
    pub(crate) fn complain(&self, what: String) {
        eprintln!("{} COMPLAINT {what}", humantime::format_rfc3339_seconds(std::time::SystemTime::now()));
        let mut complaints = lock(&self.complaints);
        if complaints.len() < COMPLAINTS_MAX {
            complaints.push(what);
        }
    }

    /// What should not have been, the first ones.
    pub(crate) fn complaints(&self) -> Vec<String> {
        lock(&self.complaints).clone()
    }

    /// Right answers and errors since the last call.
    pub(crate) fn take(&self) -> (u64, BTreeMap<String, u64>) {
        (self.answers.swap(0, Ordering::Relaxed), std::mem::take(&mut lock(&self.errors)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
