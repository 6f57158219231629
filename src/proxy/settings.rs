//! The settings as SHOW CONFIG has them. None of these is a secret.

use std::fmt::Display;
use std::time::Duration;

use super::Live;
use crate::address::Network;
use crate::console::Setting;
use crate::frontend::{IdentifyConfig, ListenConfig};
use crate::{limits, pool, session};

/// Every setting of the data plane.
pub(super) fn settings(live: &Live) -> Vec<Setting> {
    let mut all = List(Vec::new());
    all.listen(&live.listen, &ListenConfig::default());
    all.identify(&live.identify, &IdentifyConfig::default());
    all.pool(&live.pool, &pool::Config::default());
    all.limits(&live.limits, &limits::Config::default());
    all.timeouts(&live.timeouts, &session::Config::default());
    all.0
}

struct List(Vec<Setting>);

impl List {
    fn add(&mut self, key: &str, value: impl Display, default: impl Display, changeable: bool) {
        let (value, default) = (value.to_string(), default.to_string());
        self.0.push(Setting { key: key.to_owned(), value, default, changeable });
    }

    fn time(&mut self, key: &str, value: Duration, default: Duration, changeable: bool) {
        self.add(key, humantime::format_duration(value), humantime::format_duration(default), changeable);
    }

    fn listen(&mut self, now: &ListenConfig, default: &ListenConfig) {
        let path =
            |path: &Option<std::path::PathBuf>| path.as_ref().map_or(String::new(), |path| path.display().to_string());
        self.add("listen.address", &now.address, &default.address, false);
        self.add("listen.unix_socket_dir", path(&now.unix_socket_dir), path(&default.unix_socket_dir), false);
        self.add("max_client_conn", now.max_clients, default.max_clients, true);
        self.add("listen.max_clients", now.max_clients, default.max_clients, true);
        self.add("listen.threads", now.threads, default.threads, false);
        self.add("listen.engine", now.engine.name(), default.engine.name(), false);
        self.add("listen.reuse_port", now.reuse_port, default.reuse_port, false);
        let peer = |config: &ListenConfig| config.peer_address.clone().unwrap_or_default();
        self.add("listen.peer_address", peer(now), peer(default), false);
        let list = |networks: &[Network]| networks.iter().map(Network::to_string).collect::<Vec<_>>().join(",");
        let (balancers, none) = (list(&now.proxy_protocol_from), list(&default.proxy_protocol_from));
        self.add("listen.proxy_protocol_from", balancers, none, true);
        self.add("listen.tls_certificate", path(&now.tls_certificate), path(&default.tls_certificate), true);
        self.add("listen.tls_key", path(&now.tls_key), path(&default.tls_key), true);
    }

    fn identify(&mut self, now: &IdentifyConfig, default: &IdentifyConfig) {
        let text = |config: &IdentifyConfig| config.default_tenant.as_ref().map_or(String::new(), ToString::to_string);
        self.add("identify.default_tenant", text(now), text(default), true);
    }

    fn pool(&mut self, now: &pool::Config, default: &pool::Config) {
        self.add("pool.mode", now.mode, default.mode, true);
        self.add("default_pool_size", now.size, default.size, true);
        self.add("pool.size", now.size, default.size, true);
        self.add("pool.max_pools", now.max_pools, default.max_pools, true);
        self.time("pool.idle_timeout", now.idle_timeout, default.idle_timeout, true);
        self.time("pool.checkout_timeout", now.checkout_timeout, default.checkout_timeout, true);
        self.time("pool.max_lifetime", now.max_lifetime, default.max_lifetime, true);
        self.time("pool.health_check_interval", now.health_check_interval, default.health_check_interval, true);
        self.time("pool.role_check_interval", now.role_check_interval, default.role_check_interval, true);
        self.time("pool.connect_timeout", now.connect_timeout, default.connect_timeout, true);
        self.add("pool.connect_concurrency", now.connect_concurrency, default.connect_concurrency, true);
        self.add("pool.queue_length_max", now.queue_length_max, default.queue_length_max, true);
        self.add("pool.max_prepared_statements", now.max_prepared_statements, default.max_prepared_statements, true);
    }

    fn limits(&mut self, now: &limits::Config, default: &limits::Config) {
        self.add("limits.max_clients", now.max_clients, default.max_clients, true);
        self.add("limits.connect_rate", now.connect_rate, default.connect_rate, true);
        self.add("limits.max_connections", now.max_connections, default.max_connections, true);
        self.add("limits.min_connections", now.min_connections, default.min_connections, true);
        self.add("limits.weight", now.weight, default.weight, true);
    }

    fn timeouts(&mut self, now: &session::Config, default: &session::Config) {
        self.time("timeouts.login", now.login, default.login, true);
        self.time("timeouts.idle_in_transaction", now.idle_in_transaction, default.idle_in_transaction, true);
        self.time("timeouts.client_idle", now.client_idle, default.client_idle, true);
        self.time("timeouts.pinned", now.pinned, default.pinned, true);
        self.time("timeouts.statement", now.statement, default.statement, true);
        self.time("timeouts.client_write", now.client_write, default.client_write, true);
        self.time("timeouts.login_backoff", now.login_backoff, default.login_backoff, true);
        self.time("timeouts.drain", now.drain, default.drain, true);
    }
}
