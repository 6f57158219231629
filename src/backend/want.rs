//! What sessions want of pools, and how alike two wants are.

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use aws_lc_rs::digest::{SHA256, digest as sha256};

use crate::pool::Lane;

/// What a session wants of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The [`digest`] of `startup`.
    pub class: u64,
    /// The [`digest`] of what will be asserted, so that a connection that already serves it is preferred.
    pub affinity: u64,
    /// Settings of the start, as startup parameters.
    pub startup: Vec<(String, String)>,
    /// A schema that must exist.
    pub require_schema: Option<String>,
    /// Where it waits for its turn, on a pool that serves other tenants as well.
    pub lane: Option<Rc<Lane>>,
}

/// A digest that is the same in all threads and runs of one build, and that nobody can aim at another's by chance.
#[must_use]
pub fn digest<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = Sha256(Vec::with_capacity(DIGESTED_BYTES));
    value.hash(&mut hasher);
    hasher.finish()
}

/// Room for what is digested of an ordinary session.
const DIGESTED_BYTES: usize = 256;

/// Gathers what is to be digested: many small pieces cost more than the digest.
struct Sha256(Vec<u8>);

impl Hasher for Sha256 {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        sha256(&SHA256, &self.0).as_ref().first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_knows_settings_apart() {
        assert_eq!(digest(&[("a", "1")]), digest(&[("a".to_owned(), "1".to_owned())]));
        assert_ne!(digest(&[("a", "1"), ("b", "2")]), digest(&[("a", "2"), ("b", "1")]));
        assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
        assert_ne!(digest::<[(&str, &str)]>(&[]), digest(&[("", "")]));
    }
}
