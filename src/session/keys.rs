//! Cancel keys: the proxy's own, by which a cancel request finds its session and never anybody else's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use rand::RngExt;

/// Bytes of a key for protocol 3.0, which knows no other length.
const KEY_BYTES_3_0: usize = 4;
/// Bytes of a key for protocol 3.2.
const KEY_BYTES_3_2: usize = 32;

/// Where a cancel request has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The thread that runs the session.
    pub thread: usize,
    /// The session's number.
    pub session: u64,
}

struct Entry {
    secret: Box<[u8]>,
    owner: Owner,
}

/// All keys that this process gave out.
#[derive(Clone, Default)]
pub struct CancelKeys {
    entries: Arc<Mutex<HashMap<i32, Vec<Entry>>>>,
}

/// A key while its session lives.
pub struct CancelKey {
    /// The process id that the client is told.
    pub process_id: i32,
    /// The secret that the client is told.
    pub secret: Box<[u8]>,
    keys: CancelKeys,
    owner: Owner,
}

impl CancelKeys {
    /// A new key; `process_id` is the server's own in session mode, and chosen here otherwise.
    #[must_use]
    pub fn issue(&self, process_id: Option<i32>, long: bool, owner: Owner) -> CancelKey {
        let mut random = rand::rng();
        let mut secret = vec![0; if long { KEY_BYTES_3_2 } else { KEY_BYTES_3_0 }].into_boxed_slice();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let process_id = process_id.unwrap_or_else(|| {
            loop {
                let candidate = random.random_range(1..=i32::MAX);
                if !entries.contains_key(&candidate) {
                    break candidate;
                }
            }
        });
        let known = entries.entry(process_id).or_default();
        // Two sessions on two servers may have one process id; their secrets must differ.
        loop {
            random.fill(&mut secret[..]);
            if known.iter().all(|entry| entry.secret != secret) {
                break;
            }
        }
        known.push(Entry { secret: secret.clone(), owner });
        CancelKey { process_id, secret, keys: self.clone(), owner }
    }

    /// Whose key this is: process id and secret together.
    #[must_use]
    pub fn find(&self, process_id: i32, secret: &[u8]) -> Option<Owner> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(&process_id)?
            .iter()
            .find(|entry| verify_slices_are_equal(&entry.secret, secret).is_ok())
            .map(|entry| entry.owner)
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        let mut entries = self.keys.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = entries.get_mut(&self.process_id) {
            known.retain(|entry| entry.owner != self.owner);
            if known.is_empty() {
                entries.remove(&self.process_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_session_until_it_ends_and_nothing_else_does() {
        let keys = CancelKeys::default();
        let (one, two) = (Owner { thread: 0, session: 1 }, Owner { thread: 1, session: 2 });
        let first = keys.issue(Some(7), true, one);
        let second = keys.issue(Some(7), false, two);
        assert_eq!(first.secret.len(), 32);
        assert_eq!(keys.find(7, &first.secret), Some(one));
        assert_eq!(keys.find(7, &second.secret), Some(two));
        assert_eq!(keys.find(8, &first.secret), None);
        assert_eq!(keys.find(7, &first.secret[..4]), None);
        let secret = first.secret.clone();
        drop(first);
        assert_eq!(keys.find(7, &secret), None);
        assert_eq!(keys.find(7, &second.secret), Some(two));
    }
}
