//! What an import came to.

use serde::Serialize;

use super::conflict::Conflict;

/// What an import came to.
#[derive(Debug, Default, Serialize)]
pub struct Imported {
    /// Its number; none when nothing was written.
    pub import: Option<i64>,
    /// Names of servers, modules and tenants that were made.
    pub created: Touched,
    /// Of those that were changed.
    pub changed: Touched,
    /// How many tenants were there just so.
    pub unchanged: usize,
    /// What stands against the rest.
    pub conflicts: Vec<Conflict>,
    /// Whether the conflicts kept everything from being written.
    pub refused: bool,
    /// What else is worth knowing.
    pub remarks: Vec<String>,
}

/// Names, by what they name.
#[derive(Debug, Default, Serialize)]
pub struct Touched {
    /// Servers.
    pub servers: Vec<String>,
    /// Modules.
    pub modules: Vec<String>,
    /// Tenants, by their slugs.
    pub tenants: Vec<String>,
}

impl Touched {
    /// Whether it names nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.modules.is_empty() && self.tenants.is_empty()
    }
}
