//! Which thread a new client begins on: the one where the last client from the same address had its placement, so that it need not
//! move after its login. A guess, of which nothing but a move depends.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use rapidhash::fast::RapidHasher;

use crate::net::Peer;

/// Addresses that are kept apart; others share a guess.
const GUESSES: usize = 256;

/// The guesses, by address.
pub(super) struct Homes(Vec<AtomicUsize>);

impl Homes {
    /// As many addresses begin with each of the threads.
    pub(super) fn new(threads: usize) -> Self {
        Self((0..GUESSES).map(|index| AtomicUsize::new(index % threads.max(1))).collect())
    }

    /// Where a client from there is likely to end up.
    pub(super) fn guess(&self, peer: &Peer) -> usize {
        self.of(peer).load(Ordering::Relaxed)
    }

    /// A client from there, who has proved itself, has its placement on this thread.
    pub(super) fn learn(&self, peer: &Peer, home: usize) {
        let guess = self.of(peer);
        // What is written is taken out of the other threads' caches.
        if guess.load(Ordering::Relaxed) != home {
            guess.store(home, Ordering::Relaxed);
        }
    }

    fn of(&self, peer: &Peer) -> &AtomicUsize {
        let mut hasher = RapidHasher::default();
        match peer {
            Peer::Tcp(address) => address.ip().hash(&mut hasher),
            Peer::Unix | Peer::Gone => {}
        }
        &self.0[usize::try_from(hasher.finish() % GUESSES as u64).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Tcp(address.parse().unwrap())
    }

    #[test]
    fn a_client_is_expected_where_the_last_one_from_its_address_went() {
        let homes = Homes::new(4);
        for home in [3, 1, 1] {
            homes.learn(&peer("10.0.0.1:5000"), home);
            assert_eq!(homes.guess(&peer("10.0.0.1:6000")), home);
        }
        homes.learn(&Peer::Unix, 2);
        assert_eq!(homes.guess(&Peer::Unix), 2);
    }

    #[test]
    fn strangers_are_spread_over_the_threads() {
        let homes = Homes::new(3);
        let mut counts = [0; 3];
        (0..=255).for_each(|host| counts[homes.guess(&peer(&format!("10.0.0.{host}:1")))] += 1);
        assert!(counts.iter().all(|count| *count > 40), "{counts:?}");
    }
}
