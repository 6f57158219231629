//! A registry as TOML: the keys of a file registry and of an export.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::contents::{Contents, Problem, Problems};
use super::rows::{ModuleRow, PlacementRow, PlacementStatus, TenantDetails, TenantRow};
use crate::address::Network;
use crate::limits::Own;
use crate::tenant::{
    Alias, DatabaseName, Isolation, Login, ModuleName, NameError, PoolMode, Pooling, RoleName, Server, ServerName,
    Slug, SslMode, TenantId, TenantStatus,
};

/// The file as it stands: what a tenant's entries leave out is its module's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(default, rename = "server", skip_serializing_if = "Vec::is_empty")]
    servers: Vec<ServerEntry>,
    #[serde(default, rename = "module", skip_serializing_if = "Vec::is_empty")]
    modules: Vec<ModuleEntry>,
    #[serde(default, rename = "tenant", skip_serializing_if = "Vec::is_empty")]
    tenants: Vec<TenantEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerEntry {
    name: ServerName,
    host: String,
    #[serde(default = "default_port")]
    port: u16,
    #[serde(default = "default_sslmode")]
    sslmode: SslMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_secret: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleEntry {
    name: ModuleName,
    isolation: Isolation,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<DatabaseName>,
    #[serde(default = "default_pooling")]
    pooling: Pooling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_mode: Option<PoolMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_pattern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    database_pattern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role_pattern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<DatabaseName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    search_path_extra: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    migrations: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_parameter: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    set_role: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantEntry {
    id: TenantId,
    slug: Slug,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<String>,
    #[serde(default = "default_status")]
    status: TenantStatus,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<Alias>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow: Vec<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_module: Option<ModuleName>,
    #[serde(default, skip_serializing_if = "Own::is_empty")]
    limits: Own,
    #[serde(default, rename = "placement", skip_serializing_if = "Vec::is_empty")]
    placements: Vec<PlacementEntry>,
    #[serde(default, rename = "login", skip_serializing_if = "Vec::is_empty")]
    logins: Vec<LoginEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlacementEntry {
    module: ModuleName,
    #[serde(skip_serializing_if = "Option::is_none")]
    isolation: Option<Isolation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<ServerName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<DatabaseName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<RoleName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pooling: Option<Pooling>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_mode: Option<PoolMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_size: Option<u32>,
    #[serde(default = "default_placement_status", skip_serializing_if = "is_ready")]
    status: PlacementStatus,
    #[serde(default = "default_managed", skip_serializing_if = "Clone::clone")]
    managed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginEntry {
    login: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<RoleName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verifier: Option<String>,
}

const fn default_port() -> u16 {
    5432
}
const fn default_sslmode() -> SslMode {
    SslMode::Prefer
}
const fn default_pooling() -> Pooling {
    Pooling::PerTenant
}
const fn default_status() -> TenantStatus {
    TenantStatus::Active
}
const fn default_placement_status() -> PlacementStatus {
    PlacementStatus::Ready
}
const fn default_managed() -> bool {
    true
}
fn is_ready(status: &PlacementStatus) -> bool {
    *status == PlacementStatus::Ready
}

impl Document {
    /// The rows that the file means, with everything left out filled in.
    pub(super) fn into_contents(self) -> Result<Contents, Problems> {
        let servers = self.servers.into_iter().map(Server::from).collect();
        let modules: Vec<ModuleRow> = self.modules.into_iter().map(ModuleRow::from).collect();
        let (mut tenants, mut problems) = (Vec::new(), Vec::new());
        for entry in self.tenants {
            match entry.into_details(&modules) {
                Ok(details) => tenants.push(details),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Contents { servers, modules, tenants }) } else { Err(Problems(problems)) }
    }
}

impl TenantEntry {
    fn into_details(self, modules: &[ModuleRow]) -> Result<TenantDetails, Problem> {
        let tenant = TenantRow {
            id: self.id,
            name: self.name.unwrap_or_else(|| self.slug.to_string()),
            slug: self.slug,
            contact: self.contact,
            status: self.status,
            // A file has no clock: a suspension in it is one at once.
            sessions_end_at: (self.status == TenantStatus::Suspended).then_some(SystemTime::UNIX_EPOCH),
            default_module: self.default_module,
            limits: self.limits,
            generation: 0,
        };
        let complete = |entry: PlacementEntry| entry.into_row(&tenant, modules);
        let placements: Vec<PlacementRow> = self.placements.into_iter().map(complete).collect::<Result<_, _>>()?;
        let own_role = placements.iter().find_map(|place| place.role.as_ref());
        let login = |entry: LoginEntry| {
            let of = format!("tenant \"{}\", login \"{}\"", tenant.slug, entry.login);
            let role = entry.role.as_ref().or(own_role).ok_or(Problem::Unsaid { of, what: "role" })?;
            Ok(Login { login: entry.login, role: role.as_str().to_owned(), verifier: entry.verifier })
        };
        let logins = self.logins.into_iter().map(login).collect::<Result<_, _>>()?;
        let mut allow = self.allow;
        // As the database lists them.
        allow.sort_unstable();
        allow.dedup();
        Ok(TenantDetails { aliases: self.aliases, allow, placements, logins, tenant })
    }
}

impl PlacementEntry {
    fn into_row(self, tenant: &TenantRow, modules: &[ModuleRow]) -> Result<PlacementRow, Problem> {
        let of = || format!("tenant \"{}\", module \"{}\"", tenant.slug, self.module);
        let unsaid = |what| move || Problem::Unsaid { of: of(), what };
        let named = |source: NameError| Problem::Name { of: of(), source };
        let module = modules.iter().find(|module| module.name == self.module).ok_or_else(|| Problem::Missing {
            of: format!("tenant \"{}\"", tenant.slug),
            what: "module",
            name: self.module.to_string(),
        })?;
        // The patterns of the isolation that the place has, which may be another than the module's.
        let isolation = self.isolation.unwrap_or(module.isolation);
        let pattern = ModuleRow { isolation, ..module.clone() };
        let server = self.server.clone().or_else(|| module.server.clone()).ok_or_else(unsaid("server"))?;
        let database = match &self.database {
            Some(database) => database.clone(),
            None => {
                let name = pattern.database_for(&tenant.slug, tenant.id).ok_or_else(unsaid("database"))?;
                DatabaseName::parse(&name).map_err(named)?
            }
        };
        let schema = self.schema.clone().or_else(|| pattern.schema_for(&tenant.slug, tenant.id));
        let pooling = self.pooling.unwrap_or(module.pooling);
        let needs_role = pooling == Pooling::PerTenant || isolation == Isolation::Database || module.set_role;
        let role = match &self.role {
            None if needs_role => Some(RoleName::parse(&module.role_for(&tenant.slug, tenant.id)).map_err(named)?),
            role => role.clone(),
        };
        Ok(PlacementRow {
            isolation,
            server,
            database,
            schema,
            role,
            pooling: self.pooling,
            pool_mode: self.pool_mode,
            pool_size: self.pool_size,
            status: self.status,
            managed: self.managed,
            module: self.module,
        })
    }
}

impl From<&Contents> for Document {
    fn from(contents: &Contents) -> Self {
        Self {
            servers: contents.servers.iter().map(ServerEntry::from).collect(),
            modules: contents.modules.iter().map(ModuleEntry::from).collect(),
            tenants: contents.tenants.iter().map(TenantEntry::from).collect(),
        }
    }
}

impl From<&TenantDetails> for TenantEntry {
    fn from(details: &TenantDetails) -> Self {
        let row = &details.tenant;
        let login = |login: &Login| LoginEntry {
            login: login.login.clone(),
            // A role that no tenant may have is left for the reader to refuse by its absence.
            role: RoleName::parse(&login.role).ok(),
            verifier: login.verifier.clone(),
        };
        Self {
            id: row.id,
            slug: row.slug.clone(),
            name: Some(row.name.clone()),
            contact: row.contact.clone(),
            status: row.status,
            aliases: details.aliases.clone(),
            allow: details.allow.clone(),
            default_module: row.default_module.clone(),
            limits: row.limits.clone(),
            placements: details.placements.iter().map(PlacementEntry::from).collect(),
            logins: details.logins.iter().map(login).collect(),
        }
    }
}

impl From<&PlacementRow> for PlacementEntry {
    fn from(row: &PlacementRow) -> Self {
        Self {
            module: row.module.clone(),
            isolation: Some(row.isolation),
            server: Some(row.server.clone()),
            database: Some(row.database.clone()),
            schema: row.schema.clone(),
            role: row.role.clone(),
            pooling: row.pooling,
            pool_mode: row.pool_mode,
            pool_size: row.pool_size,
            status: row.status,
            managed: row.managed,
        }
    }
}

/// Conversions both ways between two structs of the same fields.
macro_rules! same_fields {
    ($row:ident, $entry:ident { $($field:ident),+ $(,)? }) => {
        impl From<$entry> for $row {
            fn from(entry: $entry) -> Self {
                Self { $($field: entry.$field),+ }
            }
        }
        impl From<&$row> for $entry {
            fn from(row: &$row) -> Self {
                Self { $($field: row.$field.clone()),+ }
            }
        }
    };
}

same_fields!(Server, ServerEntry { name, host, port, sslmode, ca_file, max_connections, admin_secret, app_secret });
same_fields!(
    ModuleRow,
    ModuleEntry {
        name,
        isolation,
        server,
        database,
        pooling,
        pool_mode,
        pool_size,
        schema_pattern,
        database_pattern,
        role_pattern,
        template,
        search_path_extra,
        migrations,
        aliases,
        tenant_parameter,
        set_role,
    }
);
