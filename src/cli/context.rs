//! What every command starts from: the global flags, the registry they lead to, and how to speak.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use super::output::Failure;
use super::source::Source;
use crate::config::{Config, environment};
use crate::control::Control;
use crate::net::tls;
use crate::registry::{Admin, Contents};
use crate::telemetry::{self, Log};

/// The variables that name the registry.
const REGISTRY: [&str; 3] = ["PGTENANT_REGISTRY", "PGTENANT_REGISTRY_URL", "PGTENANT_REGISTRY_FILE"];

/// Flags that every command knows.
#[derive(Debug, Args)]
pub(super) struct Globals {
    /// The registry: the URL of its database, or a TOML file. Without it, the configuration file says.
    #[arg(long, global = true, value_name = "URL|FILE", env = "PGTENANT_REGISTRY", hide_env_values = true)]
    pub(super) registry: Option<String>,
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", env = "PGTENANT_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Print JSON, and nothing else, on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// Say more on standard error; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Where clients reach the proxy, for the connection strings that are shown.
    #[arg(long, global = true, value_name = "HOST:PORT", env = "PGTENANT_PROXY", default_value = "127.0.0.1:6432")]
    proxy: String,
}

impl Globals {
    /// The configuration: the file, the environment over it, and the flags over both.
    pub(super) fn load(&self) -> anyhow::Result<Config> {
        let flag = self.registry().map(|place| {
            let key = if is_url(place) { "PGTENANT_REGISTRY_URL" } else { "PGTENANT_REGISTRY_FILE" };
            (key.to_owned(), place.to_owned())
        });
        // The flag, or the variable PGTENANT_REGISTRY in its place, leaves nothing of what names the registry otherwise.
        let others = environment().filter(|(name, _)| flag.is_none() || !REGISTRY.contains(&name.as_str()));
        let file = self.config.as_deref().filter(|file| !file.as_os_str().is_empty());
        let mut config = Config::load(file, others.chain(flag.clone())).context("configuration")?;
        if self.verbose > 0 {
            config.log.level = if self.verbose == 1 { "debug" } else { "trace" }.to_owned();
        }
        Ok(config)
    }

    /// The registry that is named on the command line or by its variable; an empty one counts as absent.
    fn registry(&self) -> Option<&str> {
        self.registry.as_deref().filter(|place| !place.is_empty())
    }
}

/// The global flags, made sense of.
pub(super) struct Context {
    globals: Globals,
    log: Log,
}

impl Context {
    /// Starts the log and makes the process ready for TLS.
    pub(super) fn new(globals: Globals) -> Result<Self, Failure> {
        tls::install_provider();
        let level = match globals.verbose {
            0 => "warn",
            1 => "info",
            _ => "debug",
        };
        let log = Log::start(&telemetry::Config { level: level.to_owned(), ..telemetry::Config::default() });
        Ok(Self { globals, log: log.context("start the log")? })
    }

    /// Whether standard output is for a program.
    pub(super) const fn json(&self) -> bool {
        self.globals.json
    }

    /// Keeps warnings out of a command that provokes them, unless more was asked for.
    pub(super) fn hush(&self) -> anyhow::Result<()> {
        if self.globals.verbose == 0 { Ok(self.log.set_level("error")?) } else { Ok(()) }
    }

    /// Where clients reach the proxy.
    pub(super) fn proxy(&self) -> &str {
        &self.globals.proxy
    }

    /// The configuration: the file, the environment and the flags.
    pub(super) fn config(&self) -> anyhow::Result<Config> {
        self.globals.load()
    }

    /// The registry database that the flags, the environment or the configuration name, in this order.
    pub(super) async fn admin(&self) -> anyhow::Result<Admin> {
        let place = self.registry()?;
        if !is_url(&place) {
            bail!(
                "the registry {place} is a file, which is changed with an editor; this command needs a registry database"
            );
        }
        Ok(Admin::connect(&place).await?)
    }

    /// The control plane over that registry.
    pub(super) async fn control(&self) -> anyhow::Result<Control> {
        Ok(Control::new(self.admin().await?))
    }

    /// The registry for a command that only reads: a database or a file.
    pub(super) async fn source(&self) -> anyhow::Result<Source> {
        let place = self.registry()?;
        if is_url(&place) {
            return Ok(Source::Database(Control::new(Admin::connect(&place).await?)));
        }
        Ok(Source::File(Contents::read(Path::new(&place)).await?))
    }

    fn registry(&self) -> anyhow::Result<String> {
        if let Some(place) = self.globals.registry() {
            return Ok(place.to_owned());
        }
        if self.globals.config.is_none() && environment().all(|(name, _)| !name.starts_with("PGTENANT_REGISTRY")) {
            bail!("no registry given; say --registry URL, set PGTENANT_REGISTRY, or name it in --config FILE");
        }
        let registry = self.config()?.registry;
        let file = registry.file.map(|file| file.display().to_string());
        registry.url.or(file).context("the configuration names no registry; say --registry URL")
    }
}

/// Whether a registry is a database (a URL, or libpq's `key=value` words) and not a file.
fn is_url(place: &str) -> bool {
    let url = place.starts_with("postgres://") || place.starts_with("postgresql://");
    url || ["host=", "hostaddr=", "dbname=", "user=", "port="].iter().any(|word| place.contains(word))
}

#[cfg(test)]
mod tests {
    use super::is_url;

    #[test]
    fn a_registry_is_a_url_or_a_file() {
        assert!(is_url("postgres://h/d") && is_url("postgresql:///d") && is_url("host=/tmp dbname=d"));
        assert!(!is_url("tenants.toml") && !is_url("/etc/pgtenant/tenants.toml"));
    }
}
