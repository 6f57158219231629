//! What is asked for: a tenant's place in a module, from the module's settings and what the command overrides.

use super::error::Error;
use super::pattern::Pattern;
use super::place::{LoginRole, Place, TENANT_COLUMN};
use crate::registry::{ModuleRow, PlacementRow, PlacementStatus, TenantDetails};
use crate::tenant::{
    DatabaseName, Isolation, Login, ModuleName, PoolMode, Pooling, RoleName, SchemaName, Server, ServerName, Slug,
    TenantId,
};

/// What a command says about a place beyond what the module does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Another isolation than the module's.
    pub isolation: Option<Isolation>,
    /// Another server.
    pub server: Option<ServerName>,
    /// Another database.
    pub database: Option<DatabaseName>,
    /// How its connections are used and how many they are. Other than the rest, these may change at any time.
    pub limits: Limits,
}

/// What of a tenant's connections differs from the module's settings. What is not said stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// How long its clients keep a connection; `Some(None)`: the module's again.
    pub pool_mode: Option<Option<PoolMode>>,
    /// Most connections; `Some(None)`: the module's again.
    pub pool_size: Option<Option<u32>>,
}

impl Limits {
    /// Gives a placement what is said here.
    pub fn apply(&self, placement: &mut PlacementRow) {
        if let Some(mode) = self.pool_mode {
            placement.pool_mode = mode;
        }
        if let Some(size) = self.pool_size {
            placement.pool_size = size;
        }
    }
}

/// The servers and modules of a registry, read once for a command.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// All servers.
    pub servers: Vec<Server>,
    /// All modules.
    pub modules: Vec<ModuleRow>,
}

impl Inventory {
    /// The module of this name.
    ///
    /// # Errors
    /// [`Error::NoModule`].
    pub fn module(&self, name: &ModuleName) -> Result<&ModuleRow, Error> {
        let found = self.modules.iter().find(|module| module.name == *name);
        found.ok_or_else(|| Error::NoModule { module: name.to_string() })
    }

    /// The server of this name.
    ///
    /// # Errors
    /// [`Error::NoServer`].
    pub fn server(&self, name: &ServerName) -> Result<&Server, Error> {
        let found = self.servers.iter().find(|server| server.name == *name);
        found.ok_or_else(|| Error::NoServer { server: name.to_string() })
    }

    /// The placement that a tenant gets for a module; `role` is the tenant's.
    ///
    /// # Errors
    /// A pattern that does not fit the isolation, a name that PostgreSQL does not allow, a server that is not there.
    pub fn placement(
        &self,
        (slug, id): (&Slug, TenantId),
        module: &ModuleName,
        role: &RoleName,
        overrides: &Overrides,
    ) -> Result<PlacementRow, Error> {
        let module = self.module(module)?;
        let row = overridden(module, overrides)?;
        let server = overrides.server.clone().or_else(|| row.server.clone());
        let server = server.ok_or_else(|| Error::ModuleWithoutServer { module: row.name.to_string() })?;
        self.server(&server)?;
        let database = match &overrides.database {
            Some(database) => database.clone(),
            None => {
                let name = row.database_for(slug, id).ok_or_else(|| no_database(&row))?;
                DatabaseName::parse(&name)?
            }
        };
        let schema = row.schema_for(slug, id).map(|name| SchemaName::parse(&name)).transpose()?;
        let has_role = pooling(&row, row.isolation, None) == Pooling::PerTenant || row.set_role;
        let mut placement = PlacementRow {
            module: row.name.clone(),
            isolation: row.isolation,
            server,
            database,
            schema: schema.map(String::from),
            role: has_role.then(|| role.clone()),
            pooling: None,
            pool_mode: None,
            pool_size: None,
            status: PlacementStatus::Provisioning,
            managed: true,
        };
        overrides.limits.apply(&mut placement);
        Ok(placement)
    }

    /// The role of a tenant's own connections: the one it has, else what its first module makes of its name.
    ///
    /// # Errors
    /// A name that PostgreSQL does not allow.
    pub fn role(
        &self,
        (slug, id): (&Slug, TenantId),
        known: Option<&TenantDetails>,
        first: &ModuleName,
    ) -> Result<RoleName, Error> {
        if let Some(role) = known.and_then(tenant_role) {
            return Ok(RoleName::parse(&role)?);
        }
        Ok(RoleName::parse(&self.module(first)?.role_for(slug, id))?)
    }

    /// What provisioning has to make of a placement.
    ///
    /// # Errors
    /// A module or server that is not there, a role that is reserved.
    pub fn place(&self, tenant: &TenantDetails, placement: &PlacementRow) -> Result<Place, Error> {
        let module = self.module(&placement.module)?;
        let server = self.server(&placement.server)?;
        // `public` is there without being made; see Place::schema.
        let schema = placement.schema.as_deref().filter(|schema| *schema != "public");
        Ok(Place {
            tenant: tenant.tenant.id,
            module: placement.module.clone(),
            isolation: placement.isolation,
            pooling: pooling(module, placement.isolation, placement.pooling),
            server: std::sync::Arc::new(server.clone()),
            database: placement.database.clone(),
            schema: schema.map(SchemaName::parse).transpose()?,
            role: placement.role.clone(),
            logins: tenant.logins.iter().map(login_role).collect::<Result<_, _>>()?,
            search_path_extra: module.search_path_extra.clone(),
            tenant_column: TENANT_COLUMN.to_owned(),
            migrations: module.migrations.as_ref().map(Into::into),
            template: module.template.clone(),
        })
    }
}

/// The role that a tenant's connections have wherever it is placed already.
pub(super) fn tenant_role(tenant: &TenantDetails) -> Option<String> {
    let placed =
        |managed| tenant.placements.iter().filter(move |place| place.managed == managed).find_map(|p| p.role.clone());
    let own = placed(true).map(String::from).or_else(|| default_login(tenant).map(|login| login.role.clone()));
    // Imported tenants have places before they have a login.
    own.or_else(|| placed(false).map(String::from))
}

/// The login for those who name none: `app`, else the first.
#[must_use]
pub fn default_login(tenant: &TenantDetails) -> Option<&Login> {
    tenant.logins.iter().find(|login| login.login == DEFAULT_LOGIN).or_else(|| tenant.logins.first())
}

/// The login that a tenant gets unless another is asked for.
pub const DEFAULT_LOGIN: &str = "app";

/// The role that a login opens.
pub(super) fn login_role(login: &Login) -> Result<LoginRole, Error> {
    Ok(LoginRole { role: RoleName::parse(&login.role)?, verifier: login.verifier.clone() })
}

/// Whose connections serve a placement: its own word, the module's, and never common ones for a database of its own.
fn pooling(module: &ModuleRow, isolation: Isolation, own: Option<Pooling>) -> Pooling {
    match isolation {
        Isolation::Database => Pooling::PerTenant,
        Isolation::Schema | Isolation::Shared => own.unwrap_or(module.pooling),
    }
}

/// The module as if it had the isolation that is asked for. A pattern made for the one does not serve the other.
fn overridden(module: &ModuleRow, overrides: &Overrides) -> Result<ModuleRow, Error> {
    let mut row = module.clone();
    row.isolation = overrides.isolation.unwrap_or(module.isolation);
    let own = |pattern: &Option<String>| pattern.as_deref().map(Pattern::parse).transpose();
    let names_tenants = own(&row.schema_pattern)?.is_some_and(|pattern| pattern.names_the_tenant());
    if row.isolation != module.isolation {
        match row.isolation {
            Isolation::Schema if !names_tenants => row.schema_pattern = None,
            Isolation::Shared if names_tenants || row.schema_pattern.is_none() => {
                row.schema_pattern = Some(row.name.to_string());
            }
            Isolation::Database | Isolation::Schema | Isolation::Shared => {}
        }
    }
    Ok(row)
}

fn no_database(module: &ModuleRow) -> Error {
    Error::NoDatabase { module: module.name.to_string(), isolation: module.isolation.as_str() }
}

/// Checks a module before it is written: patterns that tell tenants apart where they must, a database where one is needed.
///
/// # Errors
/// What is wrong with it.
pub fn check_module(module: &mut ModuleRow) -> Result<(), Error> {
    let checked = |pattern: &Option<String>| pattern.as_deref().map(Pattern::parse).transpose();
    let same = |what, pattern: &Pattern| Error::SameName {
        what,
        pattern: pattern.to_string(),
        module: module.name.to_string(),
    };
    let schema = checked(&module.schema_pattern)?;
    let database = checked(&module.database_pattern)?;
    let role = checked(&module.role_pattern)?;
    for (what, pattern, must) in [
        ("schema", &schema, module.isolation == Isolation::Schema),
        ("database", &database, module.isolation == Isolation::Database),
        ("role", &role, true),
    ] {
        if let Some(pattern) = pattern.as_ref().filter(|pattern| must && !pattern.names_the_tenant()) {
            return Err(same(what, pattern));
        }
    }
    if module.isolation != Isolation::Database && module.database.is_none() {
        return Err(no_database(module));
    }
    if module.isolation == Isolation::Database && module.pooling == Pooling::Shared {
        return Err(Error::SharedDatabases { module: module.name.to_string() });
    }
    if module.isolation == Isolation::Shared {
        let pattern = module.schema_pattern.as_deref().unwrap_or("{module}");
        if schema.is_some_and(|pattern| pattern.names_the_tenant()) {
            return Err(Error::OwnName { pattern: pattern.to_owned(), module: module.name.to_string() });
        }
        // The registry's own procedure takes it as it is.
        let name = pattern.replace("{module}", module.name.as_str());
        module.schema_pattern = Some(SchemaName::parse(&name)?.to_string());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(isolation: Isolation) -> ModuleRow {
        let mut module = ModuleRow::new(ModuleName::parse("finance").unwrap(), isolation);
        module.server = Some(ServerName::parse("main").unwrap());
        module.database = Some(DatabaseName::parse("finance").unwrap());
        module
    }

    fn inventory(module: ModuleRow) -> Inventory {
        let server = serde_json::json!({"name": "main", "host": "h", "port": 1, "sslmode": "prefer", "ca_file": null,
            "max_connections": null, "admin_secret": null, "app_secret": null});
        Inventory { servers: vec![serde_json::from_value(server).unwrap()], modules: vec![module] }
    }

    fn placed(module: ModuleRow, overrides: &Overrides) -> Result<(String, Option<String>, Option<String>), Error> {
        let slug = Slug::parse("acme").unwrap();
        let tenant = (&slug, TenantId(uuid::Uuid::nil()));
        let name = module.name.clone();
        let inventory = inventory(module);
        let role = inventory.role(tenant, None, &name)?;
        let placement = inventory.placement(tenant, &name, &role, overrides)?;
        Ok((placement.database.to_string(), placement.schema, placement.role.map(String::from)))
    }

    #[test]
    fn a_place_is_named_by_the_modules_patterns() {
        let mut finance = module(Isolation::Schema);
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(
            placed(finance.clone(), &Overrides::default()).unwrap(),
            ("finance".to_owned(), text("finance_acme"), text("acme_app"))
        );
        finance.schema_pattern = text("t_{slug}");
        finance.role_pattern = text("r_{slug}");
        assert_eq!(
            placed(finance, &Overrides::default()).unwrap(),
            ("finance".to_owned(), text("t_acme"), text("r_acme"))
        );
        assert_eq!(
            placed(module(Isolation::Database), &Overrides::default()).unwrap(),
            ("finance_acme".to_owned(), None, text("acme_app"))
        );
    }

    #[test]
    fn another_isolation_takes_names_that_fit_it() {
        let to = |isolation| Overrides { isolation: Some(isolation), ..Overrides::default() };
        let mut shared = module(Isolation::Shared);
        check_module(&mut shared).unwrap();
        assert_eq!(shared.schema_pattern.as_deref(), Some("finance"));
        assert_eq!(placed(shared.clone(), &to(Isolation::Schema)).unwrap().1.as_deref(), Some("finance_acme"));
        assert_eq!(placed(shared, &to(Isolation::Database)).unwrap().0, "finance_acme");
        let mut schema = module(Isolation::Schema);
        schema.schema_pattern = Some("t_{slug}".to_owned());
        assert_eq!(placed(schema, &to(Isolation::Shared)).unwrap().1.as_deref(), Some("finance"));
    }

    #[test]
    fn names_over_63_bytes_are_refused() {
        let mut finance = module(Isolation::Schema);
        finance.schema_pattern = Some(format!("{}_{{slug}}", "x".repeat(60)));
        assert!(matches!(placed(finance, &Overrides::default()), Err(Error::Name(_))));
    }

    #[test]
    fn a_module_whose_tenants_would_meet_is_refused() {
        let mut schema = module(Isolation::Schema);
        schema.schema_pattern = Some("same".to_owned());
        assert!(matches!(check_module(&mut schema), Err(Error::SameName { .. })));
        let mut shared = module(Isolation::Shared);
        shared.schema_pattern = Some("own_{slug}".to_owned());
        assert!(matches!(check_module(&mut shared), Err(Error::OwnName { .. })));
        let mut homeless = module(Isolation::Schema);
        homeless.database = None;
        assert!(matches!(check_module(&mut homeless), Err(Error::NoDatabase { .. })));
        let mut shared = module(Isolation::Shared);
        shared.role_pattern = Some("all".to_owned());
        assert!(matches!(check_module(&mut shared), Err(Error::SameName { .. })));
    }
}
