//! `/metrics`: what the recorder holds, and what is read off the data plane.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::exposition::Exposition;
use super::ledger::Ledger;
use super::plane::{Moment, Phase, Plane};
use super::recent::Recent;
use crate::backend::{PoolState, ServerUse, Totals};
use crate::metrics;
use crate::registry::Registry;
use crate::session::Doing;
use crate::tenant::TenantId;

/// Most servers with a label of their own.
const SERVERS_MAX: usize = 100;
/// The label of everybody else.
const OTHER: &str = "other";
/// What has to be remembered from one scrape to the next.
pub(super) struct Scrapes {
    kept: Mutex<Kept>,
}

struct Kept {
    ledger: Ledger,
    recent: Recent,
    /// What tenants with a label are called.
    slugs: HashMap<TenantId, String>,
}

impl Scrapes {
    /// Labels for so many tenants.
    pub(super) fn new(tenants_max: usize) -> Self {
        Self {
            kept: Mutex::new(Kept {
                ledger: Ledger::new(tenants_max),
                recent: Recent::default(),
                slugs: HashMap::new(),
            }),
        }
    }

    /// The whole text.
    pub(super) async fn render(&self, plane: &impl Plane) -> String {
        let mut text = Exposition::default();
        text.family(&metrics::BUILD_INFO).value(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        text.value(&metrics::DRAINING, u8::from(plane.phase() == Phase::Draining));
        let registry = plane.registry();
        if let Some(registry) = &registry {
            of_registry(&mut text, registry);
        }
        if let Some(moment) = plane.moment().await {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            of_process(&mut text, &moment);
            of_times(&mut text, &moment, &mut kept.recent);
            of_servers(&mut text, &moment);
            kept.ledger.book(&moment, Instant::now());
            kept.know_slugs(registry.as_ref());
            kept.of_tenants(&mut text, &moment);
        }
        plane.recorded() + &text.finish()
    }
}

fn of_registry(text: &mut Exposition, registry: &Registry) {
    let standing = registry.standing();
    text.value(&metrics::REGISTRY_REACHABLE, u8::from(standing.reachable));
    if let Some(age) = standing.age {
        text.value(&metrics::REGISTRY_AGE, age.as_secs_f64());
    }
    text.value(&metrics::REGISTRY_TENANTS, count(standing.servable));
}

fn of_process(text: &mut Exposition, moment: &Moment) {
    text.value(&metrics::CLIENTS, moment.clients);
    text.value(&metrics::CLIENTS_MAX, moment.clients_max);
    text.value(&metrics::SILENT_THREADS, count(moment.silent_threads));
    let mut sessions = text.family(&metrics::SESSIONS);
    for doing in Doing::ALL {
        let number: usize = moment.threads.iter().map(|thread| thread.sessions.doing(doing)).sum();
        sessions.value(&[("state", doing.name())], count(number));
    }
    let failing = pools(moment).filter(|pool| pool.backing_off).count();
    let mut series = text.family(&metrics::POOLS);
    series.value(&[("state", "serving")], count(pools(moment).count() - failing));
    series.value(&[("state", "failing")], count(failing));
}

/// How long things have taken, and did of late.
fn of_times(text: &mut Exposition, moment: &Moment, recent: &mut Recent) {
    // A thread that is silent would take its share away, and a counter must not fall.
    let Some(all) = moment.times() else { return };
    text.histogram(&metrics::CHECKOUT_WAIT, &all.waits);
    text.histogram(&metrics::TRANSACTION_TIME, &all.transactions);
    text.histogram(&metrics::QUERY_TIME, &all.queries);
    let of_late = recent.book(all, Instant::now());
    for (family, times) in [
        (&metrics::CHECKOUT_WAIT_QUANTILE, &of_late.waits),
        (&metrics::TRANSACTION_TIME_QUANTILE, &of_late.transactions),
        (&metrics::QUERY_TIME_QUANTILE, &of_late.queries),
    ] {
        let mut series = text.family(family);
        for (part, label) in [(0.5, "0.5"), (0.95, "0.95"), (0.99, "0.99")] {
            if let Some(seconds) = times.quantile(part) {
                series.value(&[("quantile", label)], seconds);
            }
        }
    }
}

/// Connections by server: those with the most have a label of their own.
fn of_servers(text: &mut Exposition, moment: &Moment) {
    let mut servers: BTreeMap<&str, Connections> = BTreeMap::new();
    for pool in pools(moment) {
        servers.entry(pool.key.address.name.as_str()).or_default().add(pool);
    }
    let mut ranked: Vec<_> = servers.into_iter().collect();
    ranked.sort_by_key(|(_, connections)| std::cmp::Reverse(connections.open()));
    let mut other = Connections::default();
    for (_, connections) in ranked.drain(SERVERS_MAX.min(ranked.len())..) {
        other.merge(&connections);
    }
    if other.open() > 0 {
        ranked.push((OTHER, other));
    }
    let mut series = text.family(&metrics::SERVER_CONNECTIONS);
    for (server, connections) in &ranked {
        for (state, number) in connections.by_state() {
            series.value(&[("server", server), ("state", state)], number);
        }
    }
    // Beyond the bound on labels these are left out: no sum would mean anything.
    let bounded: Vec<_> = moment.servers.iter().filter(|server| server.standing.most > 0).take(SERVERS_MAX).collect();
    let mut gauge = |family, value: fn(&ServerUse) -> u32| {
        let mut series = text.family(family);
        for server in &bounded {
            series.value(&[("server", server.name.as_str())], value(server));
        }
    };
    gauge(&metrics::SERVER_CONNECTIONS_MAX, |server| server.standing.most);
    gauge(&metrics::SERVER_CONNECTIONS_LEASED, |server| server.leased.unwrap_or(server.standing.most));
    gauge(&metrics::SERVER_CONNECTIONS_USED, |server| server.standing.used);
    gauge(&metrics::SERVER_CONNECTIONS_WANTED, |server| server.standing.wanted);
}

impl Kept {
    /// Keeps the names of those with an account, as they were when they got it, and forgets the others'.
    fn know_slugs(&mut self, registry: Option<&Registry>) {
        let (accounts, _) = self.ledger.accounts();
        self.slugs.retain(|id, _| accounts.contains_key(id));
        for id in accounts.keys() {
            if !self.slugs.contains_key(id) {
                let slug = registry.and_then(|registry| registry.remembered(*id)).map(|tenant| tenant.slug.to_string());
                // One whose slug is the label of the rest is told by its id, as one that nobody remembers is.
                let label = slug.filter(|slug| slug != OTHER).unwrap_or_else(|| id.to_string());
                self.slugs.insert(*id, label);
            }
        }
    }

    fn of_tenants(&self, text: &mut Exposition, moment: &Moment) {
        let (accounts, other) = self.ledger.accounts();
        let mut labelled: Vec<(&str, Totals)> =
            accounts.iter().map(|(id, totals)| (self.label(Some(*id)), *totals)).collect();
        labelled.sort_by(|a, b| a.0.cmp(b.0));
        labelled.push((OTHER, other));
        let mut counter = |family, value: fn(&Totals) -> f64| {
            let mut series = text.family(family);
            labelled.iter().for_each(|(tenant, totals)| series.value(&[("tenant", tenant)], value(totals)));
        };
        counter(&metrics::TRANSACTIONS, |totals| large(totals.transactions));
        counter(&metrics::QUERIES, |totals| large(totals.queries));
        counter(&metrics::RECEIVED_BYTES, |totals| large(totals.received_bytes));
        counter(&metrics::SENT_BYTES, |totals| large(totals.sent_bytes));
        counter(&metrics::WAIT_TOTAL, |totals| totals.wait_time.as_secs_f64());
        counter(&metrics::QUERY_TOTAL, |totals| totals.query_time.as_secs_f64());
        let mut now: BTreeMap<&str, Connections> =
            labelled.iter().map(|(tenant, _)| (*tenant, Connections::default())).collect();
        for pool in pools(moment) {
            now.entry(self.label(pool.key.tenant)).or_default().add(pool);
        }
        let mut series = text.family(&metrics::POOL_CONNECTIONS);
        for (tenant, connections) in &now {
            for (state, number) in connections.by_state() {
                series.value(&[("tenant", tenant), ("state", state)], number);
            }
        }
        let mut series = text.family(&metrics::WAITING_CLIENTS);
        now.iter().for_each(|(tenant, connections)| series.value(&[("tenant", tenant)], connections.waiting));
        let mut series = text.family(&metrics::WAIT_SECONDS);
        now.iter().for_each(|(tenant, waits)| series.value(&[("tenant", tenant)], waits.maxwait.as_secs_f64()));
    }

    fn label(&self, tenant: Option<TenantId>) -> &str {
        tenant.and_then(|id| self.slugs.get(&id)).map_or(OTHER, String::as_str)
    }
}

/// What pools of one label hold.
#[derive(Debug, Default)]
struct Connections {
    active: u32,
    idle: u32,
    connecting: u32,
    waiting: u32,
    maxwait: Duration,
}

impl Connections {
    fn add(&mut self, pool: &PoolState) {
        let stats = &pool.stats;
        self.merge(&Self {
            active: stats.active,
            idle: stats.idle,
            connecting: stats.connecting,
            waiting: stats.waiting,
            maxwait: stats.maxwait,
        });
    }

    fn merge(&mut self, other: &Self) {
        self.active += other.active;
        self.idle += other.idle;
        self.connecting += other.connecting;
        self.waiting += other.waiting;
        self.maxwait = self.maxwait.max(other.maxwait);
    }

    const fn open(&self) -> u32 {
        self.active + self.idle + self.connecting
    }

    const fn by_state(&self) -> [(&'static str, u32); 3] {
        [("active", self.active), ("idle", self.idle), ("connecting", self.connecting)]
    }
}

fn pools(moment: &Moment) -> impl Iterator<Item = &PoolState> {
    moment.threads.iter().flat_map(|thread| &thread.pools)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Exact to 2^53.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
const fn large(number: u64) -> f64 {
    number as f64
}
