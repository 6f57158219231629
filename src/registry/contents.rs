//! A whole registry as rows, outside a database: what a file holds and an export writes, under the same rules.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::cache::names_of;
use super::common::Common;
use super::rows::{ModuleRow, PlacementRow, PlacementStatus, TenantDetails};
use crate::auth::Verifier;
use crate::tenant::{
    Isolation, NameError, Placement, Pooling, SchemaName, Server, ServerName, SessionsEnd, Tenant, TenantId,
    TenantName, Terms,
};

/// Everything a registry knows of servers, modules and tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The servers.
    pub servers: Vec<Server>,
    /// The modules.
    pub modules: Vec<ModuleRow>,
    /// The tenants with all that belongs to them.
    pub tenants: Vec<TenantDetails>,
}

/// One way in which a registry contradicts itself or the rules of its tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum Problem {
    #[error("{what} \"{name}\" is there twice")]
    Twice { what: &'static str, name: String },
    #[error("the name \"{name}\" belongs to tenant \"{first}\" and to tenant \"{second}\"")]
    NameTaken { name: String, first: String, second: String },
    #[error("{place} belongs to tenant \"{first}\" and cannot be tenant \"{second}\"'s, too")]
    PlaceTaken { place: String, first: String, second: String },
    #[error("{place} is common to several tenants and cannot be tenant \"{tenant}\"'s own")]
    PlaceCommon { place: String, tenant: String },
    #[error("role \"{role}\" belongs to tenant \"{first}\" and to tenant \"{second}\"")]
    RoleTaken { role: String, first: String, second: String },
    #[error("{of} names {what} \"{name}\", which is not there")]
    Missing { of: String, what: &'static str, name: String },
    #[error("{of} says nowhere which {what} it has")]
    Unsaid { of: String, what: &'static str },
    #[error("{of}: a database of its own is not pooled with others")]
    SharedDatabase { of: String },
    #[error("server \"{server}\": {key} must say where the secret is (env:NAME, file:PATH or vault:PATH), not be it")]
    Secret { server: String, key: &'static str },
    #[error("tenant \"{tenant}\", login \"{login}\": the verifier is not one of SCRAM-SHA-256")]
    Verifier { tenant: String, login: String },
    #[error("{of}: {source}")]
    Name {
        of: String,
        #[source]
        source: NameError,
    },
}

/// All that is wrong with a registry, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Contents {
    /// Checks what the tables of a registry database would refuse.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn check(&self) -> Result<(), Problems> {
        let mut check = Check::default();
        check.servers(&self.servers);
        check.modules(self);
        for tenant in &self.tenants {
            check.tenant(self, tenant);
        }
        if check.problems.is_empty() { Ok(()) } else { Err(Problems(check.problems)) }
    }

    /// The tenants as the data plane sees them: module and server settings resolved into their places. A place that refers
    /// to what is not there is left out; [`Contents::check`] finds those.
    #[must_use]
    pub fn resolve(&self) -> Vec<Tenant> {
        let servers: HashMap<&ServerName, Arc<Server>> =
            self.servers.iter().map(|server| (&server.name, Arc::new(server.clone()))).collect();
        let modules: HashMap<&str, &ModuleRow> = self.modules.iter().map(|m| (m.name.as_str(), m)).collect();
        let mut terms = Common::default();
        let mut place = |row: &PlacementRow| {
            let (module, server) = (modules.get(row.module.as_str())?, servers.get(&row.server)?);
            let mut placement = placement(row, module, Arc::clone(server));
            terms.share(&mut placement.terms);
            Some(Arc::new(placement))
        };
        let tenant = |details: &TenantDetails| Tenant {
            id: details.tenant.id,
            slug: details.tenant.slug.clone(),
            name: details.tenant.name.clone(),
            status: details.tenant.status,
            // A file has no grace.
            sessions_end: details.tenant.sessions_end_at.map(|at| Box::new(SessionsEnd::new(at, 0.0))),
            aliases: details.aliases.clone(),
            allow: details.allow.clone(),
            default_module: details.tenant.default_module.clone(),
            limits: details.tenant.limits.clone().into_shared(),
            placements: details.placements.iter().filter_map(&mut place).collect(),
            logins: details.logins.clone(),
            generation: details.tenant.generation,
        };
        self.tenants.iter().map(tenant).collect()
    }
}

/// As the look-up query of the database has it.
fn placement(row: &PlacementRow, module: &ModuleRow, server: Arc<Server>) -> Placement {
    let pooling = match row.isolation {
        Isolation::Database => Pooling::PerTenant,
        Isolation::Schema | Isolation::Shared => row.pooling.unwrap_or(module.pooling),
    };
    let terms = Terms {
        module: row.module.clone(),
        module_aliases: module.aliases.clone(),
        isolation: row.isolation,
        pooling,
        pool_mode: row.pool_mode.or(module.pool_mode),
        pool_size: row.pool_size.or(module.pool_size),
        search_path_extra: module.search_path_extra.clone(),
        tenant_parameter: module.tenant_parameter.clone(),
        set_role: module.set_role,
    };
    Placement {
        terms: Arc::new(terms),
        server,
        database: row.database.clone(),
        schema: row.schema.as_deref().map(Into::into),
        role: row.role.as_ref().map(|role| role.as_str().into()),
        ready: row.status == PlacementStatus::Ready,
    }
}

/// `public` is nobody's own in a database that others share, unless the whole place was there before.
fn is_own_public(row: &PlacementRow, schema: &str) -> bool {
    schema == "public" && (row.isolation != Isolation::Schema || !row.managed)
}

/// A database (no schema) or a schema on a server.
type Place<'a> = (&'a str, &'a str, Option<&'a str>);

#[derive(Default)]
struct Check<'a> {
    problems: Vec<Problem>,
    names: HashMap<TenantName, &'a TenantDetails>,
    ids: HashSet<TenantId>,
    /// Who holds a place; nobody: common to several.
    places: HashMap<Place<'a>, Option<&'a TenantDetails>>,
    roles: HashMap<&'a str, &'a TenantDetails>,
}

impl<'a> Check<'a> {
    fn servers(&mut self, servers: &'a [Server]) {
        let mut seen = HashSet::new();
        for server in servers {
            if !seen.insert(&server.name) {
                self.problems.push(Problem::Twice { what: "server", name: server.name.to_string() });
            }
            for (key, secret) in [("admin_secret", &server.admin_secret), ("app_secret", &server.app_secret)] {
                let is_reference =
                    |text: &String| ["env:", "file:", "vault:"].iter().any(|kind| text.starts_with(kind));
                if secret.as_ref().is_some_and(|secret| !is_reference(secret)) {
                    self.problems.push(Problem::Secret { server: server.name.to_string(), key });
                }
            }
        }
    }

    fn modules(&mut self, contents: &'a Contents) {
        let mut names = HashSet::new();
        for module in &contents.modules {
            if !names.insert(module.name.as_str()) {
                self.problems.push(Problem::Twice { what: "module", name: module.name.to_string() });
            }
            let of = || format!("module \"{}\"", module.name);
            if let Some(server) = &module.server {
                self.server_is_there(contents, server, of);
            }
            if module.isolation == Isolation::Database && module.pooling == Pooling::Shared {
                self.problems.push(Problem::SharedDatabase { of: of() });
            }
        }
        for alias in contents.modules.iter().flat_map(|module| &module.aliases) {
            if !names.insert(alias) {
                self.problems.push(Problem::Twice { what: "module name or alias", name: alias.clone() });
            }
        }
    }

    fn server_is_there(&mut self, contents: &Contents, name: &ServerName, of: impl Fn() -> String) {
        if !contents.servers.iter().any(|server| server.name == *name) {
            self.problems.push(Problem::Missing { of: of(), what: "server", name: name.to_string() });
        }
    }

    fn tenant(&mut self, contents: &'a Contents, details: &'a TenantDetails) {
        let row = &details.tenant;
        let slug = || row.slug.to_string();
        if !self.ids.insert(row.id) {
            self.problems.push(Problem::Twice { what: "tenant id", name: row.id.to_string() });
        }
        self.names(details);
        let mut seen = HashSet::new();
        for place in &details.placements {
            let of = || format!("tenant \"{}\", module \"{}\"", row.slug, place.module);
            if !seen.insert(&place.module) {
                self.problems.push(Problem::Twice { what: "the place of", name: of() });
            }
            if !contents.modules.iter().any(|module| module.name == place.module) {
                self.problems.push(Problem::Missing { of: of(), what: "module", name: place.module.to_string() });
            }
            self.server_is_there(contents, &place.server, of);
            if place.isolation == Isolation::Database && place.pooling == Some(Pooling::Shared) {
                self.problems.push(Problem::SharedDatabase { of: of() });
            }
            if place.isolation == Isolation::Schema && place.schema.is_none() {
                self.problems.push(Problem::Unsaid { of: of(), what: "schema" });
            }
            if let Some(Err(source)) =
                place.schema.as_ref().filter(|s| !is_own_public(place, s)).map(|s| SchemaName::parse(s))
            {
                self.problems.push(Problem::Name { of: of(), source });
            }
            self.place(details, place);
            if let Some(role) = &place.role {
                self.role(details, role.as_str());
            }
        }
        if let Some(module) = row.default_module.as_ref().filter(|m| !contents.modules.iter().any(|x| x.name == **m)) {
            self.problems.push(Problem::Missing {
                of: format!("tenant \"{}\"", row.slug),
                what: "module",
                name: module.to_string(),
            });
        }
        let mut seen = HashSet::new();
        for login in &details.logins {
            if !seen.insert(&login.login) {
                self.problems.push(Problem::Twice { what: "login", name: format!("{}@{}", login.login, row.slug) });
            }
            if login.verifier.as_ref().is_some_and(|text| text.parse::<Verifier>().is_err()) {
                self.problems.push(Problem::Verifier { tenant: slug(), login: login.login.clone() });
            }
            self.role(details, &login.role);
        }
    }

    fn names(&mut self, details: &'a TenantDetails) {
        let bare = Contents { tenants: vec![details.clone()], ..Contents::default() };
        for name in bare.resolve().iter().flat_map(names_of) {
            if let Some(first) = self.names.insert(name.clone(), details) {
                self.problems.push(Problem::NameTaken {
                    name: name.to_string(),
                    first: first.tenant.slug.to_string(),
                    second: details.tenant.slug.to_string(),
                });
            }
        }
    }

    /// As `pgtenant.placement_before` has it: a database is one tenant's or common, and so is a schema in it.
    fn place(&mut self, details: &'a TenantDetails, row: &'a PlacementRow) {
        let (server, database) = (row.server.as_str(), row.database.as_str());
        let whole = (row.isolation == Isolation::Database).then_some(details);
        self.claim((server, database, None), whole, details);
        if let Some(schema) = &row.schema {
            let own = (row.isolation != Isolation::Shared).then_some(details);
            self.claim((server, database, Some(schema)), own, details);
        }
    }

    fn claim(&mut self, place: Place<'a>, claimant: Option<&'a TenantDetails>, by: &'a TenantDetails) {
        let holder = *self.places.entry(place).or_insert(claimant);
        let id = |details: Option<&TenantDetails>| details.map(|details| details.tenant.id);
        if id(holder) == id(claimant) {
            return;
        }
        let (server, database, schema) = place;
        let schema = schema.map(|schema| format!("schema \"{schema}\" in ")).unwrap_or_default();
        let place = format!("{schema}database \"{database}\" on server \"{server}\"");
        let second = by.tenant.slug.to_string();
        self.problems.push(match holder {
            Some(first) => Problem::PlaceTaken { place, first: first.tenant.slug.to_string(), second },
            None => Problem::PlaceCommon { place, tenant: second },
        });
    }

    fn role(&mut self, details: &'a TenantDetails, role: &'a str) {
        let holder = *self.roles.entry(role).or_insert(details);
        if holder.tenant.id != details.tenant.id {
            self.problems.push(Problem::RoleTaken {
                role: role.to_owned(),
                first: holder.tenant.slug.to_string(),
                second: details.tenant.slug.to_string(),
            });
        }
    }
}
