//! Who names a tenant and who still does not, by login and address: what tells an operator when the next phase of the default tenant may begin.
//! Logins and addresses come from outside, so only so many are kept apart; the rest is counted together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use crate::metrics::{DEFAULT_TENANT_LOGINS, NAMED_TENANT_LOGINS};

/// Most pairs of login and address that are kept apart.
const PAIRS_MAX: usize = 1000;
/// The login and address of everything beyond.
const OTHER: &str = "other";

/// What became of a client, as far as naming its tenant goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// It named its tenant.
    Itself,
    /// It named none and was let in.
    ByDefault,
    /// It named none and was refused.
    Refused,
}

/// The logins from one address since the proxy started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The login.
    pub login: String,
    /// The address, without its port.
    pub address: String,
    /// How many named their tenant.
    pub named: u64,
    /// How many named none and went to the default tenant.
    pub by_default: u64,
    /// How many named none and were refused.
    pub refused: u64,
}

/// The counts so far.
#[derive(Default)]
pub(super) struct Adoption {
    seen: Mutex<BTreeMap<(String, String), Adopted>>,
}

impl Adoption {
    /// Counts a client, here and in the metrics.
    pub(super) fn count(&self, login: &str, peer: &str, named: Named) {
        let address = peer.parse::<SocketAddr>().map_or_else(|_| peer.to_owned(), |peer| peer.ip().to_string());
        let mut key = (login.to_owned(), address);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= PAIRS_MAX && !seen.contains_key(&key) {
            key = (OTHER.to_owned(), OTHER.to_owned());
        }
        let (login, address) = key.clone();
        let entry = seen.entry(key).or_insert_with(|| Adopted { login, address, ..Adopted::default() });
        let (login, address) = (entry.login.clone(), entry.address.clone());
        match named {
            Named::Itself => entry.named += 1,
            Named::ByDefault => entry.by_default += 1,
            Named::Refused => entry.refused += 1,
        }
        drop(seen);
        let counter = match named {
            Named::Itself => metrics::counter!(NAMED_TENANT_LOGINS, "login" => login, "address" => address),
            Named::ByDefault => {
                metrics::counter!(DEFAULT_TENANT_LOGINS, "login" => login, "address" => address, "result" => "served")
            }
            Named::Refused => {
                metrics::counter!(DEFAULT_TENANT_LOGINS, "login" => login, "address" => address, "result" => "refused")
            }
        };
        counter.increment(1);
    }

    /// All counts, by login and address.
    pub(super) fn list(&self) -> Vec<Adopted> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_counted_by_login_and_address_and_the_surplus_together() {
        let adoption = Adoption::default();
        adoption.count("app", "10.0.0.1:5555", Named::ByDefault);
        adoption.count("app", "10.0.0.1:5556", Named::Itself);
        adoption.count("app", "10.0.0.2:5555", Named::Refused);
        let counts: Vec<_> =
            adoption.list().into_iter().map(|one| (one.address, one.named, one.by_default, one.refused)).collect();
        assert_eq!(counts, [("10.0.0.1".to_owned(), 1, 1, 0), ("10.0.0.2".to_owned(), 0, 0, 1)]);
        for number in 0..2 * PAIRS_MAX {
            adoption.count(&number.to_string(), "unix", Named::ByDefault);
        }
        adoption.count("app", "10.0.0.1:1", Named::ByDefault);
        let list = adoption.list();
        assert_eq!(list.len(), PAIRS_MAX + 1);
        assert_eq!(list.iter().map(|one| one.by_default).sum::<u64>(), 2 * PAIRS_MAX as u64 + 2);
        assert!(list.iter().any(|one| one.address == "10.0.0.1" && one.by_default == 2));
    }
}
