//! Every metric, declared once.

use std::fmt;

use metrics::Unit;

/// Logins that ended before the session began, by kind.
pub const LOGIN_FAILURES: &str = "pgtenant_login_failures_total";
/// Clients that logged in.
pub const LOGINS: &str = "pgtenant_logins_total";
/// Errors that clients were told, by who found them and by SQLSTATE class.
pub const ERRORS: &str = "pgtenant_errors_total";
/// Logins of clients that named no tenant, by login, address and result.
pub const DEFAULT_TENANT_LOGINS: &str = "pgtenant_default_tenant_logins_total";
/// Logins of clients that named their tenant where there is a default one, by login and address.
pub const NAMED_TENANT_LOGINS: &str = "pgtenant_named_tenant_logins_total";
/// Cancel requests by what became of them: `own`, `passed_on` to other instances, `nobody` (no such key, no instances), `dropped` (too
/// many at once), and of those that others passed on `from_peer` or `from_peer_nobody`.
pub const CANCEL_REQUESTS: &str = "pgtenant_cancel_requests_total";
/// Sessions that kept their server connection beyond a transaction, by reason.
pub const PINS: &str = "pgtenant_pins_total";
/// Log lines that the log's destination did not take, or for which there was no room while it took none.
pub const LOG_DROPPED_LINES: &str = "pgtenant_log_dropped_lines_total";

/// What moves the relay threads' bytes, as a label; always 1.
pub const ENGINE: &str = "pgtenant_engine_info";

/// Tells the recorder what the metrics are.
pub fn describe() {
    metrics::describe_counter!(LOGIN_FAILURES, Unit::Count, "Logins that ended before the session began");
    metrics::describe_counter!(LOGINS, Unit::Count, "Clients that logged in");
    metrics::describe_counter!(
        ERRORS,
        Unit::Count,
        "Errors that clients were told, by who found them and SQLSTATE class"
    );
    metrics::describe_counter!(DEFAULT_TENANT_LOGINS, Unit::Count, "Logins of clients that named no tenant");
    metrics::describe_counter!(
        NAMED_TENANT_LOGINS,
        Unit::Count,
        "Logins of clients that named their tenant, where there is a default one"
    );
    metrics::describe_counter!(CANCEL_REQUESTS, Unit::Count, "Cancel requests, by what became of them");
    metrics::describe_counter!(LOG_DROPPED_LINES, Unit::Count, "Log lines that were lost");
    metrics::describe_gauge!(ENGINE, Unit::Count, "What moves the relay threads' bytes");
    metrics::describe_counter!(PINS, Unit::Count, "Sessions that kept their server connection beyond a transaction");
}

/// Who found an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finder {
    /// PostgreSQL.
    Server,
    /// pgtenant itself.
    Proxy,
}

/// Counts an error that a client is told.
pub fn count_error(finder: Finder, sqlstate: &[u8]) {
    let source = match finder {
        Finder::Server => "server",
        Finder::Proxy => "pgtenant",
    };
    metrics::counter!(ERRORS, "source" => source, "class" => class_of(sqlstate)).increment(1);
}

/// The classes of PostgreSQL's error codes (appendix A of its documentation) that are errors.
const CLASSES: [&str; 40] = [
    "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23", "24", "25", "26", "27", "28",
    "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57", "58", "72", "F0",
    "P0", "XX",
];

/// The label for an error code: its class, where that is one of PostgreSQL's; functions may raise any other.
fn class_of(sqlstate: &[u8]) -> &'static str {
    let known = |class: &&&str| sqlstate.starts_with(class.as_bytes());
    CLASSES.iter().find(known).copied().unwrap_or("other")
}

/// What a metric's value does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It rises, and starts over with the process.
    Counter,
    /// It rises and falls.
    Gauge,
    /// It counts by size.
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// A metric that no recorder holds: it is read off the data plane when somebody asks.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What its value does.
    pub kind: Kind,
    /// What it says, in one line.
    pub help: &'static str,
}

impl Family {
    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }

    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }

    const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, help }
    }
}

/// Always 1; the label says which version runs.
pub const BUILD_INFO: Family = Family::gauge("pgtenant_build_info", "Always 1, with the version");
/// Connected clients.
pub const CLIENTS: Family = Family::gauge("pgtenant_clients", "Connected clients, logins in progress included");
/// Their bound.
pub const CLIENTS_MAX: Family = Family::gauge("pgtenant_clients_max", "Most clients (listen.max_clients)");
/// Sessions by what they do.
pub const SESSIONS: Family = Family::gauge("pgtenant_sessions", "Sessions by what they are doing");
/// Pools.
pub const POOLS: Family =
    Family::gauge("pgtenant_pools", "Pools, by whether their server is left alone for having failed");
/// Connections by tenant.
pub const POOL_CONNECTIONS: Family =
    Family::gauge("pgtenant_pool_connections", "Server connections by tenant and state");
/// Clients that wait, by tenant.
pub const WAITING_CLIENTS: Family =
    Family::gauge("pgtenant_waiting_clients", "Clients that wait for a server connection, by tenant");
/// The longest of these waits.
pub const WAIT_SECONDS: Family =
    Family::gauge("pgtenant_maxwait_seconds", "How long the first of the waiting clients has waited, by tenant");
/// Connections by server.
pub const SERVER_CONNECTIONS: Family =
    Family::gauge("pgtenant_server_connections", "Server connections by server and state");
/// The bound on these, where there is one.
pub const SERVER_CONNECTIONS_MAX: Family =
    Family::gauge("pgtenant_server_connections_max", "Most connections of a server, of those that have a bound");
/// What of the bound is used.
pub const SERVER_CONNECTIONS_USED: Family = Family::gauge(
    "pgtenant_server_connections_used",
    "Connections of a server until it has closed them, and those that are promised to a pool",
);
/// This instance's part of the bound.
pub const SERVER_CONNECTIONS_LEASED: Family = Family::gauge(
    "pgtenant_server_connections_leased",
    "Connections of a server that this instance may have, of those that all instances over the registry may have together",
);
/// Connections that pools wait for.
pub const SERVER_CONNECTIONS_WANTED: Family = Family::gauge(
    "pgtenant_server_connections_wanted",
    "Connections that pools would open if the server's bound let them",
);
/// Waits for a connection.
pub const CHECKOUT_WAIT: Family =
    Family::histogram("pgtenant_checkout_wait_seconds", "How long clients waited for a server connection");
/// Transactions by time.
pub const TRANSACTION_TIME: Family =
    Family::histogram("pgtenant_transaction_seconds", "From a transaction's first byte to a server to its end");
/// Queries by time.
pub const QUERY_TIME: Family =
    Family::histogram("pgtenant_query_seconds", "From bytes to a server to its ReadyForQuery");
/// Waits of late.
pub const CHECKOUT_WAIT_QUANTILE: Family = Family::gauge(
    "pgtenant_checkout_wait_quantile_seconds",
    "What half, 95 % and 99 % of the waits for a server connection took at most in the last one to two minutes",
);
/// Transactions of late.
pub const TRANSACTION_TIME_QUANTILE: Family = Family::gauge(
    "pgtenant_transaction_quantile_seconds",
    "What half, 95 % and 99 % of the transactions took at most in the last one to two minutes",
);
/// Queries of late.
pub const QUERY_TIME_QUANTILE: Family = Family::gauge(
    "pgtenant_query_quantile_seconds",
    "What half, 95 % and 99 % of the queries took at most in the last one to two minutes",
);
/// Transactions by tenant.
pub const TRANSACTIONS: Family = Family::counter("pgtenant_transactions_total", "Transactions by tenant");
/// Queries by tenant.
pub const QUERIES: Family = Family::counter("pgtenant_queries_total", "Simple queries and Syncs answered, by tenant");
/// Bytes from clients.
pub const RECEIVED_BYTES: Family = Family::counter("pgtenant_received_bytes_total", "Bytes from clients, by tenant");
/// Bytes to clients.
pub const SENT_BYTES: Family = Family::counter("pgtenant_sent_bytes_total", "Bytes to clients, by tenant");
/// Waits by tenant.
pub const WAIT_TOTAL: Family =
    Family::counter("pgtenant_wait_seconds_total", "How long clients waited for server connections in all, by tenant");
/// Query time by tenant.
pub const QUERY_TOTAL: Family =
    Family::counter("pgtenant_busy_seconds_total", "How long servers worked on queries in all, by tenant");
/// Whether the registry is heard of.
pub const REGISTRY_REACHABLE: Family =
    Family::gauge("pgtenant_registry_reachable", "1 while changes of the registry are heard of");
/// How old what is known of it is.
pub const REGISTRY_AGE: Family =
    Family::gauge("pgtenant_registry_age_seconds", "How long ago changes of the registry were last read");
/// Tenants in memory.
pub const REGISTRY_TENANTS: Family =
    Family::gauge("pgtenant_registry_tenants", "Tenants that can be served without asking the registry");
/// Threads that do not answer.
pub const SILENT_THREADS: Family =
    Family::gauge("pgtenant_silent_threads", "Relay threads that did not say in time what they are doing");
/// Whether clients are being sent away.
pub const DRAINING: Family = Family::gauge("pgtenant_draining", "1 while clients are being sent away");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_nobodys_class_is_counted_as_other() {
        assert_eq!([b"42P01", b"P0001", b"ZZ999"].map(|code| class_of(code)), ["42", "P0", "other"]);
        assert_eq!(class_of(b""), "other");
    }
}
