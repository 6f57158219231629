//! What differs between two configurations, key by key, for those who read one again.

use std::fmt;

use toml::{Table, Value};

use super::file::Config;
use super::known::sections;

/// Keys whose values are not shown.
const SECRETS: [&str; 3] = ["registry.url", "http.token", "console.users"];
/// Keys that the process looks at once, when it starts; a section's name stands for all its keys.
const AT_START: [&str; 10] = [
    "listen.address",
    "listen.unix_socket_dir",
    "listen.threads",
    "listen.engine",
    "listen.reuse_port",
    "listen.peer_address",
    "registry",
    "http.address",
    "http.tenant_labels",
    "log.format",
];

/// The file and the variables as they were given: what is not there has its default.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Given(pub(super) Table);

impl Eq for Given {}

impl fmt::Debug for Given {
    /// Secrets are among it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given(***)")
    }
}

/// A key with another value than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, as `section.key`.
    pub key: String,
    /// Whether it takes effect while the process runs.
    pub is_live: bool,
    from: Option<String>,
    to: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if SECRETS.contains(&self.key.as_str()) {
            return Ok(());
        }
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "default".to_owned());
        write!(f, " ({} to {})", shown(&self.from), shown(&self.to))
    }
}

impl Config {
    /// The keys that have another value in `new`, in the order of the sections.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (section, keys) in sections() {
            for key in keys {
                let (from, to) = (self.given.value(section, key), new.given.value(section, key));
                if alone(section, key, from) != alone(section, key, to) {
                    let name = format!("{section}.{key}");
                    let is_live = !AT_START.contains(&section) && !AT_START.contains(&name.as_str());
                    let text = |value: Option<&Value>| value.map(ToString::to_string);
                    changes.push(Change { key: name, is_live, from: text(from), to: text(to) });
                }
            }
        }
        changes
    }
}

impl Given {
    fn value(&self, section: &str, key: &str) -> Option<&Value> {
        self.0.get(section)?.get(key)
    }
}

/// A configuration of this one key: two ways to write a value, or to leave it out, make the same one.
fn alone(section: &str, key: &str, value: Option<&Value>) -> Option<Config> {
    let inner: Table = value.map(|value| (key.to_owned(), value.clone())).into_iter().collect();
    Table::from_iter([(section.to_owned(), Value::Table(inner))]).try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config { given: Given(text.parse().unwrap()), ..Config::default() }
    }

    fn changes(old: &str, new: &str) -> Vec<(String, bool)> {
        config(old).changes(&config(new)).iter().map(|change| (change.to_string(), change.is_live)).collect()
    }

    #[test]
    fn a_value_written_otherwise_or_left_out_where_it_is_the_default_is_no_change() {
        let old = "[timeouts]\nlogin = '60s'\n[pool]\nsize = 10";
        assert_eq!(changes(old, "[timeouts]\nlogin = '1m'\nclient_idle = '0s'"), []);
    }

    #[test]
    fn each_changed_key_is_named_with_its_values_and_whether_it_takes_effect() {
        let new = "[listen]\naddress = 'h:1'\n[timeouts]\nlogin = '2s'\n[registry]\ncache_ttl = '1s'";
        assert_eq!(
            changes("[timeouts]\nlogin = '1s'", new),
            [
                ("listen.address (default to \"h:1\")".to_owned(), false),
                ("registry.cache_ttl (default to \"1s\")".to_owned(), false),
                ("timeouts.login (\"1s\" to \"2s\")".to_owned(), true),
            ]
        );
    }

    #[test]
    fn secrets_are_named_and_not_shown() {
        let verifier = crate::auth::Verifier::generate("hushhush", 4096).to_string();
        let users = format!("[[console.users]]\nname = 'a'\nverifier = '{verifier}'");
        for (old, new, key) in [
            ("[http]\ntoken = 'hush'", "[http]\ntoken = 'hushhush'", "http.token"),
            ("", "[registry]\nurl = 'postgres://u:hush@h/d'", "registry.url"),
            ("", users.as_str(), "console.users"),
        ] {
            let shown: Vec<_> = changes(old, new).into_iter().map(|(text, _)| text).collect();
            assert_eq!(shown, [key]);
        }
        assert!(!format!("{:?}", config("[http]\ntoken = 'hush'")).contains("hush"));
    }

    #[test]
    fn what_is_looked_at_only_at_the_start_are_keys_and_sections_that_there_are() {
        for name in AT_START {
            let (section, key) = name.split_once('.').unwrap_or((name, ""));
            let (_, keys) = sections().into_iter().find(|(known, _)| *known == section).unwrap();
            assert!(key.is_empty() || keys.contains(&key), "{name}");
        }
    }
}
