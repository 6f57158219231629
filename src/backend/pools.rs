//! All pools of one thread: made on first use, bounded in number, evicted when idle.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use rapidhash::RapidHashMap;

use super::key::PoolKey;
use super::quotas::Quotas;
use super::servers::{ServerPool, Servers};
use super::traffic::{Totals, Traffic};
use super::want::digest;
use crate::limits::{self, Own};
use crate::pool::{self, Account, Bell, Lane, Limits, Pool, Share, Stats};
use crate::protocol::{Report, SqlState};
use crate::tenant::{Placement, Pooling, Tenant, TenantId};

/// No further pool can be made: all that there are are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all of at most {max_pools} pools are in use")]
pub struct PoolsFull {
    /// The bound.
    pub max_pools: u32,
}

impl PoolsFull {
    /// What a client is told.
    #[must_use]
    pub fn report(&self) -> Report {
        let message = format!("(PT-LIMIT) too many pools in use (max_pools = {})", self.max_pools);
        Report::fatal(SqlState::TOO_MANY_CONNECTIONS, message)
    }
}

/// A pool at one moment.
#[derive(Debug, Clone)]
pub struct PoolState {
    /// Where its connections go.
    pub key: PoolKey,
    /// What it holds.
    pub stats: Stats,
    /// Most connections that it may have.
    pub size: u32,
    /// What has passed through it.
    pub totals: Totals,
    /// Its connections that wait for a client.
    pub idle: Vec<ServerState>,
    /// Its server is left alone for now, having failed.
    pub backing_off: bool,
    /// Why connecting failed last, and when.
    pub last_error: Option<(String, Instant)>,
    /// It takes no new clients and ends with its last connection.
    pub retired: bool,
}

/// A connection of a pool at one moment.
#[derive(Debug, Clone)]
pub struct ServerState {
    /// The server process.
    pub process_id: i32,
    /// When it was opened.
    pub created: Instant,
    /// When it last served somebody.
    pub last_used: Instant,
    /// Whether TLS is between pgtenant and it.
    pub encrypted: bool,
}

struct Entry {
    pool: Rc<ServerPool>,
    claims: Claims,
    /// The order of last use.
    used: u64,
}

/// Where a tenant's clients wait, and what the tenant has of its own.
struct KnownLane {
    lane: Weak<Lane>,
    own: Own,
}

/// How many pools all threads together may have.
#[derive(Debug)]
pub struct PoolBudget {
    max_pools: AtomicU32,
    made: AtomicU32,
}

impl PoolBudget {
    /// Room for this many.
    #[must_use]
    pub fn new(max_pools: u32) -> Arc<Self> {
        Arc::new(Self { max_pools: AtomicU32::new(max_pools.max(1)), made: AtomicU32::new(0) })
    }

    /// Room for another number from now on; what is there beyond it stays until it is not used any more.
    pub fn set_max(&self, max_pools: u32) {
        self.max_pools.store(max_pools.max(1), Ordering::Relaxed);
    }

    fn max_pools(&self) -> u32 {
        self.max_pools.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        let more = |made| (made < self.max_pools()).then_some(made + 1);
        self.made.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn give_back(&self) {
        self.made.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the registry says of a pool's limits; the configuration says the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Most connections of it.
    pub size: Option<u32>,
    /// What its tenant has of its own, where it is one tenant's.
    pub own: Own,
    /// Most connections of its server; zero for any number.
    pub server_max: u32,
}

impl Claims {
    /// Those of the pool of a tenant's place; what is the tenant's own is not for a pool of several.
    #[must_use]
    pub fn of(tenant: &Tenant, placement: &Placement) -> Self {
        let own = match placement.terms.pooling {
            Pooling::PerTenant => Own::clone(&tenant.limits),
            Pooling::Shared => Own::default(),
        };
        let server_max = placement.server.max_connections.unwrap_or(0);
        Self { size: placement.terms.pool_size, own, server_max }
    }
}

/// What the configuration says of pools.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The bounds of each.
    pub pool: Limits,
    /// What a tenant may take.
    pub tenant: limits::Config,
    /// How long opening one connection may take, all steps together.
    pub connect_timeout: Duration,
}

impl Terms {
    /// Those of the two sections.
    #[must_use]
    pub fn new(pool: &pool::Config, tenant: limits::Config) -> Self {
        Self { pool: Limits::from(pool), tenant, connect_timeout: pool.connect_timeout }
    }

    fn limits(&self, claims: &Claims) -> Limits {
        Limits {
            size: claims.size.unwrap_or(self.pool.size),
            queue_length_max: claims.own.queue_length_max.unwrap_or(self.pool.queue_length_max),
            checkout_timeout: claims.own.checkout_timeout.unwrap_or(self.pool.checkout_timeout),
            ..self.pool
        }
    }

    fn share(&self, own: &Own) -> Share {
        let limits = self.tenant.of(own);
        Share { weight: limits.weight, least: limits.min_connections }
    }

    fn most(&self, own: &Own) -> u32 {
        self.tenant.of(own).max_connections
    }
}

/// The pools of one thread.
pub struct Pools {
    budget: Arc<PoolBudget>,
    quotas: Arc<Quotas>,
    /// Rings when a pool has to look at its accounts.
    bell: Bell,
    /// Where clients of tenants wait that have their pools in common, by pool and tenant.
    lanes: RefCell<RapidHashMap<(PoolKey, TenantId), KnownLane>>,
    terms: Cell<Terms>,
    entries: RefCell<RapidHashMap<PoolKey, Entry>>,
    /// Drained pools that still have connections out.
    retired: RefCell<Vec<(PoolKey, Rc<ServerPool>)>>,
    clock: Cell<u64>,
    /// What has passed through pools that are gone.
    departed: Rc<Traffic>,
}

impl std::fmt::Debug for Pools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pools").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl Pools {
    /// No pools yet, and never more than the budget has room for. When the bell has rung, [`Pools::heed`] is to be called on this thread.
    #[must_use]
    pub fn new(budget: Arc<PoolBudget>, quotas: Arc<Quotas>, bell: Bell, terms: Terms) -> Self {
        let (entries, retired, lanes) = Default::default();
        let (terms, clock, departed) = (Cell::new(terms), Cell::new(0), Rc::default());
        Self { budget, quotas, bell, lanes, terms, entries, retired, clock, departed }
    }

    /// Takes what is reserved for the pools here, and gives up what others wait for.
    pub fn heed(&self) {
        self.list().iter().for_each(|(_, pool)| pool.heed());
    }

    /// Where a tenant's clients wait in a pool that is common to several.
    #[must_use]
    pub fn lane(&self, key: &PoolKey, tenant: TenantId, own: &Own) -> Rc<Lane> {
        let mut lanes = self.lanes.borrow_mut();
        let place = (key.clone(), tenant);
        let known = lanes.get(&place).and_then(|known| known.lane.upgrade());
        let lane = known.unwrap_or_default();
        self.bound_lane(&lane, own);
        lanes.insert(place, KnownLane { lane: Rc::downgrade(&lane), own: own.clone() });
        lane
    }

    fn bound_lane(&self, lane: &Lane, own: &Own) {
        let terms = self.terms.get();
        lane.set(terms.share(own), terms.most(own), own.queue_length_max.unwrap_or(0));
    }

    /// What the configuration says now, of all pools.
    pub fn configure(&self, terms: Terms) {
        self.terms.set(terms);
        for (key, entry) in self.entries.borrow().iter() {
            self.bound_pool(key, &entry.pool, &entry.claims);
        }
        for KnownLane { lane, own } in self.lanes.borrow().values() {
            lane.upgrade().iter().for_each(|lane| self.bound_lane(lane, own));
        }
    }

    /// What the registry says now of a tenant, its places and their servers.
    pub fn adjust(&self, tenant: &Tenant) {
        self.bound(&tenant.placements);
        for (key, entry) in self.entries.borrow_mut().iter_mut().filter(|(key, _)| key.tenant == Some(tenant.id)) {
            if let Some(placement) = tenant.placements.iter().find(|placement| key.is_of(placement)) {
                entry.claims = Claims::of(tenant, placement);
                self.bound_pool(key, &entry.pool, &entry.claims);
            }
        }
        for ((_, owner), KnownLane { lane, own }) in self.lanes.borrow_mut().iter_mut() {
            if *owner == tenant.id && *own != *tenant.limits {
                own.clone_from(&tenant.limits);
                lane.upgrade().iter().for_each(|lane| self.bound_lane(lane, own));
            }
        }
    }

    fn bound_pool(&self, key: &PoolKey, pool: &Rc<ServerPool>, claims: &Claims) {
        let terms = self.terms.get();
        pool.set_limits(terms.limits(claims));
        pool.manager().endpoint().set_timeout(terms.connect_timeout);
        pool.set_share(terms.share(&claims.own));
        key.tenant.into_iter().for_each(|tenant| drop(self.quotas.tenant(tenant, terms.most(&claims.own))));
    }

    /// The pool of a key; made, and an idle one evicted for it, if there is none.
    ///
    /// # Errors
    /// [`PoolsFull`]: there are as many as may be, and each is in use.
    pub fn get_or_create(
        &self,
        key: &PoolKey,
        claims: &Claims,
        make: impl FnOnce(Duration) -> Servers,
    ) -> Result<Rc<ServerPool>, PoolsFull> {
        let used = self.clock.get() + 1;
        self.clock.set(used);
        let known = self.entries.borrow_mut().get_mut(key).map(|entry| {
            entry.used = used;
            // A tenant's own pool follows what is said of it; a common one stays as it was made.
            let changed = key.tenant.is_some() && entry.claims != *claims;
            if changed {
                entry.claims = claims.clone();
            }
            (Rc::clone(&entry.pool), changed)
        });
        if let Some((pool, changed)) = known {
            if changed {
                self.bound_pool(key, &pool, claims);
            }
            return Ok(pool);
        }
        if !self.budget.take() {
            // The place of one that is evicted here is taken over at once.
            if !self.evict() || !self.budget.take() {
                return Err(PoolsFull { max_pools: self.budget.max_pools() });
            }
        }
        let terms = self.terms.get();
        let servers = make(terms.connect_timeout);
        servers.traffic().bequeath(&self.departed);
        let pool = Pool::under(servers, terms.limits(claims), self.accounts(key, claims));
        let entry = Entry { pool: Rc::clone(&pool), claims: claims.clone(), used };
        self.entries.borrow_mut().insert(key.clone(), entry);
        Ok(pool)
    }

    /// The accounts of a new pool: with its tenant's quota, if it has one tenant, and with its server's, as its tenant's or as that of all
    /// whose pool it is.
    fn accounts(&self, key: &PoolKey, claims: &Claims) -> Vec<Account> {
        let terms = self.terms.get();
        let own = |tenant: TenantId| {
            let quota = self.quotas.tenant(tenant, terms.most(&claims.own));
            Account::open(&quota, digest(key), Share::default(), Arc::clone(&self.bell))
        };
        let owner = key.tenant.map_or_else(|| digest(key), |tenant| digest(&tenant));
        let server = self.quotas.server(&key.address.name, claims.server_max);
        let common = Account::open(&server, owner, terms.share(&claims.own), Arc::clone(&self.bell));
        key.tenant.into_iter().map(own).chain([common]).collect()
    }

    /// The servers of these places may have as many connections as these say, from now on.
    fn bound(&self, placements: &[Arc<Placement>]) {
        for server in placements.iter().map(|placement| &placement.server) {
            self.quotas.server(&server.name, server.max_connections.unwrap_or(0));
        }
    }

    /// All pools, retired ones with connections still out included.
    #[must_use]
    pub fn list(&self) -> Vec<(PoolKey, Rc<ServerPool>)> {
        let entries = self.entries.borrow();
        let retired = self.retired.borrow();
        let current = entries.iter().map(|(key, entry)| (key, &entry.pool));
        let retired = retired.iter().map(|(key, pool)| (key, pool));
        current.chain(retired).map(|(key, pool)| (key.clone(), Rc::clone(pool))).collect()
    }

    /// What all pools hold now.
    #[must_use]
    pub fn states(&self) -> Vec<PoolState> {
        let retired: Vec<_> = self.retired.borrow().iter().map(|(_, pool)| Rc::as_ptr(pool)).collect();
        let state = |(key, pool): (PoolKey, Rc<ServerPool>)| {
            let mut idle = Vec::new();
            pool.each_idle(|server| {
                idle.push(ServerState {
                    process_id: server.process_id,
                    created: server.created,
                    last_used: server.last_used,
                    encrypted: server.stream.tls().is_some(),
                });
            });
            PoolState {
                key,
                stats: pool.stats(),
                size: pool.limits().size,
                totals: pool.manager().traffic().totals(),
                idle,
                backing_off: pool.is_backing_off(),
                last_error: pool.last_error().map(|(error, at)| (error.to_string(), at)),
                retired: retired.contains(&Rc::as_ptr(&pool)),
            }
        };
        self.list().into_iter().map(state).collect()
    }

    /// What has passed through pools that are gone.
    #[must_use]
    pub fn departed(&self) -> Totals {
        self.departed.totals()
    }

    /// Drains the pools whose key the predicate picks. Their next use makes new ones.
    pub fn retire(&self, picks: impl Fn(&PoolKey) -> bool) {
        let picked: Vec<_> = self.entries.borrow_mut().extract_if(|key, _| picks(key)).collect();
        for (key, entry) in picked {
            self.budget.give_back();
            entry.pool.drain();
            self.retired.borrow_mut().push((key, entry.pool));
        }
        self.forget_retired();
    }

    /// Drains all pools.
    pub fn drain(&self) {
        self.retire(|_| true);
    }

    /// Whether no connection is out, awaited or being opened.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.list().iter().all(|(_, pool)| pool.is_idle())
    }

    /// Sweeps each pool, and forgets those that hold nothing any more.
    pub fn sweep(&self, now: Instant) {
        for (_, pool) in self.list() {
            pool.sweep(now);
        }
        // A pool that backs off is kept: its memory is what protects the server.
        self.entries.borrow_mut().retain(|_, entry| {
            let pool = &entry.pool;
            let kept = !pool.is_idle() || pool.stats().idle > 0 || pool.is_backing_off() || Rc::strong_count(pool) > 1;
            if !kept {
                self.budget.give_back();
            }
            kept
        });
        self.forget_retired();
        self.lanes.borrow_mut().retain(|_, known| known.lane.strong_count() > 0);
    }

    fn forget_retired(&self) {
        self.retired.borrow_mut().retain(|(_, pool)| !pool.is_idle());
    }

    /// Drains the least recently used pool that is idle, one that does not back off if there is any; whether there was one.
    pub fn evict(&self) -> bool {
        let victim = {
            let entries = self.entries.borrow();
            let idle = entries.iter().filter(|(_, entry)| entry.pool.is_idle());
            idle.min_by_key(|(_, entry)| (entry.pool.is_backing_off(), entry.used)).map(|(key, _)| key.clone())
        };
        let evicted = victim.and_then(|victim| self.entries.borrow_mut().remove(&victim));
        let Some(entry) = evicted else { return false };
        self.budget.give_back();
        entry.pool.drain();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use tokio::runtime::Handle;
    use tokio::task::{LocalSet, spawn_local};

    use super::super::endpoint::ServerAddress;
    use super::super::target::Credential;
    use super::super::want::Want;
    use super::*;
    use crate::pool::CheckoutError;
    use crate::tenant::{ModuleName, ServerName, SslMode};

    fn key(user: &str, port: u16) -> PoolKey {
        let (name, host) = (ServerName::parse("main").unwrap(), "127.0.0.1".to_owned());
        let address = ServerAddress { name, host, port, sslmode: SslMode::Disable, ca_file: None };
        let module = ModuleName::parse("m").unwrap();
        PoolKey { tenant: None, module, address, database: "d".to_owned(), user: user.to_owned() }
    }

    fn get(pools: &Pools, key: &PoolKey) -> Result<Rc<ServerPool>, PoolsFull> {
        let make = |limit| Servers::new(key, Credential::Nothing, Handle::current(), limit);
        pools.get_or_create(key, &Claims::default(), make)
    }

    fn pools(max_pools: u32) -> Pools {
        let terms = Terms::new(&pool::Config::default(), limits::Config::default());
        Pools::new(PoolBudget::new(max_pools), Arc::default(), Arc::new(|| {}), terms)
    }

    fn want() -> Rc<Want> {
        Rc::new(Want { class: 0, affinity: 0, startup: Vec::new(), require_schema: None, lane: None })
    }

    #[tokio::test]
    async fn the_least_recently_used_pool_makes_room() {
        let pools = pools(2);
        let [a, b, c] = ["a", "b", "c"].map(|user| key(user, 1));
        let first = get(&pools, &a).unwrap();
        let second = get(&pools, &b).unwrap();
        assert!(Rc::ptr_eq(&first, &get(&pools, &a).unwrap()));
        get(&pools, &c).unwrap();
        assert!(Rc::ptr_eq(&first, &get(&pools, &a).unwrap()), "the one just used was evicted");
        assert!(matches!(second.checkout(want()).await, Err(CheckoutError::Draining)));
        assert_eq!(pools.list().len(), 2);
    }

    #[tokio::test]
    async fn a_pool_in_use_is_never_evicted() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let test = async move {
            let pools = pools(1);
            let used = get(&pools, &key("a", port)).unwrap();
            let waiting = spawn_local({
                let used = Rc::clone(&used);
                async move { used.checkout(want()).await.map(drop) }
            });
            tokio::task::yield_now().await;
            let full = get(&pools, &key("b", port)).unwrap_err();
            assert_eq!(full.report().message, "(PT-LIMIT) too many pools in use (max_pools = 1)");
            assert!(!pools.is_idle());
            pools.retire(|key| key.user == "a");
            assert!(matches!(waiting.await.unwrap(), Err(CheckoutError::Draining)));
            // Retired, it takes no room, and is listed as long as it has connections.
            assert!(!Rc::ptr_eq(&used, &get(&pools, &key("a", port)).unwrap()));
            assert_eq!(pools.list().len(), 2);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_failing_servers_pool_is_remembered_and_evicted_last() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let test = async move {
            let pools = pools(2);
            let (failing, other) = (key("failing", closed), key("other", closed));
            assert!(get(&pools, &failing).unwrap().checkout(want()).await.is_err());
            get(&pools, &other).unwrap();
            get(&pools, &key("new", closed)).unwrap();
            let left = pools.list();
            assert!(left.iter().any(|(key, _)| *key == failing) && left.iter().all(|(key, _)| *key != other));
            drop(left);
            pools.sweep(Instant::now());
            assert_eq!(pools.list().len(), 1);
        };
        LocalSet::new().run_until(test).await;
    }
}
