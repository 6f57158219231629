//! Settings of the registry.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// `[registry]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connection URL of the registry database. Exactly one of `url` and `file` is given.
    pub url: Option<String>,
    /// The registry as a TOML file.
    pub file: Option<PathBuf>,
    /// How long a known tenant is used without asking again (changes are noticed sooner, by NOTIFY and poll).
    #[serde(with = "humantime_serde")]
    pub cache_ttl: Duration,
    /// How long an unknown name is remembered as unknown.
    #[serde(with = "humantime_serde")]
    pub negative_ttl: Duration,
    /// Most names remembered, known and unknown together.
    pub cache_size: usize,
    /// How often the change table is polled; at most half a second keeps suspensions within a second.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// Known tenants on disk, for a restart while the registry is down; none when absent.
    pub snapshot_file: Option<PathBuf>,
    /// Known tenants, cached or from the snapshot, are served this long while the registry is down.
    #[serde(with = "humantime_serde")]
    pub stale_max: Duration,
    /// Connections to the registry database.
    pub pool_size: usize,
    /// How long one registry query may take, connecting included.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            file: None,
            cache_ttl: Duration::from_secs(60),
            negative_ttl: Duration::from_secs(5),
            cache_size: 100_000,
            poll_interval: Duration::from_millis(400),
            snapshot_file: None,
            stale_max: Duration::from_secs(24 * 3600),
            pool_size: 4,
            timeout: Duration::from_secs(5),
        }
    }
}
