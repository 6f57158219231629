//! One transaction that writes to the registry.

use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object};
use serde::Serialize;
use tokio_postgres::types::Type;

use super::admin::Parameter;
use super::error::RegistryError;
use super::queries;
use super::rows::{LogEntry, ModuleRow, PlacementRow, PlacementStatus, PlacementVersion, Put, TenantRow};
use crate::address::Network;
use crate::fault;
use crate::limits::Own;
use crate::tenant::{Alias, Login, ModuleName, Pooling, Server, ServerName, TenantId, TenantStatus};

/// A transaction on the registry; dropped without [`Transaction::commit`], it closes its connection and leaves nothing.
/// Rows that break a rule (a name, place or role that is another tenant's) give [`RegistryError::Refused`], after which
/// only dropping makes sense.
pub struct Transaction {
    /// Taken when the transaction has ended, so that what Drop finds is unfinished.
    client: Option<Object>,
}

impl Transaction {
    pub(super) async fn begin(client: Object) -> Result<Self, RegistryError> {
        client.batch_execute("BEGIN").await.map_err(RegistryError::query("begin"))?;
        Ok(Self { client: Some(client) })
    }

    /// Makes it all true, for every reader at once.
    ///
    /// # Errors
    /// PostgreSQL's refusal; nothing was written then, unless the connection broke.
    pub async fn commit(mut self) -> Result<(), RegistryError> {
        fault::point("before", "write the registry");
        if let Some(client) = &self.client {
            // COMMIT alone succeeds, as a rollback, where a statement has failed before; SELECT then fails and stops it.
            client.batch_execute("SELECT 1; COMMIT").await.map_err(RegistryError::query("commit"))?;
        }
        fault::point("after", "write the registry");
        // Now it may go back to its pool.
        self.client = None;
        Ok(())
    }

    /// Adds a server, or gives it these settings.
    ///
    /// # Errors
    /// The query's.
    pub async fn put_server(&self, server: &Server) -> Result<Put, RegistryError> {
        let doing = "write a server";
        self.put(doing, queries::PUT_SERVER, &[(&json(doing, server)?, Type::TEXT)]).await
    }

    /// Removes a server; `false` when there was none. One that has placements is refused.
    ///
    /// # Errors
    /// The query's.
    pub async fn remove_server(&self, name: &ServerName) -> Result<bool, RegistryError> {
        self.execute("remove a server", queries::REMOVE_SERVER, &[(&name.as_str(), Type::TEXT)]).await
    }

    /// Adds a module, or gives it these settings.
    ///
    /// # Errors
    /// The query's.
    pub async fn put_module(&self, module: &ModuleRow) -> Result<Put, RegistryError> {
        let doing = "write a module";
        self.put(doing, queries::PUT_MODULE, &[(&json(doing, module)?, Type::TEXT)]).await
    }

    /// Makes the pooling that the places of a module have now their own, before the module's changes: rights were given for it. The
    /// number of these places.
    ///
    /// # Errors
    /// The query's.
    pub async fn keep_pooling(&self, module: &ModuleName, pooling: Pooling) -> Result<u64, RegistryError> {
        let parameters: [Parameter<'_>; 2] = [(&module.as_str(), Type::TEXT), (&pooling.as_str(), Type::TEXT)];
        let kept = self.client()?.execute_typed(queries::KEEP_POOLING, &parameters).await;
        kept.map_err(RegistryError::query("keep the pooling of a module's places"))
    }

    /// Removes a module; `false` when there was none. One that has placements is refused.
    ///
    /// # Errors
    /// The query's.
    pub async fn remove_module(&self, name: &ModuleName) -> Result<bool, RegistryError> {
        self.execute("remove a module", queries::REMOVE_MODULE, &[(&name.as_str(), Type::TEXT)]).await
    }

    /// Adds a tenant. A slug that is any tenant's name is refused.
    ///
    /// # Errors
    /// The query's.
    pub async fn insert_tenant(&self, tenant: &TenantRow) -> Result<(), RegistryError> {
        let doing = "add a tenant";
        self.execute(doing, queries::INSERT_TENANT, &[(&json(doing, tenant)?, Type::TEXT)]).await.map(drop)
    }

    /// Gives a tenant these settings; `false` when there is none of that id.
    ///
    /// # Errors
    /// The query's.
    pub async fn update_tenant(&self, tenant: &TenantRow) -> Result<bool, RegistryError> {
        let doing = "change a tenant";
        self.execute(doing, queries::UPDATE_TENANT, &[(&json(doing, tenant)?, Type::TEXT)]).await
    }

    /// Keeps other writers from this tenant until the transaction ends; its status, if it exists.
    ///
    /// # Errors
    /// The query's.
    pub async fn lock_tenant(&self, id: TenantId) -> Result<Option<TenantStatus>, RegistryError> {
        let doing = "lock a tenant";
        let rows = self.query(doing, queries::LOCK_TENANT, &[(&id.0, Type::UUID)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let word: &str = row.try_get(0).map_err(|source| RegistryError::Query { doing, source })?;
        word.parse().map(Some).map_err(|source| RegistryError::Malformed {
            doing,
            source: <serde_json::Error as serde::de::Error>::custom(source),
        })
    }

    /// Changes a tenant's status; a suspension lets running sessions go on for `grace`. `false` when there is no such tenant.
    ///
    /// # Errors
    /// The query's.
    pub async fn set_status(&self, id: TenantId, status: TenantStatus, grace: Duration) -> Result<bool, RegistryError> {
        let parameters: [Parameter<'_>; 3] =
            [(&id.0, Type::UUID), (&status.as_str(), Type::TEXT), (&grace.as_secs_f64(), Type::FLOAT8)];
        self.execute("change a tenant's status", queries::SET_STATUS, &parameters).await
    }

    /// Says what a tenant may take; `false` when it had these limits already, or there is no such tenant.
    ///
    /// # Errors
    /// The query's.
    pub async fn set_limits(&self, id: TenantId, limits: &Own) -> Result<bool, RegistryError> {
        let doing = "change a tenant's limits";
        let parameters: [Parameter<'_>; 2] = [(&id.0, Type::UUID), (&json(doing, limits)?, Type::TEXT)];
        self.execute(doing, queries::SET_LIMITS, &parameters).await
    }

    /// Says which module a client gets that names none.
    ///
    /// # Errors
    /// The query's.
    pub async fn set_default_module(&self, id: TenantId, module: Option<&ModuleName>) -> Result<bool, RegistryError> {
        let module = module.map(ModuleName::as_str);
        let parameters: [Parameter<'_>; 2] = [(&id.0, Type::UUID), (&module, Type::TEXT)];
        self.execute("change a tenant's default module", queries::SET_DEFAULT_MODULE, &parameters).await
    }

    /// Removes a tenant with its names, places and logins; the log stays. `false` when there was none.
    ///
    /// # Errors
    /// The query's.
    pub async fn delete_tenant(&self, id: TenantId) -> Result<bool, RegistryError> {
        let doing = "delete a tenant";
        self.execute(doing, queries::DELETE_PLACEMENTS, &[(&id.0, Type::UUID)]).await?;
        self.execute(doing, queries::DELETE_TENANT, &[(&id.0, Type::UUID)]).await
    }

    /// Gives a tenant another name; `false` when it had it already.
    ///
    /// # Errors
    /// The query's.
    pub async fn add_alias(&self, id: TenantId, alias: &Alias) -> Result<bool, RegistryError> {
        let parameters: [Parameter<'_>; 2] = [(&id.0, Type::UUID), (&alias.as_str(), Type::TEXT)];
        self.execute("add an alias", queries::ADD_ALIAS, &parameters).await
    }

    /// Takes a name from a tenant; `false` when it did not have it.
    ///
    /// # Errors
    /// The query's.
    pub async fn remove_alias(&self, id: TenantId, alias: &Alias) -> Result<bool, RegistryError> {
        let parameters: [Parameter<'_>; 2] = [(&id.0, Type::UUID), (&alias.as_str(), Type::TEXT)];
        self.execute("remove an alias", queries::REMOVE_ALIAS, &parameters).await
    }

    /// Lets a tenant's clients come from a network; `false` when they might already.
    ///
    /// # Errors
    /// The query's.
    pub async fn allow(&self, id: TenantId, network: Network) -> Result<bool, RegistryError> {
        let parameters: [Parameter<'_>; 2] = [(&id.0, Type::UUID), (&network.to_string(), Type::TEXT)];
        self.execute("allow a network", queries::ALLOW, &parameters).await
    }

    /// Lets them come from there no more; `false` when that network was not in the list.
    ///
    /// # Errors
    /// The query's.
    pub async fn disallow(&self, id: TenantId, network: Network) -> Result<bool, RegistryError> {
        let parameters: [Parameter<'_>; 2] = [(&id.0, Type::UUID), (&network.to_string(), Type::TEXT)];
        self.execute("disallow a network", queries::DISALLOW, &parameters).await
    }

    /// Gives a tenant a place for a module. A place or role that another tenant has is refused.
    ///
    /// # Errors
    /// The query's.
    pub async fn put_placement(&self, id: TenantId, placement: &PlacementRow) -> Result<Put, RegistryError> {
        let doing = "write a placement";
        let parameters: [Parameter<'_>; 2] = [(&id.0, Type::UUID), (&json(doing, placement)?, Type::TEXT)];
        self.put(doing, queries::PUT_PLACEMENT, &parameters).await
    }

    /// Says whether a place is there; `false` when it had that status already, or there is none.
    ///
    /// # Errors
    /// The query's.
    pub async fn set_placement_status(
        &self,
        id: TenantId,
        module: &ModuleName,
        status: PlacementStatus,
    ) -> Result<bool, RegistryError> {
        let parameters: [Parameter<'_>; 3] =
            [(&id.0, Type::UUID), (&module.as_str(), Type::TEXT), (&status.as_str(), Type::TEXT)];
        self.execute("change a placement's status", queries::PLACEMENT_STATUS, &parameters).await
    }

    /// Takes a module's place from a tenant; `false` when it had none.
    ///
    /// # Errors
    /// The query's.
    pub async fn remove_placement(&self, id: TenantId, module: &ModuleName) -> Result<bool, RegistryError> {
        let parameters: [Parameter<'_>; 2] = [(&id.0, Type::UUID), (&module.as_str(), Type::TEXT)];
        self.execute("remove a placement", queries::REMOVE_PLACEMENT, &parameters).await
    }

    /// Gives a tenant a login, or the login this role and verifier. A role that another tenant has is refused.
    ///
    /// # Errors
    /// The query's.
    pub async fn put_login(&self, id: TenantId, login: &Login) -> Result<Put, RegistryError> {
        let doing = "write a login";
        let parameters: [Parameter<'_>; 2] = [(&id.0, Type::UUID), (&json(doing, login)?, Type::TEXT)];
        self.put(doing, queries::PUT_LOGIN, &parameters).await
    }

    /// Takes a login from a tenant; `false` when it had none of that name.
    ///
    /// # Errors
    /// The query's.
    pub async fn remove_login(&self, id: TenantId, login: &str) -> Result<bool, RegistryError> {
        let parameters: [Parameter<'_>; 2] = [(&id.0, Type::UUID), (&login, Type::TEXT)];
        self.execute("remove a login", queries::REMOVE_LOGIN, &parameters).await
    }

    /// Adds a line to the module log. Placements log their own coming, readiness and going; this is for the rest, such as
    /// failures.
    ///
    /// # Errors
    /// The query's.
    pub async fn log(&self, entry: &LogEntry) -> Result<(), RegistryError> {
        let doing = "write the module log";
        self.execute(doing, queries::WRITE_LOG, &[(&json(doing, entry)?, Type::TEXT)]).await.map(drop)
    }

    /// Says who is on which version of its migrations now, and adds what was applied or failed to the module log.
    ///
    /// # Errors
    /// The query's.
    pub async fn record_versions(&self, versions: &[PlacementVersion]) -> Result<(), RegistryError> {
        let doing = "write who is on which version";
        self.execute(doing, queries::RECORD_VERSIONS, &[(&json(doing, &versions)?, Type::TEXT)]).await.map(drop)
    }

    fn client(&self) -> Result<&Object, RegistryError> {
        // Only commit and Drop take it, and both take the transaction with it.
        self.client.as_ref().ok_or(RegistryError::Connect(deadpool_postgres::PoolError::Closed))
    }

    pub(super) async fn query(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<tokio_postgres::Row>, RegistryError> {
        self.client()?.query_typed(sql, parameters).await.map_err(RegistryError::query(doing))
    }

    pub(super) async fn execute(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<bool, RegistryError> {
        let written = self.client()?.execute_typed(sql, parameters).await.map_err(RegistryError::query(doing))?;
        Ok(written > 0)
    }

    async fn put(&self, doing: &'static str, sql: &str, parameters: &[Parameter<'_>]) -> Result<Put, RegistryError> {
        let rows = self.query(doing, sql, parameters).await?;
        let Some(row) = rows.first() else { return Ok(Put::Unchanged) };
        let new: bool = row.try_get(0).map_err(|source| RegistryError::Query { doing, source })?;
        Ok(if new { Put::Created } else { Put::Changed })
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // A connection in a transaction must not go back to the pool; closing it rolls back.
        let unfinished: Option<ClientWrapper> = self.client.take().map(Object::take);
        drop(unfinished);
    }
}

/// A row as JSON text, for a statement that takes it so.
pub(super) fn json<T: Serialize>(doing: &'static str, row: &T) -> Result<String, RegistryError> {
    serde_json::to_string(row).map_err(|source| RegistryError::Malformed { doing, source })
}
