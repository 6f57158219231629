//! When tenants were last used: written by proxies, a statement for many, and read by commands.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio_postgres::types::Type;

use super::admin::{Admin, Parameter};
use super::error::RegistryError;
use super::queries;
use super::rows::epoch;
use crate::tenant::TenantId;

/// Most tenants that are told of in one statement.
const BATCH: usize = 10_000;

/// That a tenant was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// The tenant.
    pub tenant: TenantId,
    /// How long ago it was last.
    pub ago: Duration,
    /// How often it was logged in to since it was told last.
    pub logins: u64,
}

/// What is known of a tenant's use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Activity {
    /// When it was last used, to about a minute; never, as far as is known, when absent.
    #[serde(with = "epoch")]
    pub last_used: Option<SystemTime>,
    /// How often it was logged in to.
    pub logins: u64,
}

#[derive(Deserialize)]
struct Line {
    tenant_id: TenantId,
    #[serde(flatten)]
    activity: Activity,
}

/// Writes uses down, in statements of bounded size.
pub(super) async fn record(client: &deadpool_postgres::Object, uses: &[Use]) -> Result<(), RegistryError> {
    let doing = "write when tenants were last used";
    for batch in uses.chunks(BATCH) {
        let ids: Vec<_> = batch.iter().map(|used| used.tenant.0).collect();
        let ago: Vec<_> = batch.iter().map(|used| used.ago.as_secs_f64()).collect();
        let logins: Vec<_> = batch.iter().map(|used| i64::try_from(used.logins).unwrap_or(i64::MAX)).collect();
        let parameters: [Parameter<'_>; 3] =
            [(&ids, Type::UUID_ARRAY), (&ago, Type::FLOAT8_ARRAY), (&logins, Type::INT8_ARRAY)];
        client.query_typed(queries::RECORD_ACTIVITY, &parameters).await.map_err(RegistryError::query(doing))?;
    }
    Ok(())
}

impl Admin {
    /// What is known of these tenants' use; who was never used is left out.
    ///
    /// # Errors
    /// The query's.
    pub async fn activity(&self, tenants: &[TenantId]) -> Result<HashMap<TenantId, Activity>, RegistryError> {
        let ids: Vec<_> = tenants.iter().map(|id| id.0).collect();
        let doing = "read when tenants were last used";
        let lines: Vec<Line> = self.read(doing, queries::ACTIVITY, &[(&ids, Type::UUID_ARRAY)]).await?;
        Ok(lines.into_iter().map(|line| (line.tenant_id, line.activity)).collect())
    }
}
