//! The registry as the data plane holds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::activity::Use;
use super::change::{self, Change};
use super::config::Config;
use super::connect::Target;
use super::contents::Contents;
use super::database::Database;
use super::error::{RegistryError, Unavailable};
use super::file::FileStore;
use super::instances::Instance;
use super::leases::{Ask, Leases};
use super::standing::Standing;
use super::{snapshot, watch};
use crate::tenant::{Tenant, TenantId, TenantName};

/// Which tenant lives where. Clones are the same registry; the last one to go ends its watching.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    changes: broadcast::Sender<Change>,
    tasks: Vec<JoinHandle<()>>,
    activity_interval: Duration,
    lease_ttl: Option<Duration>,
}

enum Store {
    Database(Arc<Database>),
    File(FileStore),
}

impl Registry {
    /// Opens the registry that the configuration names, and watches it on the current runtime, where its queries run, too.
    /// A database that is down is no error: known tenants come from the snapshot then, and it is tried again and again.
    ///
    /// # Errors
    /// A configuration that cannot be right, or a file that is not a registry.
    pub async fn open(config: &Config) -> Result<Self, RegistryError> {
        let changes = change::channel();
        let (store, tasks) = match (&config.url, &config.file) {
            (Some(url), None) => Self::open_database(url, config, &changes).await?,
            (None, Some(path)) => (Store::File(FileStore::open(path).await?), Vec::new()),
            _ => return Err(RegistryError::NoStore),
        };
        let (activity_interval, lease_ttl) = match store {
            Store::Database(_) => (config.activity_interval, Some(config.lease_ttl)),
            Store::File(_) => (Duration::ZERO, None),
        };
        Ok(Self { shared: Arc::new(Shared { store, changes, tasks, activity_interval, lease_ttl }) })
    }

    async fn open_database(
        url: &str,
        config: &Config,
        changes: &broadcast::Sender<Change>,
    ) -> Result<(Store, Vec<JoinHandle<()>>), RegistryError> {
        let target = Target::parse(url, config.timeout)?;
        let database = Database::new(&target, config, changes.clone())?;
        let mut tasks = Vec::new();
        if let Some(path) = config.snapshot_file.clone() {
            let (of, stale_max) = (target.identity(), config.stale_max);
            let read = {
                let (path, of) = (path.clone(), of.clone());
                tokio::task::spawn_blocking(move || snapshot::read(&path, &of, stale_max)).await
            };
            let now = Instant::now();
            for (tenant, left) in read.unwrap_or_default() {
                database.cache().restore(tenant, now + left);
            }
            tasks.push(tokio::spawn(snapshot::keep(Arc::clone(&database), path, of, stale_max)));
        }
        let watching = watch::run(Arc::clone(&database), target, config.poll_interval, config.timeout);
        tasks.push(tokio::spawn(watching));
        Ok((Store::Database(database), tasks))
    }

    /// The tenant with this name, if there is one. What is remembered is used while changes to it would have been heard of,
    /// and while the database is down; one query otherwise, whoever and however many ask for that name.
    ///
    /// # Errors
    /// [`Unavailable`] when it cannot be known now whether there is such a tenant, or what it is like.
    pub async fn lookup(&self, name: &TenantName) -> Result<Option<Arc<Tenant>>, Unavailable> {
        match &self.shared.store {
            Store::Database(database) => database.lookup(name).await,
            Store::File(file) => Ok(file.tenant(name)),
        }
    }

    /// What is known of a name without asking anybody; `None` when somebody would have to be asked.
    #[must_use]
    pub fn cached(&self, name: &TenantName) -> Option<Option<Arc<Tenant>>> {
        match &self.shared.store {
            Store::Database(database) => database.cached(name),
            Store::File(file) => Some(file.tenant(name)),
        }
    }

    /// The tenant with this id as it is now: what a session asks after hearing of a change.
    ///
    /// # Errors
    /// As [`Registry::lookup`].
    pub async fn current(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, Unavailable> {
        self.lookup(&TenantName::from(id)).await
    }

    /// Word of every change from now on. A receiver that lags must take that as [`Change::Everything`].
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    /// The tenant with this id as it was last known, without asking anybody.
    #[must_use]
    pub fn remembered(&self, id: TenantId) -> Option<Arc<Tenant>> {
        match &self.shared.store {
            Store::Database(database) => database.cache().remembered(id),
            Store::File(file) => file.tenant(&TenantName::from(id)),
        }
    }

    /// How far it can be relied on now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match &self.shared.store {
            Store::Database(database) => database.cache().standing(Instant::now()),
            Store::File(file) => Standing { reachable: true, age: None, servable: file.tenants().len() },
        }
    }

    /// The tenants that can be served without asking, by their slugs: all of a file, those remembered of a database.
    #[must_use]
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        let mut tenants = match &self.shared.store {
            Store::Database(database) => database.cache().servable(Instant::now()).collect(),
            Store::File(file) => file.tenants(),
        };
        tenants.sort_by(|a, b| a.slug.as_str().cmp(b.slug.as_str()));
        tenants
    }

    /// How often it wants to be told which tenants were used; never when zero.
    #[must_use]
    pub fn activity_interval(&self) -> Duration {
        self.shared.activity_interval
    }

    /// Writes down that tenants were used. A file keeps nothing of it.
    ///
    /// # Errors
    /// The database cannot be asked, or the proxy's role may not.
    pub async fn record_activity(&self, uses: &[Use]) -> Result<(), RegistryError> {
        match &self.shared.store {
            Store::Database(database) => database.record_activity(uses).await,
            Store::File(_) => Ok(()),
        }
    }

    /// Says that this instance is there; where the others are. Over a file there are none.
    ///
    /// # Errors
    /// The database cannot be asked, or the proxy's role may not.
    pub async fn meet(&self, own: &Instance) -> Result<Vec<SocketAddr>, RegistryError> {
        match &self.shared.store {
            Store::Database(database) => database.meet(own).await,
            Store::File(_) => Ok(Vec::new()),
        }
    }

    /// Says that this instance is no more.
    ///
    /// # Errors
    /// As [`Registry::meet`].
    pub async fn leave(&self, id: Uuid) -> Result<(), RegistryError> {
        match &self.shared.store {
            Store::Database(database) => database.leave(id).await,
            Store::File(_) => Ok(()),
        }
    }

    /// How long a lease of a server's connections holds that is not renewed; none where there is nobody to share them with.
    #[must_use]
    pub fn lease_ttl(&self) -> Option<Duration> {
        self.shared.lease_ttl
    }

    /// Renews an instance's leases, and tells what all instances have of these servers. A file has none.
    ///
    /// # Errors
    /// As [`Registry::meet`].
    pub async fn lease(&self, ask: &Ask) -> Result<Vec<Leases>, RegistryError> {
        match (&self.shared.store, self.shared.lease_ttl) {
            (Store::Database(database), Some(ttl)) => database.lease(ask, ttl).await,
            _ => Ok(Vec::new()),
        }
    }

    /// Gives an instance's leases back.
    ///
    /// # Errors
    /// As [`Registry::meet`].
    pub async fn end_leases(&self, id: Uuid) -> Result<(), RegistryError> {
        match &self.shared.store {
            Store::Database(database) => database.end_leases(id).await,
            Store::File(_) => Ok(()),
        }
    }

    /// Reads the file again. A database needs no reloading: there is nothing to read.
    ///
    /// # Errors
    /// A file that is not a registry.
    pub async fn read_again(&self) -> Result<ReadAgain, RegistryError> {
        match &self.shared.store {
            Store::File(file) => Ok(ReadAgain(Some(file.read().await?))),
            Store::Database(_) => Ok(ReadAgain(None)),
        }
    }

    /// Serves what was read, and tells of what has changed in it; how many tenants have.
    pub fn apply(&self, new: ReadAgain) -> usize {
        let (Store::File(file), Some(contents)) = (&self.shared.store, new.0) else { return 0 };
        let changed = file.replace(&contents);
        change::tell(&self.shared.changes, &changed);
        changed.len()
    }

    /// Reads the file again, and tells of what has changed in it; keeps the old one if the new one is wrong.
    ///
    /// # Errors
    /// As [`Registry::read_again`].
    pub async fn reload(&self) -> Result<(), RegistryError> {
        self.apply(self.read_again().await?);
        Ok(())
    }
}

/// A registry file that was read again, and is right.
pub struct ReadAgain(Option<Contents>);

impl Drop for Shared {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
