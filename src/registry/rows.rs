//! The registry's rows as the control plane reads and writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address::Network;
use crate::limits::Own;
use crate::tenant::{
    Alias, DatabaseName, Isolation, Login, ModuleName, PoolMode, Pooling, RoleName, ServerName, Slug, TenantId,
    TenantStatus,
};

/// A module (service): what its tenants' places are like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleRow {
    /// Its name: the database that clients ask for.
    pub name: ModuleName,
    /// What separates its tenants, where a placement says nothing else.
    pub isolation: Isolation,
    /// The server of its places, where a subscription says nothing else.
    pub server: Option<ServerName>,
    /// The common database, for `schema` and `shared`.
    pub database: Option<DatabaseName>,
    /// Whose connections serve it.
    pub pooling: Pooling,
    /// How long clients keep a backend; the configuration's when absent.
    pub pool_mode: Option<PoolMode>,
    /// Most connections of one pool; the configuration's when absent.
    pub pool_size: Option<u32>,
    /// Name of a tenant's schema, of `{slug}`, `{id}` and `{module}`; for `shared`, the common schema.
    pub schema_pattern: Option<String>,
    /// Name of a tenant's database, likewise.
    pub database_pattern: Option<String>,
    /// Name of a tenant's role, likewise.
    pub role_pattern: Option<String>,
    /// The database of which a tenant's own is made a copy; PostgreSQL's `template1` when absent.
    #[serde(default)]
    pub template: Option<DatabaseName>,
    /// Schemas that follow the tenant's own in `search_path`.
    #[serde(default)]
    pub search_path_extra: Vec<String>,
    /// Directory of its migrations.
    pub migrations: Option<String>,
    /// Further names under which clients may ask for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// A further parameter that carries the tenant id (for example `app.tenant_id`).
    pub tenant_parameter: Option<String>,
    /// On a shared pool, `SET ROLE` to the placement's role at each hand-over.
    #[serde(default)]
    pub set_role: bool,
}

impl ModuleRow {
    /// A module with nothing but what every module has.
    #[must_use]
    pub fn new(name: ModuleName, isolation: Isolation) -> Self {
        Self {
            name,
            isolation,
            server: None,
            database: None,
            pooling: Pooling::PerTenant,
            pool_mode: None,
            pool_size: None,
            schema_pattern: None,
            database_pattern: None,
            role_pattern: None,
            template: None,
            search_path_extra: Vec::new(),
            migrations: None,
            aliases: Vec::new(),
            tenant_parameter: None,
            set_role: false,
        }
    }

    /// The schema that a tenant's place gets, unless it is given; `None` where the isolation has none.
    /// The same rules as `public.subscribe_tenant_to_module`.
    #[must_use]
    pub fn schema_for(&self, slug: &Slug, id: TenantId) -> Option<String> {
        match self.isolation {
            Isolation::Database => None,
            Isolation::Schema => Some(self.expand(self.schema_pattern.as_deref().unwrap_or(PLACE_PATTERN), slug, id)),
            Isolation::Shared => self.schema_pattern.clone(),
        }
    }

    /// The database that a tenant's place gets, unless it is given; `None` where the module names no common one.
    #[must_use]
    pub fn database_for(&self, slug: &Slug, id: TenantId) -> Option<String> {
        match self.isolation {
            Isolation::Database => {
                Some(self.expand(self.database_pattern.as_deref().unwrap_or(PLACE_PATTERN), slug, id))
            }
            Isolation::Schema | Isolation::Shared => self.database.as_ref().map(|name| name.as_str().to_owned()),
        }
    }

    /// The role that a tenant gets with its first place.
    #[must_use]
    pub fn role_for(&self, slug: &Slug, id: TenantId) -> String {
        self.expand(self.role_pattern.as_deref().unwrap_or(ROLE_PATTERN), slug, id)
    }

    fn expand(&self, pattern: &str, slug: &Slug, id: TenantId) -> String {
        pattern
            .replace("{slug}", slug.as_str())
            .replace("{id}", &id.to_string())
            .replace("{module}", self.name.as_str())
    }
}

/// As `pgtenant.default_pattern` has it.
const PLACE_PATTERN: &str = "{module}_{slug}";
const ROLE_PATTERN: &str = "{slug}_app";

/// A tenant, without its names, places and logins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRow {
    /// Its identity.
    pub id: TenantId,
    /// Its short name.
    pub slug: Slug,
    /// Its name for people.
    pub name: String,
    /// Whom to write to.
    pub contact: Option<String>,
    /// Whether it is served.
    pub status: TenantStatus,
    /// When a suspension ends running sessions.
    #[serde(default, with = "epoch")]
    pub sessions_end_at: Option<SystemTime>,
    /// The module a client gets that names none.
    pub default_module: Option<ModuleName>,
    /// What it may take, where that is not what the proxies' configuration says.
    #[serde(default)]
    pub limits: Own,
    /// Raised by every change of any of its rows; what is written here does not count.
    #[serde(default)]
    pub generation: i64,
}

impl TenantRow {
    /// An active tenant that has its slug for a name, and nothing else.
    #[must_use]
    pub fn new(id: TenantId, slug: Slug) -> Self {
        Self {
            id,
            name: slug.to_string(),
            slug,
            contact: None,
            status: TenantStatus::Active,
            sessions_end_at: None,
            default_module: None,
            limits: Own::default(),
            generation: 0,
        }
    }
}

/// Whether a place is there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlacementStatus {
    /// Asked for; `tenant reconcile` makes it.
    Provisioning,
    /// There, with its rights.
    Ready,
    /// Asked to be gone, with its data; `tenant reconcile` finishes that, too.
    Dropping,
}

impl PlacementStatus {
    /// The word in registry and output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Ready => "ready",
            Self::Dropping => "dropping",
        }
    }
}

/// A tenant's place for one module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRow {
    /// The module.
    pub module: ModuleName,
    /// What separates the place from other tenants'.
    pub isolation: Isolation,
    /// The server it is on.
    pub server: ServerName,
    /// The database it is in.
    pub database: DatabaseName,
    /// Its schema; a plain `String` since adopted places may be in `public`.
    pub schema: Option<String>,
    /// The role whose rights it grants.
    pub role: Option<RoleName>,
    /// The module's when absent.
    pub pooling: Option<Pooling>,
    /// The module's when absent.
    pub pool_mode: Option<PoolMode>,
    /// The module's when absent.
    pub pool_size: Option<u32>,
    /// Whether it is there yet.
    pub status: PlacementStatus,
    /// False for adopted places, whose objects pgtenant neither made nor drops.
    pub managed: bool,
}

/// A tenant with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantDetails {
    /// The tenant's own row.
    #[serde(flatten)]
    pub tenant: TenantRow,
    /// Its names beside id and slug, sorted.
    pub aliases: Vec<Alias>,
    /// From where its clients may come; from everywhere when empty.
    #[serde(default)]
    pub allow: Vec<Network>,
    /// Its places, sorted by module.
    pub placements: Vec<PlacementRow>,
    /// Its logins, sorted.
    pub logins: Vec<Login>,
}

/// Which tenants are meant; all when nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those with this status.
    pub status: Option<TenantStatus>,
    /// Those that subscribe to this module.
    pub module: Option<ModuleName>,
}

impl Filter {
    /// Whether a tenant is meant.
    #[must_use]
    pub fn fits(&self, tenant: &TenantDetails) -> bool {
        let subscribes = |module: &ModuleName| tenant.placements.iter().any(|placement| placement.module == *module);
        self.status.is_none_or(|status| status == tenant.tenant.status) && self.module.as_ref().is_none_or(subscribes)
    }
}

/// What putting a row came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// There was none of that name.
    Created,
    /// There was one that differed.
    Changed,
    /// It was there already, just so.
    Unchanged,
}

/// One line of the record of what happened to a tenant's modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Its slug at that time.
    pub tenant_slug: Option<String>,
    /// The module.
    pub module: String,
    /// The server of the place.
    pub server: Option<String>,
    /// The database of the place.
    pub database: Option<String>,
    /// The schema of the place.
    pub schema: Option<String>,
    /// Of the place: `provisioning`, `provisioned`, `failed`, `dropping`, `unsubscribed`; of a step: `done`, `failed`.
    pub status: String,
    /// The step of provisioning that it is about; the place as a whole when absent.
    #[serde(default)]
    pub step: Option<String>,
    /// What there is to say of it.
    pub detail: Option<String>,
    /// When; set by the database.
    #[serde(default, with = "epoch", skip_serializing)]
    pub logged_at: Option<SystemTime>,
}

/// What provisioning or a run of migrations left a place with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacementVersion {
    /// Whose place it is.
    pub tenant_id: TenantId,
    /// The module that it is a place of.
    pub module: ModuleName,
    /// The highest version that it has had; what was known stays where nothing could be learnt.
    pub version: Option<i64>,
    /// Files applied by a run that logs nothing else of them.
    pub applied: usize,
    /// Why the run failed there.
    pub error: Option<String>,
}

/// Points in time as seconds since 1970.
pub(super) mod epoch {
    use super::{Deserialize, Deserializer, Duration, Serialize, Serializer, SystemTime, UNIX_EPOCH};

    pub(in crate::registry) fn serialize<S: Serializer>(at: &Option<SystemTime>, s: S) -> Result<S::Ok, S::Error> {
        at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs_f64()).serialize(s)
    }

    pub(in crate::registry) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SystemTime>, D::Error> {
        // "infinity" and dates out of reach come as numbers no Duration can hold: such a time never comes.
        Ok(Option::<f64>::deserialize(d)?
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .and_then(|since| UNIX_EPOCH.checked_add(since)))
    }
}
