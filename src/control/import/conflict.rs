//! What keeps an import from being made, tenant by tenant, and what would resolve it.

use serde::Serialize;

/// What kind of conflict it is: also what resolves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An id that is none.
    Id,
    /// A slug that is missing or none.
    Slug,
    /// A schema that is not said, or that no tenant may have.
    Schema,
    /// The same tenant twice in one source.
    Duplicate,
    /// A slug that belongs to tenants with different ids.
    SlugTaken,
    /// A name that is another tenant's alias.
    NameTaken,
    /// One tenant with different names.
    NamesDiffer,
    /// One tenant with different slugs.
    SlugsDiffer,
    /// Active here, not active there.
    StatesDiffer,
    /// One source says that it subscribes to a module, the module's own says that it does not.
    SubscriptionsDiffer,
    /// A schema that is not where it should be.
    SchemaMissing,
    /// A place that another tenant has.
    PlaceTaken,
    /// A role that another tenant has.
    RoleTaken,
    /// A module that the tenant has elsewhere.
    Elsewhere,
    /// A server, module or tenant of a file that the registry has otherwise.
    Differs,
}

impl Kind {
    /// The word in output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Slug => "slug",
            Self::Schema => "schema",
            Self::Duplicate => "duplicate",
            Self::SlugTaken => "slug-taken",
            Self::NameTaken => "name-taken",
            Self::NamesDiffer => "names-differ",
            Self::SlugsDiffer => "slugs-differ",
            Self::StatesDiffer => "states-differ",
            Self::SubscriptionsDiffer => "subscriptions-differ",
            Self::SchemaMissing => "schema-missing",
            Self::PlaceTaken => "place-taken",
            Self::RoleTaken => "role-taken",
            Self::Elsewhere => "elsewhere",
            Self::Differs => "differs",
        }
    }

    /// The flag that resolves it, beside mending the source and `--skip-conflicts`.
    #[must_use]
    pub const fn flag(self) -> Option<&'static str> {
        match self {
            Self::NamesDiffer | Self::SlugsDiffer | Self::StatesDiffer | Self::SubscriptionsDiffer | Self::Differs => {
                Some("--prefer")
            }
            Self::SlugTaken => Some("--same-slug-same-tenant"),
            _ => None,
        }
    }
}

/// One thing that keeps a tenant from being imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// What it is.
    pub kind: Kind,
    /// The tenant, by its slug, else its id, as the source has it.
    pub tenant: String,
    /// The modules whose sources say so.
    pub sources: Vec<String>,
    /// What is wrong.
    pub detail: String,
    /// The flag that resolves it, if one does.
    pub flag: Option<&'static str>,
}

impl Conflict {
    /// Of this kind.
    pub(super) fn new(kind: Kind, tenant: &str, sources: &[String], detail: String) -> Self {
        // Both hold text of the sources.
        Self { kind, tenant: shown(tenant), sources: sources.to_vec(), detail: shown(&detail), flag: kind.flag() }
    }
}

/// Text of a source, fit for a terminal: whatever is not printable in its escaped form.
pub(super) fn shown(text: &str) -> String {
    let escaped = |c: char| if matches!(c, '"' | '\'' | '\\') { c.to_string() } else { c.escape_debug().to_string() };
    text.chars().map(escaped).collect()
}
