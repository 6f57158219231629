//! Settings of the registry.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// `[registry]` of the configuration file.
#[derive(Clone, PartialEq, Eq, Deserialize)]
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
    /// How often it is written down which tenants were used; never when zero.
    #[serde(with = "humantime_serde")]
    pub activity_interval: Duration,
    /// How often the control plane in the serving process looks for tenants that are not provisioned yet; never when zero.
    #[serde(with = "humantime_serde")]
    pub reconcile_interval: Duration,
    /// How long an instance that is not heard of keeps its part of the servers' connections.
    #[serde(with = "humantime_serde")]
    pub lease_ttl: Duration,
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
            activity_interval: Duration::from_secs(60),
            reconcile_interval: Duration::ZERO,
            lease_ttl: Duration::from_secs(10),
            pool_size: 4,
            timeout: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &self.url.as_deref().map(without_password))
            .field("file", &self.file)
            .field("cache_ttl", &self.cache_ttl)
            .field("negative_ttl", &self.negative_ttl)
            .field("cache_size", &self.cache_size)
            .field("poll_interval", &self.poll_interval)
            .field("snapshot_file", &self.snapshot_file)
            .field("stale_max", &self.stale_max)
            .field("activity_interval", &self.activity_interval)
            .field("reconcile_interval", &self.reconcile_interval)
            .field("lease_ttl", &self.lease_ttl)
            .field("pool_size", &self.pool_size)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// A connection URL as it may be shown. What is not surely free of a password is not shown at all.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|(_, rest)| !rest.contains("password")) else {
        return "***".to_owned();
    };
    match rest.rsplit_once('@') {
        Some((login, place)) => format!("{scheme}://{}:***@{place}", login.split(':').next().unwrap_or_default()),
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_any_part_of_the_url_is_not_shown() {
        assert_eq!(without_password("postgres://u:p@ss@h:1/d"), "postgres://u:***@h:1/d");
        assert_eq!(without_password("postgres://h/d?user=u&password=p"), "***");
        assert_eq!(without_password("host=h password=p"), "***");
    }
}
