//! Environment variables over the file: `PGTENANT_<SECTION>_<KEY>`.

use std::env;

use toml::{Table, Value};

use super::error::{ConfigError, UnknownKey};
use super::file::Config;
use super::known::sections;

const PREFIX: &str = "PGTENANT_";
/// A URL or a file that replaces both `registry.url` and `registry.file`; the commands know it too.
const REGISTRY: &str = "PGTENANT_REGISTRY";
/// A variable of no known section is refused when it is this similar to a known one, and ignored otherwise.
const TYPING_ERRORS_MAX: usize = 2;

/// Our variables among those of the process, as [`Config::load`] takes them. What is not UTF-8 is kept as far as it is.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let lossy = env::vars_os().map(|(n, v)| (n.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()));
    lossy.filter(|(name, _)| name.starts_with(PREFIX))
}

/// Puts the variables into the table of a file. Later ones win; an empty one counts as absent.
pub(super) fn apply(table: &mut Table, variables: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
    let known: Vec<(String, &str, &str)> = sections()
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| (variable(section, key), *section, *key)))
        .collect();
    let mut unknown = Vec::new();
    for (name, text) in variables.filter(|(name, text)| name.starts_with(PREFIX) && !text.is_empty()) {
        if name == REGISTRY {
            set_registry(table, text);
        } else if let Some((_, section, key)) = known.iter().find(|(known, ..)| *known == name) {
            let value = typed(section, key, &text).map_err(|message| ConfigError::Environment { name, message })?;
            set(table, section, key, value);
        } else if let Some(nearest) = mistaken(&name, &known) {
            unknown.push(UnknownKey { key: name, nearest });
        }
    }
    if unknown.is_empty() { Ok(()) } else { Err(ConfigError::Unknown(unknown)) }
}

fn variable(section: &str, key: &str) -> String {
    format!("{PREFIX}{}_{}", section.to_uppercase(), key.to_uppercase())
}

fn set_registry(table: &mut Table, text: String) {
    if let Some(registry) = table.get_mut("registry").and_then(Value::as_table_mut) {
        registry.remove("url");
        registry.remove("file");
    }
    let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    set(table, "registry", if is_url { "url" } else { "file" }, Value::String(text));
}

fn set(table: &mut Table, section: &str, key: &str, value: Value) {
    match table.get_mut(section).and_then(Value::as_table_mut) {
        Some(inner) => {
            inner.insert(key.to_owned(), value);
        }
        None => {
            table.insert(section.to_owned(), Value::Table(Table::from_iter([(key.to_owned(), value)])));
        }
    }
}

/// The value as the key's type wants it: as text (durations are texts), number, truth value or list.
fn typed(section: &str, key: &str, text: &str) -> Result<Value, String> {
    let plain = Value::String(text.to_owned());
    let mut failure = match fits(section, key, &plain) {
        Ok(()) => return Ok(plain),
        Err(error) => error,
    };
    let literal = format!("v = {text}").parse::<Table>().ok().and_then(|mut parsed| parsed.remove("v"));
    if let Some(value) = literal.filter(|value| !value.is_str()) {
        match fits(section, key, &value) {
            Ok(()) => return Ok(value),
            // What is said of a number is more to the point than what is said of a text in a number's place.
            Err(error) => failure = error,
        }
    }
    let list = Value::Array(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect());
    match fits(section, key, &list) {
        Ok(()) => Ok(list),
        Err(_) => Err(failure),
    }
}

fn fits(section: &str, key: &str, value: &Value) -> Result<(), String> {
    let mut table = Table::new();
    set(&mut table, section, key, value.clone());
    table.try_into::<Config>().map(|_| ()).map_err(|error| error.message().to_owned())
}

/// The known variable that an unknown one was probably meant to be. Others than ours may begin with our prefix, as
/// Kubernetes makes `PGTENANT_SERVICE_HOST` and `PGTENANT_POOL_PORT_6432_TCP` for services of these names.
fn mistaken(name: &str, known: &[(String, &str, &str)]) -> Option<String> {
    let (distance, nearest) =
        known.iter().map(|(known, ..)| (strsim::damerau_levenshtein(name, known), known)).min_by_key(|(d, _)| *d)?;
    let in_section = known.iter().any(|(_, section, _)| name.starts_with(&variable(section, "")));
    let foreign = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    let is_foreign =
        foreign.iter().any(|end| name.ends_with(end)) || foreign.iter().any(|m| name.contains(&format!("{m}_")));
    (distance <= TYPING_ERRORS_MAX || (in_section && !is_foreign)).then(|| nearest.clone())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::Verifier;

    fn with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut table = "[registry]\nfile = 'a.toml'\n[pool]\nsize = 3".parse().unwrap();
        apply(&mut table, variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))?;
        Ok(table.try_into().unwrap())
    }

    #[test]
    fn a_variable_overrides_the_file_with_the_type_of_its_key() {
        let config = with(&[
            ("PGTENANT_POOL_SIZE", "7"),
            ("PGTENANT_POOL_IDLE_TIMEOUT", "90s"),
            ("PGTENANT_IDENTIFY_SEPARATORS", "@, :"),
            ("PGTENANT_IDENTIFY_PARAMETERS", r#"["tenant", "endpoint"]"#),
            ("PGTENANT_IDENTIFY_ALLOW_REPLICATION", "true"),
            ("PGTENANT_LISTEN_TLS", "require"),
            ("PGTENANT_HTTP_TOKEN", "12345"),
            ("PGTENANT_POOL_MAX_POOLS", ""),
        ])
        .unwrap();
        assert_eq!((config.pool.size, config.pool.idle_timeout), (7, Duration::from_secs(90)));
        assert_eq!(config.identify.separators, ["@", ":"]);
        assert_eq!(config.identify.parameters, ["tenant", "endpoint"]);
        assert!(config.identify.allow_replication);
        assert_eq!(config.listen.tls, crate::frontend::ClientTls::Require);
        assert_eq!(config.http.token.unwrap().expose(), "12345");
        assert_eq!(config.pool.max_pools, 100);
    }

    #[test]
    fn console_users_may_come_from_the_environment() {
        let verifier = Verifier::generate("x", 4096);
        let users = format!(r#"[{{ name = "ops", verifier = "{verifier}", role = "stats" }}]"#);
        let config = with(&[("PGTENANT_CONSOLE_USERS", &users)]).unwrap();
        assert_eq!(config.console.users[0].name, "ops");
    }

    #[test]
    fn the_registry_variable_replaces_url_and_file() {
        let config = with(&[("PGTENANT_REGISTRY", "postgres://r/x")]).unwrap();
        assert_eq!((config.registry.url.as_deref(), config.registry.file), (Some("postgres://r/x"), None));
        let config = with(&[("PGTENANT_REGISTRY", "b.toml")]).unwrap();
        assert_eq!(config.registry.file.unwrap().to_str(), Some("b.toml"));
    }

    #[test]
    fn a_mistyped_variable_is_refused_and_a_foreign_one_ignored() {
        for (name, nearest) in [
            ("PGTENANT_POOL_SISE", "PGTENANT_POOL_SIZE"),
            ("PGTENANT_POL_SIZE", "PGTENANT_POOL_SIZE"),
            ("PGTENANT_LOG_COLOUR", "PGTENANT_LOG_FORMAT"),
        ] {
            match with(&[(name, "1")]) {
                Err(ConfigError::Unknown(keys)) => assert_eq!(keys[0].nearest, nearest),
                other => panic!("{other:?}"),
            }
        }
        for name in
            ["PGTENANT_SERVICE_HOST", "PGTENANT_POOL_PORT_6432_TCP", "PGTENANT_PROXY", "PGTENANT_PG_BIN", "HOME"]
        {
            assert!(with(&[(name, "1")]).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_value_that_does_not_fit_names_its_variable() {
        for text in ["-1", "many", "99999999999"] {
            let error = with(&[("PGTENANT_POOL_SIZE", text)]).unwrap_err();
            assert!(error.to_string().starts_with("environment variable PGTENANT_POOL_SIZE: invalid"), "{error}");
        }
    }
}
