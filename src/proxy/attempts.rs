//! Failed logins: who fails again and again is made to wait, the longer the more often, whether or not there is such a login.
//!
//! Failures are counted by address and by the tenant and login that were named, and forgotten after a success. Whoever waits is then let try,
//! so that a right password always succeeds; only where a crowd waits already do the rest fail whatever they say, in the same
//! words and time.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::Peer;

/// Failures in a row that cost nothing.
const FREE: u32 = 5;
/// How long the first one to wait does; each further failure doubles that.
const DELAY_FIRST: Duration = Duration::from_millis(100);
/// Most that wait at one time for one login from one address.
const WAITING_MAX: u32 = 16;
/// Failures are forgotten after this long.
const MEMORY: Duration = Duration::from_secs(600);
/// Most addresses that are kept apart; the one that has been quiet the longest makes room.
const ADDRESSES_MAX: usize = 10_000;
/// Most logins that are kept apart for one address.
const NAMES_MAX: usize = 64;
/// The rest is counted as so many. Where all clients have the address of a balancer that does not tell theirs, whoever fails with many names
/// slows few of the others, and does not choose whom: which names are counted together is this process' secret. To keep all of
/// them waiting takes as many crowds.
const GROUPS: u64 = 128;

/// Who has failed of late.
#[derive(Default)]
pub(super) struct Attempts {
    seen: Mutex<HashMap<IpAddr, Address>>,
    hasher: RandomState,
}

struct Address {
    last: Instant,
    /// By the name's hash, or the group's number.
    names: HashMap<u64, Failures>,
}

impl Address {
    /// What a name with this hash is counted as.
    fn name(&self, hash: u64) -> u64 {
        let own = own_name(hash);
        let is_apart = self.names.len() < NAMES_MAX
            || self.names.contains_key(&own)
            || self.names.keys().filter(|name| **name >= GROUPS).count() < NAMES_MAX;
        if is_apart { own } else { hash % GROUPS }
    }
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    waiting: u32,
}

/// One login under way.
pub(super) struct Attempt<'a> {
    attempts: &'a Attempts,
    name: &'a str,
    /// None for clients of this machine's own socket, who are not counted. With what the name was counted as, where the address had
    /// failures.
    of: Option<(IpAddr, Option<u64>)>,
    is_hopeless: bool,
}

impl Attempts {
    /// Begins a login as this name from there, after the wait that its failures have earned it, at most `delay_max`.
    pub(super) async fn begin<'a>(&'a self, peer: &Peer, name: &'a str, delay_max: Duration) -> Attempt<'a> {
        let mut attempt = Attempt { attempts: self, name, of: None, is_hopeless: false };
        let Peer::Tcp(address) = peer else { return attempt };
        if delay_max.is_zero() {
            return attempt;
        }
        let address = network(address.ip());
        let looked = self.look(address, name, delay_max);
        attempt.of = Some((address, looked.map(|(name, _)| name)));
        let Some((name, delay)) = looked.filter(|(_, delay)| !delay.is_zero()) else { return attempt };
        match Waiting::begin(self, address, name) {
            Some(waiting) => {
                tokio::time::sleep(delay).await;
                drop(waiting);
            }
            None => attempt.is_hopeless = true,
        }
        attempt
    }

    /// What a login is counted as, and how long it waits; none from where nobody has failed.
    fn look(&self, address: IpAddr, name: &str, delay_max: Duration) -> Option<(u64, Duration)> {
        let seen = self.lock();
        let known = seen.get(&address)?;
        let name = known.name(self.hasher.hash_one(name));
        Some((name, known.names.get(&name).map_or(Duration::ZERO, |failures| delay(failures, delay_max))))
    }

    /// What a name is counted as that has a count of its own.
    fn own_name(&self, name: &str) -> u64 {
        own_name(self.hasher.hash_one(name))
    }

    fn failed(&self, address: IpAddr, name: u64) {
        let now = Instant::now();
        let mut seen = self.lock();
        if seen.len() >= ADDRESSES_MAX && !seen.contains_key(&address) {
            let quiet = seen.iter().min_by_key(|(_, known)| known.last).map(|(address, _)| *address);
            quiet.map(|quiet| seen.remove(&quiet));
        }
        let known = seen.entry(address).or_insert_with(|| Address { last: now, names: HashMap::new() });
        known.last = now;
        known.names.retain(|_, failures| failures.waiting > 0 || now - failures.last < MEMORY);
        // Others may have failed since it began.
        let name = if name < GROUPS { name } else { known.name(name) };
        let failures = known.names.entry(name).or_insert(Failures { count: 0, last: now, waiting: 0 });
        (failures.count, failures.last) = (failures.count.saturating_add(1), now);
    }

    fn succeeded(&self, address: IpAddr, name: impl FnOnce() -> u64) {
        let mut seen = self.lock();
        let Some(known) = seen.get_mut(&address) else { return };
        known.names.remove(&name());
        if known.names.is_empty() {
            seen.remove(&address);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Address>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// Whether it fails whatever the client proves.
    pub(super) const fn is_hopeless(&self) -> bool {
        self.is_hopeless
    }

    fn counted_as(&self, name: Option<u64>) -> u64 {
        name.unwrap_or_else(|| self.attempts.own_name(self.name))
    }

    /// How it ended.
    pub(super) fn end(self, is_right: bool) {
        match self.of {
            Some((address, name)) if is_right => self.attempts.succeeded(address, || self.counted_as(name)),
            Some((address, name)) => self.attempts.failed(address, self.counted_as(name)),
            None => {}
        }
    }
}

/// One that waits.
struct Waiting<'a> {
    attempts: &'a Attempts,
    address: IpAddr,
    name: u64,
}

impl<'a> Waiting<'a> {
    fn begin(attempts: &'a Attempts, address: IpAddr, name: u64) -> Option<Self> {
        let mut seen = attempts.lock();
        let failures = seen.get_mut(&address)?.names.get_mut(&name)?;
        if failures.waiting >= WAITING_MAX {
            return None;
        }
        failures.waiting += 1;
        Some(Self { attempts, address, name })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut seen = self.attempts.lock();
        if let Some(failures) = seen.get_mut(&self.address).and_then(|known| known.names.get_mut(&self.name)) {
            failures.waiting = failures.waiting.saturating_sub(1);
        }
    }
}

/// What a name is counted as that is kept apart: below are the groups.
const fn own_name(hash: u64) -> u64 {
    if hash < GROUPS { hash + GROUPS } else { hash }
}

/// How long failures let the next attempt wait.
fn delay(failures: &Failures, delay_max: Duration) -> Duration {
    if failures.count < FREE || failures.last.elapsed() >= MEMORY {
        return Duration::ZERO;
    }
    let doubled = 2_u32.saturating_pow((failures.count - FREE).min(31));
    DELAY_FIRST.saturating_mul(doubled).min(delay_max)
}

/// Whom an address counts as: a site has 2^64 addresses of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(10);

    fn peer(address: &str) -> Peer {
        Peer::Tcp(std::net::SocketAddr::new(address.parse().unwrap(), 1))
    }

    async fn waited(attempts: &Attempts, address: &str, name: &str, is_right: bool) -> Duration {
        let before = Instant::now();
        attempts.begin(&peer(address), name, MAX).await.end(is_right);
        before.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_again_and_again_waits_longer_and_longer_until_a_success() {
        let attempts = Attempts::default();
        for wait in [0, 0, 0, 0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let waited = waited(&attempts, "192.0.2.1", "app", false).await.as_millis();
            // To the tick of the runtime's clock.
            assert!((wait..wait + 3).contains(&waited), "{waited} instead of {wait}");
        }
        assert!(waited(&attempts, "192.0.2.1", "other", false).await.is_zero(), "another login");
        assert!(waited(&attempts, "192.0.2.2", "app", false).await.is_zero(), "another address");
        assert!(
            waited(&attempts, "192.0.2.1", "app", true).await > Duration::from_secs(9),
            "a right password waits, too"
        );
        assert!(waited(&attempts, "192.0.2.1", "app", false).await.is_zero(), "and is the end of it");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_forgotten_in_time_and_an_ipv6_site_is_one_address() {
        let attempts = Attempts::default();
        for last in 0..7 {
            waited(&attempts, &format!("2001:db8::{last}"), "app", false).await;
        }
        assert!(!waited(&attempts, "2001:db8::ffff", "app", false).await.is_zero());
        tokio::time::advance(MEMORY).await;
        assert!(waited(&attempts, "2001:db8::1", "app", false).await.is_zero());
        assert!(waited(&attempts, "2001:db8::1", "app", false).await.is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_does_not_wait_but_fails() {
        let attempts = Attempts::default();
        for _ in 0..20 {
            waited(&attempts, "192.0.2.1", "app", false).await;
        }
        let from = peer("192.0.2.1");
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(attempts.begin(&from, "app", MAX))).collect();
        for one in &mut waiting {
            assert!(tokio::time::timeout(Duration::ZERO, one.as_mut()).await.is_err());
        }
        assert!(attempts.begin(&from, "app", MAX).await.is_hopeless());
        // One that goes away makes room.
        drop(waiting.pop());
        assert!(!attempts.begin(&from, "app", MAX).await.is_hopeless());
    }

    /// A failure that nobody waits for.
    fn fail(attempts: &Attempts, name: &str) {
        let address = network("192.0.2.1".parse().unwrap());
        let name = attempts.look(address, name, MAX).map_or_else(|| attempts.own_name(name), |(name, _)| name);
        attempts.failed(address, name);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_with_a_name_beyond_the_bound_is_in_few_others_way_and_no_success_is_the_end_of_it() {
        let attempts = Attempts::default();
        let from = peer("192.0.2.1");
        for name in 0..NAMES_MAX {
            fail(&attempts, &name.to_string());
        }
        (0..20).for_each(|_| fail(&attempts, "crowd"));
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(attempts.begin(&from, "crowd", MAX))).collect();
        for one in &mut waiting {
            assert!(tokio::time::timeout(Duration::ZERO, one.as_mut()).await.is_err());
        }
        assert!(attempts.begin(&from, "crowd", MAX).await.is_hopeless());
        let mut slowed = 0;
        for other in 0..200 {
            let name = format!("app@{other}");
            let attempt = tokio::time::timeout(Duration::ZERO, attempts.begin(&from, &name, MAX)).await;
            match attempt {
                Ok(attempt) if !attempt.is_hopeless() => attempt.end(true),
                _ => slowed += 1,
            }
        }
        // One of 128, by chance.
        assert!(slowed < 20, "{slowed} of 200");
        assert!(attempts.begin(&from, "crowd", MAX).await.is_hopeless());
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_in_addresses_and_in_names() {
        let attempts = Attempts::default();
        let address = network("192.0.2.1".parse().unwrap());
        for name in 0..NAMES_MAX as u64 + 50 * GROUPS {
            fail(&attempts, &name.to_string());
        }
        assert_eq!(attempts.lock()[&address].names.len(), NAMES_MAX + GROUPS as usize);
        assert!(!waited(&attempts, "192.0.2.1", "a new name", false).await.is_zero(), "new names are no way around");
        for address in 0..ADDRESSES_MAX as u32 + 5 {
            attempts.failed(IpAddr::V4((0x0a00_0000 + address).into()), 1);
        }
        assert_eq!(attempts.lock().len(), ADDRESSES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_where_that_is_switched_off_or_on_the_machines_own_socket() {
        let attempts = Attempts::default();
        for _ in 0..20 {
            attempts.begin(&peer("192.0.2.1"), "app", Duration::ZERO).await.end(false);
            attempts.begin(&Peer::Unix, "app", MAX).await.end(false);
        }
        assert!(attempts.lock().is_empty());
    }
}
