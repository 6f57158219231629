//! Settings of the console.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::auth::Verifier;

/// `[console]` of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who may use the console; nobody when empty.
    pub users: Vec<User>,
}

/// `[[console.users]]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The user name.
    pub name: String,
    /// What the user's password is compared with.
    #[serde(deserialize_with = "verifier")]
    pub verifier: Verifier,
    /// What the user may do.
    #[serde(default)]
    pub role: Role,
}

/// What a console user may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look and change.
    Admin,
    /// Only look.
    #[default]
    Stats,
}

fn verifier<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Verifier, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}
