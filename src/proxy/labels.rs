//! Metric labels from the outside, kept to a bounded number: the rest is counted under `other`.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Most different values of one label.
const VALUES_MAX: usize = 200;
/// The label of everything beyond.
const OTHER: &str = "other";

/// The values seen so far.
#[derive(Default)]
pub(super) struct Labels {
    logins: Mutex<HashSet<String>>,
    addresses: Mutex<HashSet<String>>,
}

impl Labels {
    /// The label for a login.
    pub(super) fn login(&self, login: &str) -> String {
        bounded(&self.logins, login)
    }

    /// The label for a peer: its address without the port.
    pub(super) fn address(&self, peer: &str) -> String {
        let address =
            peer.parse::<std::net::SocketAddr>().map_or_else(|_| peer.to_owned(), |peer| peer.ip().to_string());
        bounded(&self.addresses, &address)
    }
}

fn bounded(seen: &Mutex<HashSet<String>>, value: &str) -> String {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.contains(value) {
        return value.to_owned();
    }
    if seen.len() < VALUES_MAX {
        seen.insert(value.to_owned());
        return value.to_owned();
    }
    OTHER.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_addresses_lose_their_port() {
        let labels = Labels::default();
        assert_eq!(labels.address("127.0.0.1:5555"), "127.0.0.1");
        for number in 0..VALUES_MAX {
            assert_eq!(labels.login(&number.to_string()), number.to_string());
        }
        assert_eq!(labels.login("one more"), OTHER);
        assert_eq!(labels.login("1"), "1");
    }
}
