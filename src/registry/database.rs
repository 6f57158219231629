//! The registry in PostgreSQL, as the data plane reads it: remembered answers first, then one query a name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tracing::warn;

use super::activity::{self, Use};
use super::admin::{Parameter, decode};
use super::cache::{Cache, Found, Limits};
use super::change::{self, Change};
use super::config::Config;
use super::connect::Target;
use super::error::{RegistryError, Unavailable};
use super::queries;
use super::record::TenantRecord;
use crate::tenant::{Tenant, TenantId, TenantName};

/// After a failure, how long others are answered from memory, or refused, without trying.
const DOWN_FOR: Duration = Duration::from_secs(1);
/// How long one who could be served from memory waits for a fresher answer.
const STALE_PATIENCE: Duration = Duration::from_secs(1);
/// How often a question is asked again because changes were heard of while it was being answered.
const OVERTAKEN_MAX: usize = 3;
/// Without a poll for this long, nothing remembered counts as unchanged.
const WATCH_WINDOW: Duration = Duration::from_secs(1);

/// What a look-up comes to.
pub(super) type Answer = Result<Option<Arc<Tenant>>, Unavailable>;
type Flight = watch::Receiver<Option<Answer>>;

/// The registry database behind its cache.
pub(super) struct Database {
    pool: Pool,
    timeout: Duration,
    /// Where queries run, whoever asks: never on a thread that relays.
    runtime: Handle,
    cache: Mutex<Cache>,
    /// Questions that are being asked: whoever has the same one waits for the same answer.
    flights: Mutex<HashMap<TenantName, Flight>>,
    down: Mutex<Option<Down>>,
    changes: broadcast::Sender<Change>,
    /// Told whenever what is known changes.
    pub(super) dirty: Notify,
}

struct Down {
    until: Instant,
    error: Unavailable,
}

impl Database {
    pub(super) fn new(
        target: &Target,
        config: &Config,
        changes: broadcast::Sender<Change>,
    ) -> Result<Arc<Self>, RegistryError> {
        let limits = Limits {
            size: config.cache_size,
            ttl: config.cache_ttl,
            negative_ttl: config.negative_ttl,
            stale_max: config.stale_max,
            watch_window: WATCH_WINDOW.max(2 * config.poll_interval),
        };
        Ok(Arc::new(Self {
            pool: target.pool(config.pool_size, config.timeout)?,
            timeout: config.timeout,
            runtime: Handle::current(),
            cache: Mutex::new(Cache::new(limits)),
            flights: Mutex::new(HashMap::new()),
            down: Mutex::new(None),
            changes,
            dirty: Notify::new(),
        }))
    }

    /// What is remembered, if it is good without asking.
    pub(super) fn cached(&self, name: &TenantName) -> Option<Option<Arc<Tenant>>> {
        match self.cache().find(name, Instant::now()) {
            Found::Fresh(answer) => Some(answer),
            Found::Stale(_) | Found::Nothing => None,
        }
    }

    /// The tenant with this name: from memory while that is good, else from the database, else from memory while the
    /// database cannot be asked.
    pub(super) async fn lookup(self: &Arc<Self>, name: &TenantName) -> Answer {
        let now = Instant::now();
        let stale = match self.cache().find(name, now) {
            Found::Fresh(answer) => return Ok(answer),
            Found::Stale(tenant) => Some(tenant),
            Found::Nothing => None,
        };
        if let Some(error) = self.known_down(now) {
            return stale.map(Some).ok_or(error);
        }
        let mut flight = self.join_flight(name);
        let landing = flight.wait_for(Option::is_some);
        let landed = match &stale {
            None => landing.await,
            Some(_) => match timeout(STALE_PATIENCE, landing).await {
                Ok(landed) => landed,
                // It flies on, and what it brings is remembered.
                Err(_) => return Ok(stale),
            },
        };
        // A flight that ends without an answer was cut short with its runtime.
        let answer = match landed.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            Ok(None) | Err(_) => Err(Unavailable(Arc::new(RegistryError::Cancelled))),
        };
        match (answer, stale) {
            // Only as long as nobody has said since that it changed: then memory has nothing of it any more.
            (Err(error), Some(_)) => match self.cache().find(name, Instant::now()) {
                Found::Fresh(answer) => Ok(answer),
                Found::Stale(tenant) => Ok(Some(tenant)),
                Found::Nothing => Err(error),
            },
            (answer, _) => answer,
        }
    }

    /// These tenants have changed: forgets them, tells so, and reads again those that were in use.
    pub(super) fn changed(self: &Arc<Self>, ids: &[TenantId]) {
        let known = self.cache().forget(ids);
        change::tell(&self.changes, ids);
        if known.is_empty() {
            return;
        }
        self.dirty.notify_one();
        let this = Arc::clone(self);
        self.runtime.spawn(async move {
            for id in known.into_iter().take(change::SINGLE_CHANGES_MAX) {
                // What cannot be read now is read when it is asked for.
                let _ = this.lookup(&TenantName::from(id)).await;
            }
        });
    }

    /// Anything may have changed.
    pub(super) fn everything_changed(&self) {
        self.cache().doubt_everything();
        let _ = self.changes.send(Change::Everything);
    }

    /// The change table was read at this time: the database is up, and what is remembered is what it has.
    pub(super) fn polled(&self, at: Instant) {
        self.cache().polled(at);
        *lock(&self.down) = None;
    }

    pub(super) async fn record_activity(&self, uses: &[Use]) -> Result<(), RegistryError> {
        let doing = "write when tenants were last used";
        let late = |_| RegistryError::Timeout { doing, after: self.timeout };
        let deadline = Instant::now() + self.timeout;
        let client = timeout_at(deadline, self.pool.get()).await.map_err(late)?.map_err(RegistryError::Connect)?;
        let done = timeout_at(deadline, activity::record(&client, uses)).await.map_err(late);
        if !matches!(done, Ok(Ok(()))) {
            // Whatever it is, it must not happen to the next one on this connection.
            drop(Object::take(client));
        }
        done?
    }

    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
        lock(&self.cache)
    }

    fn known_down(&self, now: Instant) -> Option<Unavailable> {
        lock(&self.down).as_ref().filter(|down| now < down.until).map(|down| down.error.clone())
    }

    /// The flight that answers for this name, taking off if there is none.
    fn join_flight(self: &Arc<Self>, name: &TenantName) -> Flight {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(name) {
            return flight.clone();
        }
        let (sender, flight) = watch::channel(None);
        flights.insert(name.clone(), flight.clone());
        let landing = Landing { database: Arc::clone(self), name: name.clone() };
        self.runtime.spawn(async move {
            let answer = landing.database.ask(&landing.name).await;
            // First off the board, so that whoever comes now asks anew; those who wait hold the receiver.
            drop(landing);
            sender.send_replace(Some(answer));
        });
        flight
    }

    async fn ask(&self, name: &TenantName) -> Answer {
        for _ in 0..OVERTAKEN_MAX {
            let epoch = self.cache().epoch();
            let answer = self.load(name).await.map_err(|error| self.failed(name, error))?;
            if let Some(answer) = self.cache().learn(name, answer, epoch, Instant::now()) {
                self.dirty.notify_one();
                return Ok(answer);
            }
        }
        // Changes come too fast to remember anything; the answer itself is as good as any.
        let answer = self.load(name).await.map_err(|error| self.failed(name, error))?;
        Ok(answer.map(Arc::new))
    }

    fn failed(&self, name: &TenantName, error: RegistryError) -> Unavailable {
        let malformed = matches!(error, RegistryError::Malformed { .. });
        let error = Unavailable(Arc::new(error));
        if malformed {
            // This tenant's rows are at fault, not the database.
            warn!(
                tenant = name.as_str(),
                error = &error as &dyn std::error::Error,
                "registry rows do not read as a tenant"
            );
        } else {
            *lock(&self.down) = Some(Down { until: Instant::now() + DOWN_FOR, error: error.clone() });
        }
        error
    }

    /// One query, tried again on another connection where the first turns out to be dead.
    async fn load(&self, name: &TenantName) -> Result<Option<Tenant>, RegistryError> {
        let deadline = Instant::now() + self.timeout;
        match self.load_once(name, deadline).await {
            Err(RegistryError::Query { source, .. }) if source.as_db_error().is_none() => {
                self.load_once(name, deadline).await
            }
            other => other,
        }
    }

    async fn load_once(&self, name: &TenantName, deadline: Instant) -> Result<Option<Tenant>, RegistryError> {
        let doing = "look up a tenant";
        let rows = self.query(deadline, doing, queries::RECORD_BY_NAME, &[(&name.as_str(), Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let tenant = Tenant::from(decode::<TenantRecord>(doing, row)?);
        // The tables' triggers see to it that an id is nobody else's name; those can be switched off.
        if name.id().is_some_and(|id| id != tenant.id) {
            tracing::error!(name = name.as_str(), tenant = %tenant.id, "the registry has another tenant under this id; nobody is served by it");
            return Ok(None);
        }
        Ok(Some(tenant))
    }

    /// One statement on a connection of the pool.
    pub(super) async fn query(
        &self,
        deadline: Instant,
        doing: &'static str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, RegistryError> {
        let late = |_| RegistryError::Timeout { doing, after: self.timeout };
        let connecting = timeout_at(deadline, self.pool.get()).await.map_err(late)?;
        let client = connecting.map_err(RegistryError::Connect)?;
        let done = timeout_at(deadline, client.query_typed(sql, parameters)).await;
        if !matches!(done, Ok(Ok(_))) {
            // Whatever it is, it must not happen to the next one on this connection.
            drop(Object::take(client));
        }
        done.map_err(late)?.map_err(RegistryError::query(doing))
    }

    /// How long one statement may take, connecting included.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// Takes a flight off the board when it ends, however it ends.
struct Landing {
    database: Arc<Database>,
    name: TenantName,
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.database.flights).remove(&self.name);
    }
}

/// A lock whose holders never leave it half-changed, so that poisoning means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
