//! Settings of the HTTP side.

use serde::{Deserialize, Deserializer};

use crate::auth::Secret;

/// `[http]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port of metrics and health; empty: none.
    pub address: String,
    /// What callers must present (`Authorization: Bearer …`) for everything but `/metrics`, `/healthz`, `/readyz` and the page.
    #[serde(deserialize_with = "secret")]
    pub token: Option<Secret>,
    /// Most tenants with a label of their own in metrics, those with the most traffic; the rest is `other`.
    pub tenant_labels: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: "127.0.0.1:9432".to_owned(), token: None, tenant_labels: 20 }
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}
