//! Settings of sessions.

use std::time::Duration;

use serde::Deserialize;

/// `[timeouts]` of the configuration file. Zero switches a time-out off, `login` and `drain` excepted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// From accept to the first ReadyForQuery.
    #[serde(with = "humantime_serde")]
    pub login: Duration,
    /// A client that leaves a transaction open and says nothing.
    #[serde(with = "humantime_serde")]
    pub idle_in_transaction: Duration,
    /// A client outside a transaction that says nothing.
    #[serde(with = "humantime_serde")]
    pub client_idle: Duration,
    /// A client outside a transaction that says nothing and keeps its server connection, in transaction mode.
    #[serde(with = "humantime_serde")]
    pub pinned: Duration,
    /// One statement, from sending it to its answer.
    #[serde(with = "humantime_serde")]
    pub statement: Duration,
    /// A client that takes no bytes of its answer.
    #[serde(with = "humantime_serde")]
    pub client_write: Duration,
    /// Longest wait of a client whose login has failed again and again from its address.
    #[serde(with = "humantime_serde")]
    pub login_backoff: Duration,
    /// How long running transactions may go on after SIGTERM.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(60),
            idle_in_transaction: Duration::ZERO,
            client_idle: Duration::ZERO,
            pinned: Duration::ZERO,
            statement: Duration::ZERO,
            client_write: Duration::from_secs(600),
            login_backoff: Duration::from_secs(10),
            drain: Duration::from_secs(30),
        }
    }
}
