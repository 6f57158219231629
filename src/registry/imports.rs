//! The record of imports: what each has changed, for whoever takes it back.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;
use tokio_postgres::types::Type;

use super::admin::{Parameter, decode};
use super::edits::{Edit, Edits};
use super::error::RegistryError;
use super::queries;
use super::rows::{TenantDetails, epoch};
use super::transaction::{Transaction, json};
use crate::fault;

/// An import that was made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImportRecord {
    /// Its number.
    pub id: i64,
    /// Where it came from.
    pub origin: Value,
    /// When it was made.
    #[serde(with = "epoch")]
    pub imported_at: Option<SystemTime>,
    /// When it was taken back, if it was.
    #[serde(with = "epoch")]
    pub rolled_back_at: Option<SystemTime>,
}

/// One thing that an import made or changed.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "each is read and put elsewhere at once")]
enum Item {
    Server { before: Option<crate::tenant::Server>, after: crate::tenant::Server },
    Module { before: Option<super::rows::ModuleRow>, after: super::rows::ModuleRow },
    Tenant { before: Option<TenantDetails>, after: TenantDetails },
}

impl Transaction {
    /// Makes these changes and records them as an import; its number.
    ///
    /// # Errors
    /// [`RegistryError::Moved`] when a tenant is not what it was thought to be; what the tables refuse.
    pub async fn import(&self, origin: &Value, edits: &Edits) -> Result<i64, RegistryError> {
        let doing = "record an import";
        let rows = self.query(doing, queries::ADD_IMPORT, &[(&json(doing, origin)?, Type::TEXT)]).await?;
        let id = rows.first().map(|row| row.try_get(0)).transpose();
        let id: i64 = id.map_err(|source| RegistryError::Query { doing, source })?.unwrap_or_default();
        for edit in &edits.servers {
            if let Some(to) = &edit.to {
                self.put_server(to).await?;
            }
            self.record(id, "server", edit).await?;
        }
        for edit in &edits.modules {
            if let Some(to) = &edit.to {
                self.put_module(to).await?;
            }
            self.record(id, "module", edit).await?;
        }
        for edit in &edits.tenants {
            self.edit_tenant(edit).await?;
            if let Some(to) = &edit.to {
                let before = edit.from.as_ref().map(|from| json(doing, from)).transpose()?;
                let parameters: [Parameter<'_>; 3] =
                    [(&id, Type::INT8), (&to.tenant.id.0, Type::UUID), (&before, Type::TEXT)];
                self.execute(doing, queries::RECORD_TENANT, &parameters).await?;
            }
        }
        fault::point("after", "record an import");
        Ok(id)
    }

    async fn record<T: serde::Serialize>(&self, id: i64, kind: &str, edit: &Edit<T>) -> Result<(), RegistryError> {
        let doing = "record an import";
        let image = |side: &Option<T>| side.as_ref().map(|side| json(doing, side)).transpose();
        let (before, after) = (image(&edit.from)?, image(&edit.to)?);
        let parameters: [Parameter<'_>; 4] =
            [(&id, Type::INT8), (&kind, Type::TEXT), (&before, Type::TEXT), (&after, Type::TEXT)];
        self.execute(doing, queries::RECORD_ITEM, &parameters).await.map(drop)
    }

    /// An import by its number, or the last one; others are kept from it until the transaction ends.
    ///
    /// # Errors
    /// The query's.
    pub async fn lock_import(&self, id: Option<i64>) -> Result<Option<ImportRecord>, RegistryError> {
        let doing = "look for an import";
        let rows = self.query(doing, queries::LOCK_IMPORT, &[(&id, Type::INT8)]).await?;
        rows.first().map(|row| decode(doing, row)).transpose()
    }

    /// What an import has changed, the last first. What was deleted since is not in it.
    ///
    /// # Errors
    /// The query's.
    pub async fn imported(&self, id: i64) -> Result<Edits, RegistryError> {
        let doing = "read what an import has changed";
        let mut edits = Edits::default();
        for row in self.query(doing, queries::IMPORT_ITEMS, &[(&id, Type::INT8)]).await? {
            match decode(doing, &row)? {
                Item::Server { before, after } => edits.servers.push(Edit { from: before, to: Some(after) }),
                Item::Module { before, after } => edits.modules.push(Edit { from: before, to: Some(after) }),
                Item::Tenant { before, after } => edits.tenants.push(Edit { from: before, to: Some(after) }),
            }
        }
        Ok(edits)
    }

    /// Makes these changes, the tenants' first, and marks the import as taken back.
    ///
    /// # Errors
    /// [`RegistryError::Moved`] when a tenant is not what it was thought to be; what the tables refuse.
    pub async fn roll_back(&self, id: i64, edits: &Edits) -> Result<(), RegistryError> {
        for edit in &edits.tenants {
            self.edit_tenant(edit).await?;
        }
        for edit in &edits.modules {
            match (&edit.from, &edit.to) {
                (_, Some(to)) => drop(self.put_module(to).await?),
                (Some(from), None) => drop(self.remove_module(&from.name).await?),
                (None, None) => {}
            }
        }
        for edit in &edits.servers {
            match (&edit.from, &edit.to) {
                (_, Some(to)) => drop(self.put_server(to).await?),
                (Some(from), None) => drop(self.remove_server(&from.name).await?),
                (None, None) => {}
            }
        }
        self.execute("mark an import as rolled back", queries::END_IMPORT, &[(&id, Type::INT8)]).await?;
        fault::point("after", "mark an import as rolled back");
        Ok(())
    }
}
