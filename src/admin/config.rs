//! Settings of the HTTP side.

use serde::{Deserialize, Deserializer};

use crate::auth::Secret;

/// `[http]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port of metrics and health; empty: none.
    pub address: String,
    /// What callers must present (`Authorization: Bearer …`) for everything but `/metrics`, `/healthz` and `/readyz`.
    #[serde(deserialize_with = "secret")]
    pub token: Option<Secret>,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: "127.0.0.1:9432".to_owned(), token: None }
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}
