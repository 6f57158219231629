//! `/health/tenants`: the tenants known here, their places, and how the pools of these fare.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::plane::{Moment, Plane};
use crate::backend::{PoolKey, PoolState};
use crate::tenant::{Placement, Pooling, Tenant, TenantId, TenantName};

/// Most tenants in one answer.
const TENANTS_MAX: usize = 1000;

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Only the tenant with this name: id, slug or alias.
    tenant: Option<String>,
    /// Only tenants whose slugs come after this one.
    after: Option<String>,
    /// Most tenants.
    limit: Option<usize>,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    tenants: Vec<TenantHealth>,
    /// What to give as `after` for the tenants that this answer had no room for.
    next: Option<String>,
    /// How many relay threads did not answer: their pools are missing.
    silent_threads: usize,
}

#[derive(Debug, Serialize)]
struct TenantHealth {
    tenant: String,
    tenant_id: String,
    name: String,
    status: &'static str,
    places: Vec<PlaceHealth>,
}

#[derive(Debug, Serialize)]
struct PlaceHealth {
    module: String,
    isolation: &'static str,
    pooling: &'static str,
    server: String,
    database: String,
    schema: Option<String>,
    role: Option<String>,
    ready: bool,
    /// Several where roles or changes of the place have made several; none before its first use.
    pools: Vec<PoolHealth>,
}

#[derive(Debug, Clone, Serialize)]
struct PoolHealth {
    role: String,
    state: &'static str,
    size: u32,
    active: u32,
    idle: u32,
    connecting: u32,
    waiting: u32,
    maxwait_seconds: f64,
    transactions: u64,
    queries: u64,
    received_bytes: u64,
    sent_bytes: u64,
    last_error: Option<LastError>,
}

/// Why connecting failed last.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LastError {
    message: String,
    seconds_ago: f64,
}

impl LastError {
    pub(super) fn of((message, at): &(String, Instant)) -> Self {
        Self { message: message.clone(), seconds_ago: at.elapsed().as_secs_f64() }
    }
}

/// Answers with the tenants that are known without asking the registry. One that was never used here may not be.
pub(super) async fn tenants<P: Plane>(State(plane): State<Arc<P>>, wanted: Query<Wanted>) -> Response {
    let Some(registry) = plane.registry() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response();
    };
    let mut tenants = match &wanted.tenant {
        None => registry.tenants(),
        Some(name) => match one(&registry, name).await {
            Ok(tenant) => vec![tenant],
            Err(refusal) => return refusal,
        },
    };
    if let Some(after) = &wanted.after {
        tenants.retain(|tenant| tenant.slug.as_str() > after.as_str());
    }
    let limit = wanted.limit.unwrap_or(TENANTS_MAX).clamp(1, TENANTS_MAX);
    let more = tenants.len() > limit;
    tenants.truncate(limit);
    let next = tenants.last().filter(|_| more).map(|tenant| tenant.slug.to_string());
    let moment = plane.moment().await.unwrap_or_default();
    let pools = Places::of(&moment);
    let tenants = tenants.iter().map(|tenant| health(tenant, &pools)).collect();
    Json(Answer { tenants, next, silent_threads: moment.silent_threads }).into_response()
}

async fn one(registry: &crate::registry::Registry, name: &str) -> Result<Arc<Tenant>, Response> {
    let unknown = || (StatusCode::NOT_FOUND, "no such tenant\n").into_response();
    let name = TenantName::parse(name).map_err(|_| unknown())?;
    match registry.lookup(&name).await {
        Ok(tenant) => tenant.ok_or_else(unknown),
        Err(error) => {
            tracing::debug!(%error, "tenant asked for over HTTP");
            Err((StatusCode::SERVICE_UNAVAILABLE, "the registry cannot be asked\n").into_response())
        }
    }
}

/// Pools by whose they are, so that a thousand tenants do not go through ten thousand pools each.
struct Places<'a> {
    pools: HashMap<(Option<TenantId>, &'a str), Vec<&'a PoolState>>,
}

impl<'a> Places<'a> {
    fn of(moment: &'a Moment) -> Self {
        let mut pools: HashMap<_, Vec<_>> = HashMap::new();
        for pool in moment.threads.iter().flat_map(|thread| &thread.pools) {
            let PoolKey { tenant, module, .. } = &pool.key;
            pools.entry((*tenant, module.as_str())).or_default().push(pool);
        }
        Self { pools }
    }

    /// Those that serve this place; a common one serves many.
    fn serving(&self, tenant: TenantId, place: &Placement) -> impl Iterator<Item = &'a PoolState> {
        let whose = (place.terms.pooling == Pooling::PerTenant).then_some(tenant);
        let found = self.pools.get(&(whose, place.terms.module.as_str())).cloned().unwrap_or_default();
        found.into_iter().filter(|pool| pool.key.is_of(place))
    }
}

fn health(tenant: &Tenant, pools: &Places<'_>) -> TenantHealth {
    let place = |place: &Arc<Placement>| PlaceHealth {
        module: place.terms.module.to_string(),
        isolation: place.terms.isolation.as_str(),
        pooling: place.terms.pooling.as_str(),
        server: place.server.name.to_string(),
        database: place.database.to_string(),
        schema: place.schema.as_ref().map(ToString::to_string),
        role: place.role.as_ref().map(ToString::to_string),
        ready: place.ready,
        pools: pools.serving(tenant.id, place).map(pool_health).collect(),
    };
    TenantHealth {
        tenant: tenant.slug.to_string(),
        tenant_id: tenant.id.to_string(),
        name: tenant.name.clone(),
        status: tenant.status.as_str(),
        places: tenant.placements.iter().map(place).collect(),
    }
}

fn pool_health(pool: &PoolState) -> PoolHealth {
    let (stats, totals) = (&pool.stats, &pool.totals);
    PoolHealth {
        role: pool.key.user.clone(),
        state: match (pool.retired, pool.backing_off) {
            (true, _) => "retired",
            (false, true) => "failing",
            (false, false) => "serving",
        },
        size: pool.size,
        active: stats.active,
        idle: stats.idle,
        connecting: stats.connecting,
        waiting: stats.waiting,
        maxwait_seconds: stats.maxwait.as_secs_f64(),
        transactions: totals.transactions,
        queries: totals.queries,
        received_bytes: totals.received_bytes,
        sent_bytes: totals.sent_bytes,
        last_error: pool.last_error.as_ref().map(LastError::of),
    }
}
