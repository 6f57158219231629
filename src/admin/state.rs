//! `/api/state`: what the page shows of one moment, so much of it at a time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::ledger::weight;
use super::plane::Plane;
use super::ready::readiness;
use super::tenants::LastError;
use crate::backend::PoolState;
use crate::console::{self, Tally, Value, View};
use crate::metrics;
use crate::registry::Registry;
use crate::session::{ClientState, Doing};
use crate::tenant::{Tenant, TenantId};

/// For how long one look at the relay threads serves all who ask.
const FRESH: Duration = Duration::from_millis(500);
/// Most tenants, pools and waiting clients in one answer, if nothing is said.
const LIMIT: usize = 25;
/// The same, whatever is said.
const LIMIT_MAX: usize = 200;

/// What may be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    /// Only what has this in its tenant's slug, name or id, or its database, role, module or server; in any case of letters.
    filter: String,
    /// Most of each.
    limit: Option<usize>,
    /// How many tenants to pass over; those with the most traffic come first.
    tenants_from: usize,
    /// The same of pools.
    pools_from: usize,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    version: &'static str,
    /// When the relay threads were looked at, in seconds since 1970.
    at: f64,
    uptime_seconds: u64,
    readiness: String,
    engine: Option<&'a str>,
    /// How many relay threads did not answer: what is theirs is missing.
    silent_threads: usize,
    registry: RegistryState,
    clients: usize,
    clients_max: usize,
    tenants: Part<TenantRow>,
    pools: Part<PoolRow>,
    /// Those that wait the longest, as SHOW CLIENTS has them.
    waiting: Part<Record>,
    errors: Vec<Series<'a>>,
    login_failures: Vec<Series<'a>>,
}

#[derive(Debug, Serialize)]
struct RegistryState {
    reachable: bool,
    age_seconds: Option<f64>,
    tenants: usize,
}

/// So many of all there are.
#[derive(Debug, Serialize)]
struct Part<T> {
    total: usize,
    rows: Vec<T>,
}

/// A row of the console by its columns' names.
type Record = BTreeMap<&'static str, Value>;

#[derive(Debug, Serialize)]
struct TenantRow {
    tenant: String,
    tenant_id: String,
    status: &'static str,
    clients: usize,
    cl_active: usize,
    cl_waiting: usize,
    servers: u32,
    pools: usize,
    /// What has passed through its pools; those of all tenants count for none.
    query_count: u64,
    last_error: Option<LastError>,
}

/// As SHOW POOLS has it, the tenant by its slug also while it has no client.
#[derive(Debug, Serialize)]
struct PoolRow {
    #[serde(flatten)]
    columns: Record,
    query_count: u64,
    last_error: Option<LastError>,
}

/// A series of the recorder, of one label or several.
#[derive(Debug, Serialize)]
struct Series<'a> {
    #[serde(flatten)]
    labels: BTreeMap<&'a str, &'a str>,
    count: f64,
}

/// The last look at the relay threads: however many ask, they are not bothered more often.
#[derive(Debug, Default)]
pub(super) struct Looks {
    last: Mutex<Option<(Instant, Arc<Look>)>>,
}

#[derive(Debug)]
struct Look {
    at: SystemTime,
    view: View,
}

impl Looks {
    async fn look(&self, plane: &impl Plane) -> Option<Arc<Look>> {
        let mut last = self.last.lock().await;
        if let Some((at, look)) = &*last
            && at.elapsed() < FRESH
        {
            return Some(Arc::clone(look));
        }
        let view = plane.whole().await?;
        let look = Arc::new(Look { at: SystemTime::now(), view });
        *last = Some((Instant::now(), Arc::clone(&look)));
        Some(look)
    }
}

/// Answers with the state of this moment, or one just gone.
pub(super) async fn state<P: Plane>(
    State((plane, looks)): State<(Arc<P>, Arc<Looks>)>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let (Some(registry), Some(look)) = (plane.registry(), looks.look(&*plane).await) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response();
    };
    let (view, recorded, standing) = (&look.view, plane.recorded(), registry.standing());
    let excerpt = Excerpt::new(wanted, view, &registry);
    let engine = series(&recorded, metrics::ENGINE).pop();
    Json(Answer {
        version: env!("CARGO_PKG_VERSION"),
        at: look.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        uptime_seconds: view.uptime.as_secs(),
        readiness: readiness(&*plane).unwrap_or_else(|reason| reason),
        engine: engine.and_then(|engine| engine.labels.get("engine").copied()),
        silent_threads: view.silent_threads,
        registry: RegistryState {
            reachable: standing.reachable,
            age_seconds: standing.age.map(|age| age.as_secs_f64()),
            tenants: standing.servable,
        },
        clients: view.clients_used,
        clients_max: view.clients_max,
        tenants: excerpt.tenants(),
        pools: excerpt.pools(),
        waiting: excerpt.waiting(),
        errors: series(&recorded, metrics::ERRORS),
        login_failures: series(&recorded, metrics::LOGIN_FAILURES),
    })
    .into_response()
}

/// What is wanted of a view.
struct Excerpt<'a> {
    filter: String,
    limit: usize,
    wanted: Wanted,
    view: &'a View,
    tallies: HashMap<TenantId, Tally<'a>>,
    /// The tenants that are known here, used or not.
    known: HashMap<TenantId, Arc<Tenant>>,
}

impl<'a> Excerpt<'a> {
    fn new(wanted: Wanted, view: &'a View, registry: &Registry) -> Self {
        let tallies = view.tallies();
        let mut known: HashMap<_, _> = registry.tenants().into_iter().map(|tenant| (tenant.id, tenant)).collect();
        for (id, tally) in &tallies {
            if let Some(tenant) = tally.tenant.cloned().or_else(|| registry.remembered(*id)) {
                known.entry(*id).or_insert(tenant);
            }
        }
        let limit = wanted.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
        Self { filter: wanted.filter.to_lowercase(), limit, wanted, view, tallies, known }
    }

    fn is_wanted(&self, tenant: Option<&Tenant>, names: &[&str]) -> bool {
        let fits = |name: &str| name.to_lowercase().contains(&self.filter);
        let is_tenants =
            |tenant: &Tenant| fits(tenant.slug.as_str()) || fits(&tenant.name) || tenant.id.to_string() == self.filter;
        self.filter.is_empty() || tenant.is_some_and(is_tenants) || names.iter().any(|name| fits(name))
    }

    fn tenants(&self) -> Part<TenantRow> {
        let none = Tally::default();
        let mut tenants: Vec<(&Arc<Tenant>, &Tally<'_>)> = Vec::new();
        for (id, tenant) in &self.known {
            if self.is_wanted(Some(tenant), &[]) {
                tenants.push((tenant, self.tallies.get(id).unwrap_or(&none)));
            }
        }
        tenants.sort_by(|(a, x), (b, y)| {
            let traffic = weight(&y.totals).total_cmp(&weight(&x.totals));
            traffic.then(y.clients.cmp(&x.clients)).then_with(|| a.slug.as_str().cmp(b.slug.as_str()))
        });
        let row = |(tenant, tally): &(&Arc<Tenant>, &Tally<'_>)| TenantRow {
            tenant: tenant.slug.to_string(),
            tenant_id: tenant.id.to_string(),
            status: tenant.status.as_str(),
            clients: tally.clients,
            cl_active: tally.active,
            cl_waiting: tally.waiting,
            servers: tally.servers,
            pools: tally.pools,
            query_count: tally.totals.queries,
            last_error: tally.last_error.map(LastError::of),
        };
        let rows = tenants.iter().skip(self.wanted.tenants_from).take(self.limit).map(row).collect();
        Part { total: tenants.len(), rows }
    }

    fn pools(&self) -> Part<PoolRow> {
        let tenant_of = |pool: &PoolState| pool.key.tenant.and_then(|id| self.known.get(&id));
        let mut pools: Vec<&PoolState> = self.view.pools.iter().collect();
        pools.retain(|pool| {
            let key = &pool.key;
            let names = [&key.database, &key.user, key.module.as_str(), key.address.name.as_str()];
            self.is_wanted(tenant_of(pool).map(|tenant| &**tenant), &names)
        });
        let total = pools.len();
        // Sorting keeps the order of those that have had the same.
        pools.sort_by(|a, b| weight(&b.totals).total_cmp(&weight(&a.totals)));
        let pools: Vec<_> = pools.into_iter().skip(self.wanted.pools_from).take(self.limit).collect();
        let shown = console::pools(pools.iter().copied(), self.view).into_records();
        let row = |(mut columns, pool): (Record, &PoolState)| {
            if let Some(tenant) = tenant_of(pool) {
                columns.insert("tenant", tenant.slug.as_str().into());
            }
            let last_error = pool.last_error.as_ref().map(LastError::of);
            PoolRow { columns, query_count: pool.totals.queries, last_error }
        };
        Part { total, rows: shown.zip(pools.iter().copied()).map(row).collect() }
    }

    fn waiting(&self) -> Part<Record> {
        let mut waiting: Vec<&ClientState> = self.view.clients.iter().collect();
        waiting.retain(|client| {
            let place = &client.placement;
            let names = [
                place.database.as_str(),
                &client.visitor.user,
                place.terms.module.as_str(),
                place.server.name.as_str(),
            ];
            client.doing == Doing::Waiting && self.is_wanted(Some(&client.tenant), &names)
        });
        let total = waiting.len();
        waiting.sort_by_key(|client| client.since);
        waiting.truncate(self.limit);
        Part { total, rows: console::clients(waiting).into_records().collect() }
    }
}

/// The series of a family in the recorder's text, whose labels' values need no escapes: all of them are pgtenant's own. The most first.
fn series<'a>(recorded: &'a str, family: &str) -> Vec<Series<'a>> {
    let mut found: Vec<_> = recorded.lines().filter_map(|line| one_series(line, family)).collect();
    found.sort_by(|a, b| b.count.total_cmp(&a.count));
    found
}

fn one_series<'a>(line: &'a str, family: &str) -> Option<Series<'a>> {
    let (labels, count) = line.strip_prefix(family)?.strip_prefix('{')?.rsplit_once("} ")?;
    let label = |label: &'a str| label.split_once('=').map(|(name, value)| (name, value.trim_matches('"')));
    Some(Series { labels: labels.split(',').filter_map(label).collect(), count: count.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_the_recorder_are_found_by_their_whole_name() {
        let text = "# TYPE errors counter\nerrors{source=\"server\",class=\"22\"} 3\nerrors{source=\"pgtenant\",class=\"28\"} 5\n\
                    errors_more{a=\"b\"} 1\n";
        let found = series(text, "errors");
        let found: Vec<_> =
            found.iter().map(|series| (series.labels["source"], series.labels["class"], series.count)).collect();
        assert_eq!(found, [("pgtenant", "28", 5.0), ("server", "22", 3.0)]);
        assert!(series(text, "error").is_empty());
    }
}
