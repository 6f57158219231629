//! Reading the configuration again: all of it is looked at before any of it is applied, and what changed is said.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use super::context::Globals;
use super::service;
use crate::admin;
use crate::config::Config;
use crate::proxy::{self, Proxy};
use crate::registry::Registry;
use crate::telemetry::Log;

/// What a reload needs, and what is in force.
pub(super) struct Reloader<'a> {
    pub(super) globals: &'a Globals,
    pub(super) registry: &'a Registry,
    pub(super) http: Option<&'a admin::Server>,
    pub(super) log: Log,
    /// What the process was started with.
    started: Arc<Config>,
    /// What was applied last.
    current: Arc<Config>,
}

impl<'a> Reloader<'a> {
    pub(super) fn new(
        globals: &'a Globals,
        registry: &'a Registry,
        http: Option<&'a admin::Server>,
        log: Log,
        config: Config,
    ) -> Self {
        let started = Arc::new(config);
        Self { globals, registry, http, log, current: Arc::clone(&started), started }
    }

    /// What was applied last.
    pub(super) fn current(&self) -> &Config {
        &self.current
    }

    /// Reads everything again and applies what can change; where anything is wrong, nothing changes.
    pub(super) async fn reload(&mut self, proxy: &Proxy) -> anyhow::Result<()> {
        service::reloading();
        let done = self.apply(proxy).await;
        if let Err(error) = &done {
            tracing::error!(error = format!("{error:#}"), "not reloaded, nothing has changed");
        }
        service::ready();
        done
    }

    async fn apply(&mut self, proxy: &Proxy) -> anyhow::Result<()> {
        let new = self.globals.load()?;
        let prepared = proxy.prepare(&proxy_config(&new))?;
        let tenants = self.registry.read_again().await.context("read the registry again")?;
        self.log.set_level(&new.log.level)?;
        // From here on nothing can fail.
        proxy.apply(prepared);
        let tenants_changed = self.registry.apply(tenants);
        if let Some(http) = self.http {
            http.set_token(new.http.token.clone());
        }
        for change in self.started.changes(&new).iter().filter(|change| !change.is_live) {
            tracing::warn!(key = change.key, "changed, but takes effect only after a restart");
        }
        let changed: Vec<_> = self.current.changes(&new).into_iter().filter(|change| change.is_live).collect();
        let changed: Vec<_> = changed.iter().map(ToString::to_string).collect();
        let changed = if changed.is_empty() { "nothing".to_owned() } else { changed.join(", ") };
        tracing::info!(changed, tenants_changed, "reloaded");
        self.current = Arc::new(new);
        Ok(())
    }
}

/// The data plane's part of the configuration.
pub(super) fn proxy_config(config: &Config) -> proxy::Config {
    proxy::Config {
        listen: config.listen.clone(),
        identify: config.identify.clone(),
        pool: config.pool.clone(),
        limits: config.limits,
        timeouts: config.timeouts.clone(),
        console: config.console.clone(),
    }
}

/// Looks now and then whether one of the files that a reload would read is another than before.
pub(super) struct FileWatch {
    interval: Duration,
    seen: Vec<(PathBuf, Option<Marks>)>,
}

/// What tells one state of a file from the next: when and how large it was written, and which file it is.
type Marks = (SystemTime, u64, u64);

impl FileWatch {
    /// As the configuration file is now, before it is read: what is written after that is a change.
    pub(super) fn begin(globals: &Globals) -> Self {
        let seen = globals.config.iter().map(|path| (path.clone(), marks(path))).collect();
        Self { interval: Duration::ZERO, seen }
    }

    /// As all files are now, before they are read again.
    pub(super) fn again(&mut self) {
        self.seen.iter_mut().for_each(|(path, seen)| *seen = marks(path));
    }

    /// Watches the files of this configuration, as often as it says. Those that were watched before stay as they were seen.
    pub(super) fn follow(&mut self, globals: &Globals, config: &Config) {
        self.interval = config.reload.watch;
        let files: Vec<_> = globals.config.iter().cloned().chain(config.files()).collect();
        self.seen.retain(|(path, _)| files.contains(path));
        for path in files {
            if self.seen.iter().all(|(seen, _)| *seen != path) {
                let marks = marks(&path);
                self.seen.push((path, marks));
            }
        }
    }

    /// Waits until one has changed. Cancel-safe.
    pub(super) async fn changed(&self) {
        if self.interval.is_zero() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(self.interval).await;
            if let Some((path, _)) = self.seen.iter().find(|(path, seen)| marks(path) != *seen) {
                tracing::info!(path = %path.display(), "file has changed");
                return;
            }
        }
    }
}

/// None for a file that is not there now.
fn marks(path: &PathBuf) -> Option<Marks> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), found.ino()))
}
