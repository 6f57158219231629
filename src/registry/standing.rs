//! How far the registry can be relied on at this moment.

use std::time::Duration;

/// Whether the registry is heard of, and what is left without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Changes are heard of.
    pub reachable: bool,
    /// How long ago the changes were last read; none if they never were, and for a file, which has none to be missed.
    pub age: Option<Duration>,
    /// How many tenants are served without asking it.
    pub servable: usize,
}
