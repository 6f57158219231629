//! Settings of pools.

use std::time::Duration;

use serde::Deserialize;

use crate::tenant::PoolMode;

/// `[pool]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a client keeps a backend connection, where module and tenant say nothing else.
    pub mode: PoolMode,
    /// Most connections of one pool, where module and tenant say nothing else.
    pub size: u32,
    /// Most pools at one time; an idle one is evicted for a new one, one in use never is.
    pub max_pools: u32,
    /// A connection unused for this long is closed, and a pool without connections is forgotten.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a client waits for a connection.
    #[serde(with = "humantime_serde")]
    pub checkout_timeout: Duration,
    /// A connection older than this (less up to a tenth, at random) is closed when it is next free.
    #[serde(with = "humantime_serde")]
    pub max_lifetime: Duration,
    /// How often idle connections are looked at for signs of death.
    #[serde(with = "humantime_serde")]
    pub health_check_interval: Duration,
    /// How long a role that was found to be one that may log in is taken for such without asking its server again; zero never asks.
    #[serde(with = "humantime_serde")]
    pub role_check_interval: Duration,
    /// How long opening one connection to a server may take, all steps together.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Most connections being opened to one server at one time, by one thread of the proxy.
    pub connect_concurrency: u32,
    /// Most clients waiting for one pool.
    pub queue_length_max: u32,
    /// Most named prepared statements kept on one connection in transaction mode; 0 keeps a client that uses one on its
    /// connection instead.
    pub max_prepared_statements: u32,
    /// Modules (`*`: all) whose unnamed statements, in transaction mode, are kept on connections as prepared ones once they have come
    /// often enough.
    pub keep_unnamed_statements: Vec<String>,
    /// What becomes, in transaction mode, of a statement that would keep its client on its connection.
    pub pinning: Pinning,
}

impl Config {
    /// Whether unnamed statements of a module's clients are kept.
    #[must_use]
    pub fn keeps_unnamed(&self, module: &str) -> bool {
        self.keep_unnamed_statements.iter().any(|named| named == "*" || named == module)
    }
}

/// Whether clients may keep a connection beyond their transaction, by state that cannot be carried to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pinning {
    /// They may, until the state is gone.
    #[default]
    Allow,
    /// The statement fails with SQLSTATE 0A000, which names what it is that cannot be had.
    Refuse,
}

/// The bounds of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections, in use or not; at least one.
    pub size: u32,
    /// Most clients waiting.
    pub queue_length_max: u32,
    /// How long a client waits for a connection.
    pub checkout_timeout: Duration,
    /// A connection unused for this long is closed; zero switches this off.
    pub idle_timeout: Duration,
    /// A connection older than this (less up to a tenth, at random) is closed when it is next free; zero switches this off.
    pub max_lifetime: Duration,
    /// Most connections being opened at one time; at least one.
    pub connect_concurrency: u32,
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        Self {
            size: config.size,
            queue_length_max: config.queue_length_max,
            checkout_timeout: config.checkout_timeout,
            idle_timeout: config.idle_timeout,
            max_lifetime: config.max_lifetime,
            connect_concurrency: config.connect_concurrency,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            size: 10,
            max_pools: 100,
            idle_timeout: Duration::from_secs(600),
            checkout_timeout: Duration::from_secs(15),
            max_lifetime: Duration::from_secs(3600),
            health_check_interval: Duration::from_secs(30),
            role_check_interval: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            connect_concurrency: 4,
            queue_length_max: 10_000,
            max_prepared_statements: 200,
            keep_unnamed_statements: Vec::new(),
            pinning: Pinning::Allow,
        }
    }
}
