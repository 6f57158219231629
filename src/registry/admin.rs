//! The registry as the control plane uses it: everything readable, and transactions that write.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use serde::de::DeserializeOwned;
use tokio_postgres::types::{ToSql, Type};

use super::connect::Target;
use super::contents::Contents;
use super::error::RegistryError;
use super::migrations::{self, MigrationState};
use super::queries;
use super::record::TenantRecord;
use super::rows::{Filter, LogEntry, ModuleRow, TenantDetails};
use super::transaction::{Transaction, json};
use crate::tenant::{ModuleName, Server, Slug, Tenant, TenantId, TenantName, TenantStatus};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that commands use side by side.
const POOL_SIZE: usize = 8;

/// Tenants read at a time.
const PAGE: u32 = 1000;

/// One typed parameter of a statement.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The registry database, opened for the control plane.
#[derive(Clone)]
pub struct Admin {
    pool: Pool,
}

impl Admin {
    /// Opens the registry; the URL is libpq's, with its `sslmode` and `sslrootcert`.
    ///
    /// # Errors
    /// A malformed URL, or no connection.
    pub async fn connect(url: &str) -> Result<Self, RegistryError> {
        let admin = Self::open(url)?;
        drop(admin.client().await?);
        Ok(admin)
    }

    /// The same without connecting yet: whether the registry can be reached shows when it is asked something.
    ///
    /// # Errors
    /// A malformed URL.
    pub fn open(url: &str) -> Result<Self, RegistryError> {
        let pool = Target::parse(url, CONNECT_TIMEOUT)?.pool(POOL_SIZE, CONNECT_TIMEOUT)?;
        Ok(Self { pool })
    }

    /// Makes or completes the registry's tables; gives the names of the migrations that this call applied. Safe to run
    /// again and from several places at once.
    ///
    /// # Errors
    /// A registry of another make, or PostgreSQL's refusal.
    pub async fn init(&self) -> Result<Vec<&'static str>, RegistryError> {
        migrations::apply(&mut self.client().await?).await
    }

    /// This program's migrations, and whether the registry has them.
    ///
    /// # Errors
    /// As [`Admin::init`].
    pub async fn status(&self) -> Result<Vec<MigrationState>, RegistryError> {
        migrations::status(&mut self.client().await?).await
    }

    /// Begins a transaction. Dropped without commit, it is as if it had never been.
    ///
    /// # Errors
    /// No connection.
    pub async fn begin(&self) -> Result<Transaction, RegistryError> {
        Transaction::begin(self.client().await?).await
    }

    /// Waits until no other holder has this key (a tenant's slug, say), across processes and machines: what lies between
    /// is then done by one at a time. Ends with the guard.
    ///
    /// # Errors
    /// No connection.
    pub async fn lock(&self, key: &str) -> Result<Lock, RegistryError> {
        let client = Object::take(self.client().await?);
        let held = client.query_typed(queries::ADVISORY_LOCK, &[(&key, Type::TEXT)]).await;
        held.map_err(RegistryError::query("wait for a lock in the registry"))?;
        Ok(Lock { _client: client })
    }

    /// All servers, by name.
    ///
    /// # Errors
    /// The query's.
    pub async fn servers(&self) -> Result<Vec<Server>, RegistryError> {
        self.read("read the servers", queries::SERVERS, &[]).await
    }

    /// All modules, the oldest first.
    ///
    /// # Errors
    /// The query's.
    pub async fn modules(&self) -> Result<Vec<ModuleRow>, RegistryError> {
        self.read("read the modules", queries::MODULES, &[]).await
    }

    /// A tenant with all that belongs to it, by any of its names.
    ///
    /// # Errors
    /// The query's.
    pub async fn tenant(&self, name: &TenantName) -> Result<Option<TenantDetails>, RegistryError> {
        let name = name.as_str();
        let found = self.read("read a tenant", queries::DETAILS_BY_NAME, &[(&name, Type::TEXT)]).await?;
        Ok(found.into_iter().next())
    }

    /// The next tenants in the order of their slugs, after one of them or from the first.
    ///
    /// # Errors
    /// The query's.
    pub async fn tenants(&self, after: Option<&Slug>, limit: u32) -> Result<Vec<TenantDetails>, RegistryError> {
        self.tenants_like(&Filter::default(), after, limit).await
    }

    /// The same of those that fit.
    ///
    /// # Errors
    /// The query's.
    pub async fn tenants_like(
        &self,
        filter: &Filter,
        after: Option<&Slug>,
        limit: u32,
    ) -> Result<Vec<TenantDetails>, RegistryError> {
        let after = after.map_or("", Slug::as_str);
        let status = filter.status.map(TenantStatus::as_str);
        let module = filter.module.as_ref().map(ModuleName::as_str);
        let limit = i64::from(limit);
        let page: [Parameter<'_>; 4] =
            [(&after, Type::TEXT), (&limit, Type::INT8), (&status, Type::TEXT), (&module, Type::TEXT)];
        match module {
            None => self.read("read the tenants", queries::DETAILS_PAGE, &page[..3]).await,
            Some(_) => self.read("read the tenants", queries::DETAILS_PAGE_OF_MODULE, &page).await,
        }
    }

    /// The tenants that have places which are asked for and not there yet.
    ///
    /// # Errors
    /// The query's.
    pub async fn unready_tenants(&self) -> Result<Vec<TenantDetails>, RegistryError> {
        self.read("read the tenants to provision", queries::DETAILS_UNREADY, &[]).await
    }

    /// A tenant as the data plane sees it.
    ///
    /// # Errors
    /// The query's.
    pub async fn load(&self, name: &TenantName) -> Result<Option<Tenant>, RegistryError> {
        let name = name.as_str();
        let found: Vec<TenantRecord> =
            self.read("read a tenant", queries::RECORD_BY_NAME, &[(&name, Type::TEXT)]).await?;
        Ok(found.into_iter().next().map(Tenant::from))
    }

    /// Everything, as an export writes it.
    ///
    /// # Errors
    /// The queries'.
    pub async fn contents(&self) -> Result<Contents, RegistryError> {
        let (servers, modules) = (self.servers().await?, self.modules().await?);
        let mut tenants: Vec<TenantDetails> = Vec::new();
        loop {
            let after = tenants.last().map(|last| last.tenant.slug.clone());
            let page = self.tenants(after.as_ref(), PAGE).await?;
            if page.is_empty() {
                return Ok(Contents { servers, modules, tenants });
            }
            tenants.extend(page);
        }
    }

    /// What happened to a tenant's modules, the newest first.
    ///
    /// # Errors
    /// The query's.
    pub async fn log(&self, tenant: TenantId, limit: u32) -> Result<Vec<LogEntry>, RegistryError> {
        let page: [Parameter<'_>; 2] = [(&tenant.0, Type::UUID), (&i64::from(limit), Type::INT8)];
        self.read("read the module log", queries::READ_LOG, &page).await
    }

    /// Adds a line to the module log, for itself: what it tells of stays true whatever comes after.
    ///
    /// # Errors
    /// The query's.
    pub async fn write_log(&self, entry: &LogEntry) -> Result<(), RegistryError> {
        let doing = "write the module log";
        let json = json(doing, entry)?;
        let written = self.client().await?.execute_typed(queries::WRITE_LOG, &[(&json, Type::TEXT)]).await;
        written.map(drop).map_err(RegistryError::query(doing))
    }

    async fn client(&self) -> Result<Object, RegistryError> {
        self.pool.get().await.map_err(RegistryError::Connect)
    }

    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<T>, RegistryError> {
        let client = self.client().await?;
        let rows = client.query_typed(sql, parameters).await.map_err(RegistryError::query(doing))?;
        rows.iter().map(|row| decode(doing, row)).collect()
    }
}

/// A row that is one column of JSON text.
pub(super) fn decode<T: DeserializeOwned>(doing: &'static str, row: &tokio_postgres::Row) -> Result<T, RegistryError> {
    let text: &str = row.try_get(0).map_err(|source| RegistryError::Query { doing, source })?;
    serde_json::from_str(text).map_err(|source| RegistryError::Malformed { doing, source })
}

/// Keeps others from what its key stands for; dropping it closes its connection, which ends the lock.
pub struct Lock {
    _client: deadpool_postgres::ClientWrapper,
}
