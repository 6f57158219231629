//! Cancel keys: the proxy's own, by which a cancel request finds its session and never anybody else's.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use rand::RngExt;
use rapidhash::RapidHashMap;

/// Bytes of a key for protocol 3.0, which knows no other length.
const KEY_BYTES_3_0: usize = 4;
/// Bytes of a key for protocol 3.2.
const KEY_BYTES_3_2: usize = 32;

/// Bytes of a question to which the proof of a key is the answer.
pub const CANCEL_QUESTION_BYTES: usize = 32;
/// Bytes of a proof.
pub const CANCEL_PROOF_BYTES: usize = 32;

/// The proof that one has a key, good for this question only.
#[must_use]
pub fn cancel_proof(process_id: i32, secret: &[u8], question: &[u8; CANCEL_QUESTION_BYTES]) -> impl AsRef<[u8]> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &told(process_id, question))
}

fn told(process_id: i32, question: &[u8; CANCEL_QUESTION_BYTES]) -> Vec<u8> {
    [&question[..], &process_id.to_be_bytes()].concat()
}

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
    entries: Arc<Mutex<RapidHashMap<i32, Vec<Entry>>>>,
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
        // Nearly always one: what a list makes room for at its first entry would be four times as much.
        let known = entries.entry(process_id).or_insert_with(|| Vec::with_capacity(1));
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
        self.owner(process_id, |known| verify_slices_are_equal(known, secret).is_ok())
    }

    /// Whose key it is of which this is the proof.
    #[must_use]
    pub fn find_proven(
        &self,
        process_id: i32,
        question: &[u8; CANCEL_QUESTION_BYTES],
        proof: &[u8; CANCEL_PROOF_BYTES],
    ) -> Option<Owner> {
        let told = told(process_id, question);
        let proves = |known: &[u8]| hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, known), &told, proof).is_ok();
        self.owner(process_id, proves)
    }

    fn owner(&self, process_id: i32, is_its: impl Fn(&[u8]) -> bool) -> Option<Owner> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(&process_id)?.iter().find(|entry| is_its(&entry.secret)).map(|entry| entry.owner)
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

    #[test]
    fn a_proof_of_a_key_is_good_for_its_question_only() {
        let keys = CancelKeys::default();
        let owner = Owner { thread: 0, session: 1 };
        let key = keys.issue(Some(7), false, owner);
        let (question, another) = ([1; CANCEL_QUESTION_BYTES], [2; CANCEL_QUESTION_BYTES]);
        let proof = |process_id, secret: &[u8], question| -> [u8; CANCEL_PROOF_BYTES] {
            cancel_proof(process_id, secret, question).as_ref().try_into().unwrap()
        };
        let right = proof(7, &key.secret, &question);
        assert_eq!(keys.find_proven(7, &question, &right), Some(owner));
        assert_eq!(keys.find_proven(7, &another, &right), None);
        assert_eq!(keys.find_proven(8, &question, &right), None);
        assert_eq!(keys.find_proven(7, &question, &proof(7, b"else", &question)), None);
        assert_eq!(keys.find_proven(7, &question, &proof(8, &key.secret, &question)), None);
    }
}
