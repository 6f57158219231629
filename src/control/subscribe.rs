//! A tenant's modules: subscribed to (made anew, or adopted as they are), and given up.

use std::collections::BTreeSet;
use std::time::Duration;

use super::adopt::adopt;
use super::error::Error;
use super::order::{DEFAULT_LOGIN, Inventory, Overrides};
use super::provision::verifier;
use super::removal::drop_own_roles;
use super::tenants::{Control, Created, chain, check_stays, generate_password};
use crate::auth::Secret;
use crate::registry::{PlacementRow, PlacementStatus, TenantDetails};
use crate::tenant::{Login, ModuleName, RoleName, SchemaName, TenantName, TenantStatus};

/// A module that a tenant is to have.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The module.
    pub module: ModuleName,
    /// What differs from the module's own settings.
    pub overrides: Overrides,
    /// Another schema than the module's pattern makes; `public` only where it is there already.
    pub schema: Option<String>,
    /// The role that has, or is to get, the rights on the place; the tenant's own if absent.
    pub role: Option<RoleName>,
    /// Take a place that is there already as it is: check it, and make nothing.
    pub existing: bool,
}

impl Control {
    /// Gives a tenant a module, or finishes what an earlier run left unfinished.
    ///
    /// # Errors
    /// [`Error::Inactive`] for a tenant that is not served; [`Error::Differs`] when it has the module elsewhere; whatever
    /// stopped the making of the place, or is wrong with the one to be adopted.
    pub async fn subscribe(&self, name: &TenantName, wanted: &Subscription) -> Result<Created, Error> {
        let inventory = self.inventory().await?;
        let (_alone, tenant) = self.alone(name).await?;
        let status = tenant.tenant.status;
        if !matches!(status, TenantStatus::Active | TenantStatus::Provisioning) {
            return Err(Error::Inactive { tenant: tenant.tenant.slug.to_string(), status });
        }
        let made = |known: &PlacementRow| known.managed && known.status == PlacementStatus::Ready;
        let known = tenant.placements.iter().find(|known| known.module == wanted.module);
        let existing = wanted.existing && !known.is_some_and(made);
        let (placement, logins) = self.order(&inventory, &tenant, wanted, existing).await?;
        let password = self.write_subscription(&tenant, &placement, logins, existing).await?;
        let tenant = self.tenant(name).await?;
        match (self.finish(&inventory, &tenant, false).await, password) {
            (Ok(()), password) => Ok(Created { tenant: self.tenant(name).await?, password }),
            (Err(source), Some(password)) => Err(Error::Unfinished { password, source: Box::new(source) }),
            (Err(error), None) => Err(error),
        }
    }

    /// The placement that is asked for, and for an adopted one the logins that open it.
    async fn order(
        &self,
        inventory: &Inventory,
        tenant: &TenantDetails,
        wanted: &Subscription,
        existing: bool,
    ) -> Result<(PlacementRow, Vec<Login>), Error> {
        let row = &tenant.tenant;
        let names = (&row.slug, row.id);
        let role = match &wanted.role {
            Some(role) => role.clone(),
            None => inventory.role(names, Some(tenant), &wanted.module)?,
        };
        let mut placement = inventory.placement(names, &wanted.module, &role, &wanted.overrides)?;
        match wanted.schema.as_deref() {
            Some("public") if wanted.existing => placement.schema = Some("public".to_owned()),
            Some(schema) => placement.schema = Some(SchemaName::parse(schema)?.to_string()),
            None => {}
        }
        if let Some(known) = tenant.placements.iter().find(|known| known.module == wanted.module) {
            check_stays(tenant, known)?;
            check_same(tenant, known, wanted)?;
            placement = known.clone();
            wanted.overrides.limits.apply(&mut placement);
        }
        if !existing {
            return Ok((placement, Vec::new()));
        }
        placement.managed = false;
        placement.status = PlacementStatus::Ready;
        let place = inventory.place(tenant, &placement)?;
        let logins = adopt(&place, &tenant.logins).await?;
        Ok((placement, logins))
    }

    /// Writes the placement; the password of the login that a tenant gets with its first module.
    async fn write_subscription(
        &self,
        tenant: &TenantDetails,
        placement: &PlacementRow,
        mut logins: Vec<Login>,
        existing: bool,
    ) -> Result<Option<Secret>, Error> {
        let mut made = None;
        if tenant.logins.is_empty() && !existing {
            let role = placement.role.as_ref().map(ToString::to_string);
            if let Some(role) = role {
                let password = generate_password();
                let verifier = Some(verifier(password.expose()));
                logins.push(Login { login: DEFAULT_LOGIN.to_owned(), role, verifier });
                made = Some(password);
            }
        }
        let id = tenant.tenant.id;
        let transaction = self.registry.begin().await?;
        transaction.put_placement(id, placement).await?;
        for login in &logins {
            transaction.put_login(id, login).await?;
        }
        if tenant.placements.is_empty() && tenant.tenant.default_module.is_none() {
            transaction.set_default_module(id, Some(&placement.module)).await?;
        }
        transaction.commit().await?;
        Ok(made)
    }

    /// Takes a module from a tenant. Its data stays where it is, unless it is to be dropped.
    ///
    /// # Errors
    /// [`Error::NotSubscribed`]; what stopped the dropping, after which the same may be run again.
    pub async fn unsubscribe(
        &self,
        name: &TenantName,
        module: &ModuleName,
        drop_data: bool,
    ) -> Result<TenantDetails, Error> {
        let inventory = self.inventory().await?;
        let (_alone, tenant) = self.alone(name).await?;
        let id = tenant.tenant.id;
        let Some(placement) = tenant.placements.iter().find(|placement| placement.module == *module) else {
            let (tenant, module) = (tenant.tenant.slug.to_string(), module.to_string());
            return Err(Error::NotSubscribed { tenant, module });
        };
        let drops = drop_data && placement.managed;
        if !drops {
            check_stays(&tenant, placement)?;
        }
        let transaction = self.registry.begin().await?;
        if drops {
            // Nobody is let in from here on, and the place is known until it is gone.
            transaction.set_placement_status(id, module, PlacementStatus::Dropping).await?;
        } else {
            transaction.remove_placement(id, module).await?;
            if tenant.tenant.default_module.as_ref() == Some(module) {
                transaction.set_default_module(id, None).await?;
            }
        }
        transaction.commit().await?;
        if drops {
            self.drop_one(&inventory, id, placement).await?;
        }
        self.by_id(id).await
    }

    /// Deletes a tenant. Without `drop_data` it is archived: not served, its names and data kept. With it, everything that
    /// pgtenant made for it is dropped and its names are free; `None` then.
    ///
    /// # Errors
    /// What stopped the dropping, after which the same may be run again.
    pub async fn delete(&self, name: &TenantName, drop_data: bool) -> Result<Option<TenantDetails>, Error> {
        let inventory = self.inventory().await?;
        let (_alone, tenant) = self.alone(name).await?;
        let id = tenant.tenant.id;
        let managed: Vec<_> = tenant.placements.iter().filter(|placement| placement.managed && drop_data).collect();
        let transaction = self.registry.begin().await?;
        transaction.set_status(id, TenantStatus::Archived, Duration::ZERO).await?;
        for placement in &managed {
            // Whatever becomes of this run, the tenant is not served again with half of its data.
            transaction.set_placement_status(id, &placement.module, PlacementStatus::Dropping).await?;
        }
        transaction.commit().await?;
        if !drop_data {
            return Ok(Some(self.by_id(id).await?));
        }
        for placement in managed {
            self.drop_one(&inventory, id, placement).await?;
        }
        leave_adopted(&inventory, &tenant).await?;
        let transaction = self.registry.begin().await?;
        transaction.delete_tenant(id).await?;
        transaction.commit().await?;
        Ok(None)
    }
}

/// Takes the roles that pgtenant made for a tenant off the places that were there before it; the places stay as they are. A server that is gone or closed to
/// pgtenant by now must not keep a tenant from being deleted.
async fn leave_adopted(inventory: &Inventory, tenant: &TenantDetails) -> Result<(), Error> {
    let mut servers = BTreeSet::new();
    for placement in tenant.placements.iter().filter(|placement| !placement.managed) {
        if !servers.insert(&placement.server) {
            continue;
        }
        match drop_own_roles(&inventory.place(tenant, placement)?).await {
            Err(error @ (Error::Connect { .. } | Error::ConnectTimeout { .. } | Error::NoAdminSecret { .. })) => {
                tracing::warn!(server = %placement.server, error = %chain(&error), "roles of the tenant may be left there");
            }
            done => done?,
        }
    }
    Ok(())
}

/// A module that the tenant has already must be where the command says, if it says so.
fn check_same(tenant: &TenantDetails, known: &PlacementRow, wanted: &Subscription) -> Result<(), Error> {
    let asked = &wanted.overrides;
    let compared = [
        ("isolation", Some(known.isolation.to_string()), asked.isolation.map(|isolation| isolation.to_string())),
        ("server", Some(known.server.to_string()), asked.server.as_ref().map(ToString::to_string)),
        ("database", Some(known.database.to_string()), asked.database.as_ref().map(ToString::to_string)),
        ("schema", known.schema.clone(), wanted.schema.clone()),
        ("role", known.role.as_ref().map(ToString::to_string), wanted.role.as_ref().map(ToString::to_string)),
    ];
    for (what, has, asked) in compared {
        if let Some(asked) = asked.filter(|asked| has.as_ref() != Some(asked)) {
            let has = has.unwrap_or_else(|| "-".to_owned());
            return Err(Error::Differs { tenant: tenant.tenant.slug.to_string(), what, has, asked });
        }
    }
    Ok(())
}
