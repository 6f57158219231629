//! How an import is wanted.

/// The word under which imports and rollbacks wait for each other.
pub(super) const TURN: &str = "import";

/// Whose word counts where sources, or the registry, say different things of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefer {
    /// The registry's where it knows the tenant, else the first source's.
    Registry,
    /// The first source's.
    Source,
}

/// How an import meets conflicts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whose word counts; without it, differences are conflicts.
    pub prefer: Option<Prefer>,
    /// The same slug means the same tenant, whatever the ids say.
    pub same_slug_same_tenant: bool,
    /// Import the tenants that have no conflicts.
    pub skip_conflicts: bool,
    /// Change nothing.
    pub dry_run: bool,
}
