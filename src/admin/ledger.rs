//! Traffic by tenant in a bounded number of accounts: those with the most have their own, the rest is one.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::plane::Moment;
use crate::backend::Totals;
use crate::tenant::TenantId;

/// How long until what a tenant did counts half for its rank.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// A tenant takes another's account only if it does so many times as much: accounts should not change hands all the time.
const LEAD: f64 = 2.0;
/// Who does less than this is not ranked.
const SCORE_MIN: f64 = 0.01;

/// What the counters have come to since the process began. They never go back, whatever pools come and go, but for those of
/// a tenant that loses its account, which are gone.
#[derive(Debug)]
pub(super) struct Ledger {
    accounts_max: usize,
    /// The sum over all tenants when it was last looked at.
    seen: Totals,
    /// The same by tenant, of pools that were there.
    seen_by_tenant: HashMap<TenantId, Totals>,
    scores: HashMap<TenantId, f64>,
    scored_at: Option<Instant>,
    accounts: HashMap<TenantId, Totals>,
    other: Totals,
}

impl Ledger {
    pub(super) fn new(accounts_max: usize) -> Self {
        Self {
            accounts_max,
            seen: Totals::default(),
            seen_by_tenant: HashMap::new(),
            scores: HashMap::new(),
            scored_at: None,
            accounts: HashMap::new(),
            other: Totals::default(),
        }
    }

    /// Books what has happened since the last time. A moment that a thread was silent about waits for the next.
    pub(super) fn book(&mut self, moment: &Moment, now: Instant) {
        if moment.silent_threads > 0 {
            return;
        }
        let mut seen = Totals::default();
        let mut seen_by_tenant: HashMap<TenantId, Totals> = HashMap::new();
        for thread in &moment.threads {
            seen += thread.departed;
            for pool in &thread.pools {
                seen += pool.totals;
                if let Some(tenant) = pool.key.tenant {
                    *seen_by_tenant.entry(tenant).or_default() += pool.totals;
                }
            }
        }
        let mut rest = seen.since(self.seen);
        let news: HashMap<TenantId, Totals> = seen_by_tenant
            .iter()
            .map(|(id, totals)| (*id, totals.since(self.seen_by_tenant.get(id).copied().unwrap_or_default())))
            .collect();
        self.rank(&news, now);
        for (id, account) in &mut self.accounts {
            let new = news.get(id).copied().unwrap_or_default();
            *account += new;
            rest = rest.since(new);
        }
        self.other += rest;
        (self.seen, self.seen_by_tenant) = (seen, seen_by_tenant);
    }

    /// The accounts, and the rest.
    pub(super) fn accounts(&self) -> (&HashMap<TenantId, Totals>, Totals) {
        (&self.accounts, self.other)
    }

    /// Who does how much these days, and who gets an account for it.
    fn rank(&mut self, news: &HashMap<TenantId, Totals>, now: Instant) {
        let passed = self.scored_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.scored_at = Some(now);
        let fading = 0.5_f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        for score in self.scores.values_mut() {
            *score *= fading;
        }
        for (id, new) in news {
            *self.scores.entry(*id).or_default() += weight(new);
        }
        self.scores.retain(|_, score| *score >= SCORE_MIN);
        let mut ranked: Vec<(TenantId, f64)> = self.scores.iter().map(|(id, score)| (*id, *score)).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        // No more than the accounts can matter, and what is kept is bounded by it.
        ranked.truncate(self.accounts_max);
        let top: HashSet<TenantId> = ranked.iter().map(|(id, _)| *id).collect();
        for (id, score) in ranked {
            if self.accounts.contains_key(&id) {
                continue;
            }
            if self.accounts.len() >= self.accounts_max {
                let held = self.accounts.keys().filter(|held| !top.contains(held));
                let weakest = held.min_by(|a, b| self.score(**a).total_cmp(&self.score(**b))).copied();
                let Some(weakest) = weakest.filter(|held| score > LEAD * self.score(*held)) else { continue };
                self.accounts.remove(&weakest);
            }
            self.accounts.insert(id, Totals::default());
        }
    }

    fn score(&self, id: TenantId) -> f64 {
        self.scores.get(&id).copied().unwrap_or_default()
    }
}

/// How much traffic it is: a query counts as much as 4 KiB.
#[expect(clippy::cast_precision_loss, reason = "a rank needs no precision")]
pub(super) fn weight(totals: &Totals) -> f64 {
    totals.queries as f64 + (totals.received_bytes + totals.sent_bytes) as f64 / 4096.0
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::backend::{PoolKey, PoolState, ServerAddress};
    use crate::session::{SessionTimes, Sessions, ThreadState};
    use crate::tenant::{ModuleName, ServerName, SslMode};

    fn pool(tenant: u128, queries: u64) -> PoolState {
        let (name, host) = (ServerName::parse("main").unwrap(), "h".to_owned());
        let address = ServerAddress { name, host, port: 1, sslmode: SslMode::Disable, ca_file: None };
        let module = ModuleName::parse("m").unwrap();
        let key = PoolKey {
            tenant: Some(TenantId(Uuid::from_u128(tenant))),
            module,
            address,
            database: "d".to_owned(),
            user: "u".to_owned(),
        };
        PoolState {
            key,
            stats: crate::pool::Stats::default(),
            size: 1,
            totals: Totals { queries, ..Totals::default() },
            idle: Vec::new(),
            backing_off: false,
            last_error: None,
            retired: false,
        }
    }

    fn moment(pools: &[(u128, u64)], departed: u64) -> Moment {
        let thread = ThreadState {
            sessions: Sessions::default(),
            times: SessionTimes::default(),
            pools: pools.iter().map(|(tenant, queries)| pool(*tenant, *queries)).collect(),
            departed: Totals { queries: departed, ..Totals::default() },
        };
        Moment { threads: vec![thread], ..Moment::default() }
    }

    /// The queries of a tenant, if it has an account, and of the rest.
    fn queries(ledger: &Ledger, tenant: u128) -> (Option<u64>, u64) {
        let (accounts, other) = ledger.accounts();
        (accounts.get(&TenantId(Uuid::from_u128(tenant))).map(|totals| totals.queries), other.queries)
    }

    #[test]
    fn what_a_vanished_pool_had_counted_stays_counted() {
        let (mut ledger, now) = (Ledger::new(1), Instant::now());
        ledger.book(&moment(&[(1, 10), (2, 3)], 0), now);
        assert_eq!(queries(&ledger, 1), (Some(10), 3));
        // Five more, then its pool goes, and another of the same tenant comes.
        ledger.book(&moment(&[(2, 3)], 15), now);
        assert_eq!(queries(&ledger, 1), (Some(10), 8));
        ledger.book(&moment(&[(1, 4), (2, 3)], 15), now);
        assert_eq!(queries(&ledger, 1), (Some(14), 8));
    }

    #[test]
    fn a_silent_thread_takes_nothing_away() {
        let (mut ledger, now) = (Ledger::new(1), Instant::now());
        ledger.book(&moment(&[(1, 10)], 0), now);
        ledger.book(&Moment { silent_threads: 1, ..Moment::default() }, now);
        assert_eq!(queries(&ledger, 1), (Some(10), 0));
        ledger.book(&moment(&[(1, 11)], 0), now);
        assert_eq!(queries(&ledger, 1), (Some(11), 0));
    }

    #[test]
    fn an_account_goes_to_another_tenant_only_when_that_one_does_far_more() {
        let (mut ledger, now) = (Ledger::new(1), Instant::now());
        ledger.book(&moment(&[(1, 100), (2, 0)], 0), now);
        ledger.book(&moment(&[(1, 100), (2, 150)], 0), now);
        assert_eq!((queries(&ledger, 1), queries(&ledger, 2)), ((Some(100), 150), (None, 150)));
        ledger.book(&moment(&[(1, 100), (2, 1000)], 0), now);
        assert_eq!((queries(&ledger, 1), queries(&ledger, 2)), ((None, 150), (Some(850), 150)));
        // Long ago counts little.
        ledger.book(&moment(&[(1, 200), (2, 1000)], 0), now + 10 * HALF_LIFE);
        assert_eq!(queries(&ledger, 1), (Some(100), 150));
    }
}
