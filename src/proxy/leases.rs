//! This instance's part of what servers give all instances over one registry together.
//!
//! A round tells the registry what is held, needed and asked for of each server with a bound, and hears what all instances have; what is
//! this one's by that is its quotas' bound until the next. So no client's query waits for the registry, and none for another instance.
//! What counts there is what an instance may have, not what it has: the sum is never more than the server's bound. An instance that has more
//! than its part bounds itself first and gives back afterwards, as connections are closed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::backend::Quotas;
use crate::pool::{Claim, Holding, Quota, partition};
use crate::registry::{Ask, Lease, Leases, Registry, RegistryError, Wish};
use crate::tenant::ServerName;

/// Time from one round to the next where nothing is to be had or given back.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);
/// The same where something is.
const HASTE: Duration = Duration::from_millis(100);
/// Rounds are never closer to each other than this.
const BREATH: Duration = Duration::from_millis(20);
/// How long a round that was rung for and changed nothing is the last that is rung for.
const REST: Duration = Duration::from_millis(500);
/// A registry that has no leases is asked again after this long.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// What was needed at any time within this long counts as needed: connections shall not go to and fro with every wave of clients.
const NEED_WINDOW: Duration = Duration::from_secs(3);
/// How long the end waits for servers to close what was theirs, and for the last round.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// One instance among those that share servers.
pub(super) struct Leasing {
    id: Uuid,
    registry: Registry,
    quotas: Arc<Quotas>,
    /// Something is wanted that is not leased, or it ends.
    rung: Arc<Notify>,
    leaving: AtomicBool,
    over: AtomicBool,
}

impl Leasing {
    /// Over a registry that has leases, no server's connections are this instance's own to begin with; over a file, all are.
    pub(super) fn new(registry: &Registry) -> Arc<Self> {
        let rung = Arc::new(Notify::new());
        let quotas = match registry.lease_ttl() {
            Some(_) => {
                let rung = Arc::clone(&rung);
                Quotas::leased(Arc::new(move || rung.notify_one()))
            }
            None => Quotas::default(),
        };
        let (registry, quotas) = (registry.clone(), Arc::new(quotas));
        let (leaving, over) = Default::default();
        Arc::new(Self { id: Uuid::new_v4(), registry, quotas, rung, leaving, over })
    }

    /// What servers and tenants may have here.
    pub(super) const fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// Holds the leases, until they end.
    pub(super) async fn keep(self: Arc<Self>) {
        if self.registry.lease_ttl().is_none() {
            return;
        }
        let mut rounds = Rounds::default();
        let mut was_rung = false;
        loop {
            let pause = rounds.next(&self).await;
            if self.over.load(Ordering::Acquire) {
                return;
            }
            let quiet = was_rung && pause >= ROUND_INTERVAL;
            sleep(if quiet { REST } else { BREATH }).await;
            tokio::select! {
                () = self.rung.notified() => was_rung = true,
                () = sleep(pause) => was_rung = false,
            }
        }
    }

    /// This instance drains: it keeps only what it has use for.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.rung.notify_one();
    }

    /// Gives everything back, when the servers have let go of it.
    pub(super) async fn end(&self, mut keeping: JoinHandle<()>) {
        let gone = async {
            while self.holdings().any(|(_, _, holding)| holding.used > 0) {
                sleep(BREATH).await;
            }
        };
        if timeout(END_TIMEOUT, gone).await.is_err() {
            tracing::warn!("a server has not ended its sessions yet; what it gives others is counted without them");
        }
        self.over.store(true, Ordering::Release);
        self.rung.notify_one();
        if timeout(END_TIMEOUT, &mut keeping).await.is_err() {
            keeping.abort();
        }
        if self.registry.lease_ttl().is_some()
            && self.holdings().next().is_some()
            && let Err(error) = self.registry.end_leases(self.id).await
        {
            tracing::debug!(%error, "others learn only later that this instance's leases are free");
        }
    }

    fn holdings(&self) -> impl Iterator<Item = (ServerName, Arc<Quota>, Holding)> {
        let of_servers = self.quotas.of_servers().into_iter();
        of_servers.filter_map(|(name, quota)| quota.holding().map(|holding| (name, quota, holding)))
    }
}

/// What one instance has told and heard.
#[derive(Default)]
struct Rounds {
    turn: i64,
    known: HashMap<ServerName, Known>,
    /// The last round failed, and that was said.
    failing: bool,
}

/// What is known of one server.
#[derive(Default)]
struct Known {
    /// What was needed and when, less each time: what was less before something was more is not kept.
    needs: VecDeque<(Instant, u32)>,
    /// What the registry last said.
    heard: Option<Leases>,
}

impl Rounds {
    /// One round; how long until another is due.
    async fn next(&mut self, leasing: &Leasing) -> Duration {
        let holdings: Vec<_> = leasing.holdings().collect();
        self.known.retain(|name, _| holdings.iter().any(|(held, ..)| held == name));
        if holdings.is_empty() {
            return ROUND_INTERVAL;
        }
        self.turn += 1;
        let own = Own { id: leasing.id, leaving: leasing.leaving.load(Ordering::Acquire) };
        let (now, known) = (Instant::now(), &mut self.known);
        let wishes = holdings.iter().map(|(name, _, holding)| {
            let known = known.entry(name.clone()).or_default();
            let need = known.need(holding.need, now);
            let ask = known.heard.as_ref().map_or(holding.most, |heard| own.part(heard, need));
            Wish { server: name.clone(), held: holding.held, need, ask }
        });
        let ask = Ask { instance: own.id, turn: self.turn, leaving: own.leaving, wishes: wishes.collect() };
        match leasing.registry.lease(&ask).await {
            Ok(servers) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the registry leases connections of servers again");
                }
                servers.into_iter().map(|heard| self.apply(own, &holdings, heard)).min().unwrap_or(ROUND_INTERVAL)
            }
            Err(error) => self.failed(&holdings, &error),
        }
    }

    /// Takes what is this instance's part of a server now; how long until another round is due.
    fn apply(&mut self, own: Own, holdings: &[(ServerName, Arc<Quota>, Holding)], heard: Leases) -> Duration {
        let Some((_, quota, _)) = holdings.iter().find(|(name, ..)| *name == heard.server) else {
            return ROUND_INTERVAL;
        };
        let Some(lease) = heard.all.iter().find(|lease| lease.instance == own.id).copied() else {
            return ROUND_INTERVAL;
        };
        let part = own.part(&heard, lease.need);
        quota.set_lease(Some(lease.connections.min(part)));
        if let Some(known) = self.known.get_mut(&heard.server) {
            known.heard = Some(heard);
        }
        let is_short = lease.connections < part && lease.connections < lease.need;
        let gives_back = lease.connections > part;
        if is_short || gives_back { HASTE } else { ROUND_INTERVAL }
    }

    /// Goes on with what is leased, whoever else may count it as free meanwhile.
    fn failed(&mut self, holdings: &[(ServerName, Arc<Quota>, Holding)], error: &RegistryError) -> Duration {
        let first = !std::mem::replace(&mut self.failing, true);
        let cause = std::error::Error::source(error).map(ToString::to_string);
        if error.has_no_leases() {
            if first {
                tracing::warn!(%error, cause, "servers' max_connections hold for this instance alone: `pgtenant registry init` is to be run, or this role may not lease");
            }
            holdings.iter().for_each(|(_, quota, _)| quota.set_lease(None));
            self.known.clear();
            return REFUSED_PAUSE;
        }
        if first {
            tracing::warn!(%error, cause, "this instance keeps its part of the servers' connections, and gets no more");
        }
        for (name, quota, holding) in holdings {
            let never = self.known.get(name).is_none_or(|known| known.heard.is_none());
            if never && holding.lease == Some(0) {
                // The registry never said what is its: one is little enough, and known tenants are served.
                quota.set_lease(Some(1));
            }
        }
        ROUND_INTERVAL
    }
}

impl Known {
    /// The most that was needed of late.
    fn need(&mut self, need: u32, now: Instant) -> u32 {
        self.needs.retain(|(at, before)| *before > need && now.duration_since(*at) < NEED_WINDOW);
        self.needs.push_back((now, need));
        self.needs.front().map_or(need, |(_, most)| *most)
    }
}

/// This instance among the others.
#[derive(Clone, Copy)]
struct Own {
    id: Uuid,
    leaving: bool,
}

impl Own {
    /// Its part of a server of which it needs so many.
    fn part(self, heard: &Leases, need: u32) -> u32 {
        let is_own = |lease: &&Lease| lease.instance == self.id;
        let claim = |lease: &Lease| {
            let (need, leaving) = if is_own(&lease) { (need, self.leaving) } else { (lease.need, lease.leaving) };
            Claim { need, leaving }
        };
        let claims: Vec<_> = heard.all.iter().map(claim).collect();
        let at = heard.all.iter().take_while(|lease| !is_own(lease)).count();
        partition(heard.most, &claims, heard.period).get(at).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_kept_for_a_while_after_it_has_become_less() {
        let (mut known, start) = (Known::default(), Instant::now());
        let mut at = |ms: u64, need| known.need(need, start + Duration::from_millis(ms));
        assert_eq!([at(0, 3), at(500, 9), at(1000, 2), at(2000, 5), at(3000, 1)], [3, 9, 9, 9, 9]);
        assert_eq!([at(3600, 1), at(5200, 0), at(9000, 0)], [5, 1, 0]);
    }
}
