//! What SHOW tells: columns named as in PgBouncer where it has them, so that its exporters and habits work, then pgtenant's own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::rows::{Rows, Value};
use super::session::View;
use super::tally::Tally;
use crate::backend::{PoolState, Totals};
use crate::protocol::{Report, SqlState};
use crate::session::{ClientState, Doing};
use crate::tenant::{PoolMode, Pooling, TenantId};

/// What can be shown, and what it is.
const TOPICS: [(&str, &str); 13] = [
    ("VERSION", "the version of pgtenant"),
    ("HELP", "this"),
    ("TENANTS", "tenants with sessions or pools here"),
    ("POOLS", "pools of server connections"),
    ("DATABASES", "the databases that pools lead to"),
    ("CLIENTS", "sessions of clients"),
    ("SERVERS", "server connections"),
    ("STATS", "what has passed through each pool"),
    ("TOTALS", "the same, all together"),
    ("LISTS", "how many there are of everything"),
    ("USERS", "roles that pools open connections as"),
    ("CONFIG", "the settings"),
    ("PINS", "clients that keep a server connection, by reason"),
];

/// The rows that answer `SHOW what`.
///
/// # Errors
/// There is no such thing to show.
pub(super) fn show(what: &str, view: &View) -> Result<Rows, Report> {
    Ok(match what {
        "VERSION" => {
            let mut rows = Rows::new(&["version"]);
            rows.push(vec![concat!("pgtenant ", env!("CARGO_PKG_VERSION")).into()]);
            rows
        }
        "HELP" => help(),
        "TENANTS" => tenants(view),
        "POOLS" => pools(&view.pools, view),
        "DATABASES" => databases(view),
        "CLIENTS" => clients(&view.clients),
        "SERVERS" => servers(view),
        "STATS" => stats(view),
        "TOTALS" => totals(view),
        "LISTS" => lists(view),
        "USERS" => users(view),
        "CONFIG" => config(view),
        "PINS" => pins(view),
        _ => {
            let topics: Vec<_> = TOPICS.iter().map(|(topic, _)| *topic).collect();
            return Err(Report::error(SqlState::SYNTAX_ERROR, format!("nothing is called \"{what}\" here"))
                .hint(format!("SHOW {}", topics.join(" | "))));
        }
    })
}

fn help() -> Rows {
    let mut rows = Rows::new(&["command", "what"]);
    for (topic, what) in TOPICS {
        rows.push(vec![format!("SHOW {topic}").into(), what.into()]);
    }
    for (command, what) in [
        ("PAUSE [tenant[.module]]", "hold new transactions, wait until the running ones have ended"),
        ("RESUME [tenant[.module]]", "let them go on"),
        ("RECONNECT [tenant[.module]]", "close server connections as they become free"),
        ("KILL tenant[.module]", "end its sessions now"),
        ("KILL_CLIENT id", "end one session now"),
        ("DISABLE tenant[.module]", "let no new client in"),
        ("ENABLE tenant[.module]", "let clients in again"),
        ("RELOAD", "read the configuration again"),
        ("SHUTDOWN [WAIT_FOR_CLIENTS]", "end, when transactions are over or when the last client has left"),
    ] {
        rows.push(vec![command.into(), what.into()]);
    }
    rows
}

fn is_waiting(client: &ClientState) -> bool {
    client.doing == Doing::Waiting
}

/// A session in a transaction, or one that keeps its connection beyond.
fn has_server(client: &ClientState) -> bool {
    client.server_pid != 0
}

/// Whether a client's connections come from this pool.
fn is_of(client: &ClientState, pool: &PoolState) -> bool {
    let owner = match client.placement.terms.pooling {
        Pooling::PerTenant => Some(client.tenant.id),
        Pooling::Shared => None,
    };
    pool.key.tenant == owner && pool.key.is_of(&client.placement)
}

/// The slug of a pool's tenant; its id where nobody remembers it; empty where the pool is all tenants'.
fn tenant_of(pool: &PoolState, view: &View) -> String {
    let Some(id) = pool.key.tenant else { return String::new() };
    view.owners.get(&id).map_or_else(|| id.to_string(), |tenant| tenant.slug.to_string())
}

fn pool_mode(client: Option<&ClientState>, view: &View) -> &'static str {
    match client.and_then(|client| client.placement.terms.pool_mode).unwrap_or(view.default_mode) {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
    }
}

fn is_listed(list: &[String], tenant: &str, module: &str) -> bool {
    list.iter().any(|name| name == "*" || name == tenant || *name == format!("{tenant}.{module}"))
}

fn tenants(view: &View) -> Rows {
    let mut rows = Rows::new(&[
        "tenant",
        "tenant_id",
        "status",
        "clients",
        "cl_active",
        "cl_waiting",
        "servers",
        "pools",
        "xact_count",
        "query_count",
        "paused",
        "disabled",
        "max_clients",
        "max_servers",
    ]);
    let mut tallies: Vec<(String, TenantId, Tally<'_>)> = Vec::new();
    for (id, tally) in view.tallies() {
        tallies.push((tally.tenant.map_or_else(|| id.to_string(), |tenant| tenant.slug.to_string()), id, tally));
    }
    tallies.sort_by(|a, b| a.0.cmp(&b.0));
    for (slug, id, tally) in tallies {
        let limits = tally.tenant.map_or(view.limits, |tenant| view.limits.of(&tenant.limits));
        let max_servers = view.tenants.get(&id).map_or(0, |standing| standing.most);
        rows.push(vec![
            slug.as_str().into(),
            id.to_string().into(),
            tally.tenant.map_or("", |tenant| tenant.status.as_str()).into(),
            tally.clients.into(),
            tally.active.into(),
            tally.waiting.into(),
            tally.servers.into(),
            tally.pools.into(),
            tally.totals.transactions.into(),
            tally.totals.queries.into(),
            is_listed(&view.paused, &slug, "").into(),
            is_listed(&view.disabled, &slug, "").into(),
            limits.max_clients.into(),
            max_servers.into(),
        ]);
    }
    rows
}

/// SHOW POOLS of some of the pools.
pub fn pools<'a>(pools: impl IntoIterator<Item = &'a PoolState>, view: &View) -> Rows {
    let mut rows = Rows::new(&[
        "database",
        "user",
        "cl_active",
        "cl_waiting",
        "cl_active_cancel_req",
        "cl_waiting_cancel_req",
        "sv_active",
        "sv_active_cancel",
        "sv_being_canceled",
        "sv_idle",
        "sv_used",
        "sv_tested",
        "sv_login",
        "maxwait",
        "maxwait_us",
        "pool_mode",
        "tenant",
        "module",
        "server",
        "size",
        "failing",
    ]);
    for pool in pools {
        let clients: Vec<_> = view.clients.iter().filter(|client| is_of(client, pool)).collect();
        let waiting = clients.iter().filter(|client| is_waiting(client)).count();
        rows.push(vec![
            pool.key.database.as_str().into(),
            pool.key.user.as_str().into(),
            (clients.len() - waiting).into(),
            waiting.into(),
            0u32.into(),
            0u32.into(),
            pool.stats.active.into(),
            0u32.into(),
            0u32.into(),
            pool.stats.idle.into(),
            0u32.into(),
            0u32.into(),
            pool.stats.connecting.into(),
            pool.stats.maxwait.as_secs().into(),
            pool.stats.maxwait.subsec_micros().into(),
            pool_mode(clients.first().copied(), view).into(),
            tenant_of(pool, view).into(),
            pool.key.module.as_str().into(),
            pool.key.address.name.as_str().into(),
            pool.size.into(),
            pool.backing_off.into(),
        ]);
    }
    rows
}

fn databases(view: &View) -> Rows {
    let mut rows = Rows::new(&[
        "name",
        "host",
        "port",
        "database",
        "force_user",
        "pool_size",
        "min_pool_size",
        "reserve_pool_size",
        "server_lifetime",
        "pool_mode",
        "load_balance_hosts",
        "max_connections",
        "current_connections",
        "max_client_connections",
        "current_client_connections",
        "paused",
        "disabled",
        "tenant",
        "module",
        "server",
        "server_max_connections",
        "server_connections",
        "server_waiting",
        "server_leased",
    ]);
    for pool in &view.pools {
        let tenant = tenant_of(pool, view);
        let module = pool.key.module.as_str();
        let server = view.servers.iter().find(|server| server.name == pool.key.address.name);
        let standing = server.map(|server| server.standing).unwrap_or_default();
        let name = if tenant.is_empty() { module.to_owned() } else { format!("{tenant}.{module}") };
        let clients: Vec<_> = view.clients.iter().filter(|client| is_of(client, pool)).collect();
        rows.push(vec![
            name.into(),
            pool.key.address.host.as_str().into(),
            pool.key.address.port.into(),
            pool.key.database.as_str().into(),
            pool.key.user.as_str().into(),
            pool.size.into(),
            0u32.into(),
            0u32.into(),
            Value::Null,
            pool_mode(clients.first().copied(), view).into(),
            Value::Null,
            pool.size.into(),
            (pool.stats.active + pool.stats.idle).into(),
            0u32.into(),
            clients.len().into(),
            is_listed(&view.paused, &tenant, module).into(),
            is_listed(&view.disabled, &tenant, module).into(),
            tenant.into(),
            module.into(),
            pool.key.address.name.as_str().into(),
            standing.most.into(),
            standing.used.into(),
            standing.wanted.into(),
            server.and_then(|server| server.leased).unwrap_or(standing.most).into(),
        ]);
    }
    rows
}

fn doing(client: &ClientState) -> &'static str {
    match client.doing {
        Doing::Login => "login",
        Doing::Idle => "idle",
        Doing::Pinned => "pinned",
        Doing::IdleInTransaction => "idle in transaction",
        Doing::Waiting => "waiting",
        Doing::Active => "active",
    }
}

/// SHOW CLIENTS of some of the clients.
pub fn clients<'a>(clients: impl IntoIterator<Item = &'a ClientState>) -> Rows {
    let mut rows = Rows::new(&[
        "type",
        "user",
        "database",
        "state",
        "addr",
        "port",
        "local_addr",
        "local_port",
        "connect_time",
        "request_time",
        "wait",
        "wait_us",
        "close_needed",
        "ptr",
        "link",
        "remote_pid",
        "tls",
        "application_name",
        "prepared_statements",
        "id",
        "tenant",
        "module",
        "pinned",
    ]);
    let now = Instant::now();
    for client in clients {
        let peer = client.visitor.peer.to_string();
        let (address, port) = split_address(&peer);
        let waits = if is_waiting(client) { now.saturating_duration_since(client.since) } else { Duration::ZERO };
        rows.push(vec![
            "C".into(),
            (*client.visitor.user).into(),
            client.placement.database.as_str().into(),
            doing(client).into(),
            address.into(),
            port,
            Value::Null,
            Value::Null,
            time(client.visitor.connected_at),
            time(SystemTime::now() - now.saturating_duration_since(client.since)),
            waits.as_secs().into(),
            waits.subsec_micros().into(),
            0u32.into(),
            format!("{:#x}", client.id).into(),
            if has_server(client) { client.server_pid.to_string() } else { String::new() }.into(),
            0u32.into(),
            if client.visitor.encrypted { "TLS" } else { "" }.into(),
            (*client.visitor.application_name).into(),
            Value::Null,
            client.id.into(),
            client.tenant.slug.as_str().into(),
            client.placement.terms.module.as_str().into(),
            client.pinned_by.as_str().into(),
        ]);
    }
    rows
}

fn servers(view: &View) -> Rows {
    let mut rows = Rows::new(&[
        "type",
        "user",
        "database",
        "state",
        "addr",
        "port",
        "local_addr",
        "local_port",
        "connect_time",
        "request_time",
        "wait",
        "wait_us",
        "close_needed",
        "ptr",
        "link",
        "remote_pid",
        "tls",
        "application_name",
        "prepared_statements",
        "id",
        "tenant",
        "module",
    ]);
    for pool in &view.pools {
        let mut push =
            |state: &str, process_id: i32, times: [Value; 2], encrypted: Option<bool>, client: Option<&ClientState>| {
                let [connected, used] = times;
                rows.push(vec![
                    "S".into(),
                    pool.key.user.as_str().into(),
                    pool.key.database.as_str().into(),
                    state.into(),
                    pool.key.address.host.as_str().into(),
                    pool.key.address.port.into(),
                    Value::Null,
                    Value::Null,
                    connected,
                    used,
                    0u32.into(),
                    0u32.into(),
                    pool.retired.into(),
                    format!("{process_id:#x}").into(),
                    client.map(|client| format!("{:#x}", client.id)).unwrap_or_default().into(),
                    process_id.into(),
                    encrypted.map_or(Value::Null, |encrypted| if encrypted { "TLS" } else { "" }.into()),
                    client.map(|client| client.visitor.application_name.to_string()).unwrap_or_default().into(),
                    Value::Null,
                    process_id.into(),
                    client.map_or_else(|| tenant_of(pool, view), |client| client.tenant.slug.to_string()).into(),
                    pool.key.module.as_str().into(),
                ]);
            };
        let now = tokio::time::Instant::now();
        for server in &pool.idle {
            let before = |at| time(SystemTime::now() - now.saturating_duration_since(at));
            push(
                "idle",
                server.process_id,
                [before(server.created), before(server.last_used)],
                Some(server.encrypted),
                None,
            );
        }
        for client in view.clients.iter().filter(|client| has_server(client) && is_of(client, pool)) {
            push("active", client.server_pid, [Value::Null, Value::Null], None, Some(client));
        }
    }
    rows
}

/// The counters of a pool, and what they are on average: a second, or a transaction.
fn counted(totals: &Totals, uptime: Duration) -> Vec<Value> {
    let seconds = uptime.as_secs().max(1);
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let each = |time: Duration, count: u64| micros(time).checked_div(count).unwrap_or(0);
    vec![
        totals.transactions.into(),
        totals.queries.into(),
        totals.received_bytes.into(),
        totals.sent_bytes.into(),
        micros(totals.transaction_time).into(),
        micros(totals.query_time).into(),
        micros(totals.wait_time).into(),
        (totals.transactions / seconds).into(),
        (totals.queries / seconds).into(),
        (totals.received_bytes / seconds).into(),
        (totals.sent_bytes / seconds).into(),
        each(totals.transaction_time, totals.transactions).into(),
        each(totals.query_time, totals.queries).into(),
        (micros(totals.wait_time) / seconds).into(),
    ]
}

fn stats(view: &View) -> Rows {
    let mut rows = Rows::new(&[
        "database",
        "total_xact_count",
        "total_query_count",
        "total_received",
        "total_sent",
        "total_xact_time",
        "total_query_time",
        "total_wait_time",
        "avg_xact_count",
        "avg_query_count",
        "avg_recv",
        "avg_sent",
        "avg_xact_time",
        "avg_query_time",
        "avg_wait_time",
        "user",
        "tenant",
        "module",
    ]);
    for pool in &view.pools {
        let mut row: Vec<Value> = vec![pool.key.database.as_str().into()];
        row.extend(counted(&pool.totals, view.uptime));
        row.extend([pool.key.user.as_str().into(), tenant_of(pool, view).into(), pool.key.module.as_str().into()]);
        rows.push(row);
    }
    rows
}

fn totals(view: &View) -> Rows {
    let mut rows = Rows::new(&["name", "value"]);
    let mut all = Totals::default();
    for pool in &view.pools {
        all.add(&pool.totals);
    }
    let names = [
        "total_xact_count",
        "total_query_count",
        "total_received",
        "total_sent",
        "total_xact_time",
        "total_query_time",
        "total_wait_time",
        "avg_xact_count",
        "avg_query_count",
        "avg_recv",
        "avg_sent",
        "avg_xact_time",
        "avg_query_time",
        "avg_wait_time",
    ];
    for (name, value) in names.into_iter().zip(counted(&all, view.uptime)) {
        rows.push(vec![name.into(), value]);
    }
    rows
}

fn lists(view: &View) -> Rows {
    let mut rows = Rows::new(&["list", "items"]);
    let distinct = |values: Vec<String>| values.into_iter().collect::<std::collections::BTreeSet<_>>().len();
    let active: u32 = view.pools.iter().map(|pool| pool.stats.active).sum();
    let idle: u32 = view.pools.iter().map(|pool| pool.stats.idle).sum();
    for (name, count) in [
        ("databases", distinct(view.pools.iter().map(|pool| pool.key.database.clone()).collect())),
        ("users", distinct(view.pools.iter().map(|pool| pool.key.user.clone()).collect())),
        ("peers", 0),
        ("pools", view.pools.len()),
        ("peer_pools", 0),
        ("free_clients", view.clients_max.saturating_sub(view.clients_used)),
        ("used_clients", view.clients_used),
        ("login_clients", view.clients_used.saturating_sub(view.clients.len())),
        ("free_servers", idle as usize),
        ("used_servers", active as usize),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
        ("tenants", distinct(view.clients.iter().map(|client| client.tenant.slug.to_string()).collect())),
        ("pinned_clients", view.clients.iter().filter(|client| !client.pinned_by.is_empty()).count()),
    ] {
        rows.push(vec![name.into(), count.into()]);
    }
    rows
}

fn users(view: &View) -> Rows {
    let mut rows = Rows::new(&["name", "pool_size", "pool_mode", "max_user_connections", "current_connections"]);
    let mut by_user: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for pool in &view.pools {
        let entry = by_user.entry(&pool.key.user).or_default();
        entry.0 += pool.size;
        entry.1 += pool.stats.active + pool.stats.idle;
    }
    for (user, (size, connections)) in by_user {
        rows.push(vec![user.into(), size.into(), Value::Null, 0u32.into(), connections.into()]);
    }
    rows
}

fn config(view: &View) -> Rows {
    let mut rows = Rows::new(&["key", "value", "default", "changeable"]);
    for setting in &view.settings {
        let changeable = if setting.changeable { "yes" } else { "no" };
        let (key, value, default) = (setting.key.as_str(), setting.value.as_str(), setting.default.as_str());
        rows.push(vec![key.into(), value.into(), default.into(), changeable.into()]);
    }
    rows
}

fn pins(view: &View) -> Rows {
    let mut rows = Rows::new(&["tenant", "module", "reason", "clients"]);
    let mut counts: BTreeMap<(String, String, String), u32> = BTreeMap::new();
    for client in &view.clients {
        for reason in client.pinned_by.split(',').filter(|reason| !reason.is_empty()) {
            let module = client.placement.terms.module.to_string();
            *counts.entry((client.tenant.slug.to_string(), module, reason.to_owned())).or_default() += 1;
        }
    }
    for ((tenant, module, reason), clients) in counts {
        rows.push(vec![tenant.into(), module.into(), reason.into(), clients.into()]);
    }
    rows
}

fn split_address(address: &str) -> (&str, Value) {
    match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().map_or(Value::Null, Value::from)),
        None => (address, Value::Null),
    }
}

/// A clock that was set back may put the beginning of something before 1970, which the formatter cannot write.
fn time(at: SystemTime) -> Value {
    humantime::format_rfc3339_seconds(at.max(UNIX_EPOCH)).to_string().replace('T', " ").replace('Z', " UTC").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_is_told_all_the_same() {
        let text = |at| match time(at) {
            Value::Text(text) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(UNIX_EPOCH - Duration::from_secs(3600)), "1970-01-01 00:00:00 UTC");
        assert_eq!(text(UNIX_EPOCH + Duration::from_secs(3600)), "1970-01-01 01:00:00 UTC");
    }
}
