//! The configuration as a whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Table;

use super::changes::Given;
use super::check;
use super::environment;
use super::error::ConfigError;
use super::known;
use crate::frontend::{IdentifyConfig, ListenConfig};
use crate::{admin, console, limits, pool, registry, session, telemetry};

/// Everything that can be configured; `config/pgtenant.toml` shows it all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients come in.
    pub listen: ListenConfig,
    /// Where tenants are looked up.
    pub registry: registry::Config,
    /// How a connection names its tenant.
    pub identify: IdentifyConfig,
    /// Backend connections.
    pub pool: pool::Config,
    /// What one tenant may take.
    pub limits: limits::Config,
    /// Time-outs of sessions.
    pub timeouts: session::Config,
    /// Who may use the admin console.
    pub console: console::Config,
    /// Metrics and health.
    pub http: admin::Config,
    /// What is logged, and how.
    pub log: telemetry::Config,
    /// When it is read again.
    pub reload: ReloadConfig,
    #[serde(skip)]
    pub(super) given: Given,
}

/// `[reload]` of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadConfig {
    /// How often it is looked whether the file, or one that it names, is another than before; never when zero.
    #[serde(with = "humantime_serde")]
    pub watch: Duration,
}

impl Config {
    /// Reads the file, if one is given, lets the variables override it (see [`super::environment`]), and checks the result.
    /// Relative paths in the file are relative to its directory.
    ///
    /// # Errors
    /// The file cannot be read or is no TOML, a key is unknown, a value has the wrong type or cannot be used.
    pub fn load(path: Option<&Path>, variables: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut table = match path {
            Some(path) => read(path)?,
            None => Table::new(),
        };
        let variables: Vec<_> = variables.collect();
        one_registry(&mut table, &variables);
        environment::apply(&mut table, variables.into_iter())?;
        let given = Given(table.clone());
        let config: Self = table.try_into().map_err(|error| syntax(path.unwrap_or(Path::new("")), "", &error))?;
        let problems = check::problems(&config);
        if problems.is_empty() { Ok(Self { given, ..config }) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// The files besides its own that it is read together with.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let listen = &self.listen;
        let files = [&listen.tls_certificate, &listen.tls_key, &listen.client_ca, &self.registry.file];
        files.into_iter().flatten().cloned().collect()
    }

    /// Every path in the configuration.
    fn paths(table: &mut Table) -> impl Iterator<Item = &mut toml::Value> {
        const PATHS: [(&str, &[&str]); 2] = [
            ("listen", &["unix_socket_dir", "tls_certificate", "tls_key", "client_ca"]),
            ("registry", &["file", "snapshot_file"]),
        ];
        table.iter_mut().flat_map(|(section, value)| {
            let keys = PATHS.iter().find(|(name, _)| name == section).map_or(&[][..], |(_, keys)| keys);
            let inner = value.as_table_mut().into_iter().flat_map(Table::iter_mut);
            inner.filter(|(key, _)| keys.contains(&key.as_str())).map(|(_, value)| value)
        })
    }
}

/// A variable that names the registry in one way replaces a file's naming it in the other.
fn one_registry(table: &mut Table, variables: &[(String, String)]) {
    let given = |name: &str| variables.iter().any(|(variable, _)| variable == name);
    let Some(registry) = table.get_mut("registry").and_then(toml::Value::as_table_mut) else { return };
    for (variable, replaced) in [("PGTENANT_REGISTRY_URL", "file"), ("PGTENANT_REGISTRY_FILE", "url")] {
        if given(variable) {
            registry.remove(replaced);
        }
    }
}

/// Reads a file and refuses unknown keys and wrong types, while the line of each is still known.
fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut table: Table = text.parse().map_err(|error| syntax(path, &text, &error))?;
    let unknown = known::unknown_in(&table);
    if !unknown.is_empty() {
        return Err(ConfigError::Unknown(unknown));
    }
    toml::from_str::<Config>(&text).map_err(|error| syntax(path, &text, &error))?;
    let dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
    for value in Config::paths(&mut table) {
        let joined: Option<PathBuf> = value.as_str().map(|text| dir.join(text));
        if let Some(joined) = joined.as_ref().and_then(|joined| joined.to_str()) {
            *value = toml::Value::String(joined.to_owned());
        }
    }
    Ok(table)
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| before.matches('\n').count() + 1);
    ConfigError::Syntax { path: path.to_owned(), line, message: error.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../config/pgtenant.toml");

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgtenant.toml");
        fs::write(&path, text).unwrap();
        Config::load(Some(&path), std::iter::empty())
    }

    #[test]
    fn the_example_is_the_defaults() {
        assert_eq!(toml::from_str::<Config>(EXAMPLE).unwrap(), Config::default());
    }

    #[test]
    fn the_example_shows_every_key_and_each_works_when_uncommented() {
        // A key that is absent by default is shown as `#key = value`, without a space; prose has one.
        let uncommented: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let table: Table = uncommented.parse().unwrap();
        for (section, keys) in known::sections() {
            for key in keys {
                assert!(table[section].as_table().unwrap().contains_key(*key), "{section}.{key} is not in the example");
            }
        }
        assert_eq!(known::unknown_in(&table), []);
        toml::from_str::<Config>(&uncommented).unwrap();
    }

    #[test]
    fn paths_in_the_file_are_relative_to_the_file() {
        let config = load("[registry]\nfile = 'tenants.toml'\n[listen]\nunix_socket_dir = '/'").unwrap();
        let file = config.registry.file.unwrap();
        assert!(file.is_absolute() && file.ends_with("tenants.toml"));
        assert_eq!(config.listen.unix_socket_dir.unwrap(), Path::new("/"));
    }

    #[test]
    fn a_wrong_type_is_named_with_its_line() {
        let error = load("[pool]\nsize = 'many'").unwrap_err().to_string();
        assert!(error.contains("pgtenant.toml, line 2: invalid type"), "{error}");
    }

    #[test]
    fn a_console_password_that_is_no_verifier_is_refused_and_not_repeated() {
        let text = "registry.file = 'x'\n[[console.users]]\nname = 'a'\nverifier = 'hushhush'";
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains("line 4") && !error.contains("hushhush"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = load("[registry]\nfile = 'x'\n[timeouts]\nlogn = '1s'").unwrap_err();
        assert_eq!(error.to_string(), "unknown configuration key timeouts.logn; did you mean timeouts.login?");
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        let verifier = crate::auth::Verifier::generate("hushhush", 4096).to_string();
        let stored = verifier.rsplit('$').next().unwrap();
        let text = format!(
            "[registry]\nurl = 'postgres://u:hushhush@h/d'\n[http]\ntoken = 'hushhush'\n\
             [[console.users]]\nname = 'a'\nverifier = '{verifier}'"
        );
        let config: Config = toml::from_str(&text).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("hushhush") && !shown.contains(stored), "{shown}");
        assert!(shown.contains("postgres://u:***@h/d"), "{shown}");
    }
}
