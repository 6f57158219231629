//! A tenant's logins: added, given another password, removed; on every server of the tenant and in the registry.

use std::collections::BTreeMap;

use super::admit::{admit, is_ours, may_admit};
use super::error::Error;
use super::order::{DEFAULT_LOGIN, Inventory, login_role, tenant_role};
use super::place::{LoginRole, Place};
use super::provision::{provision, set_login, verifier};
use super::removal::{drop_own_roles, remove_login};
use super::steps::Steps;
use super::tenants::{Control, generate_password};
use crate::auth::Secret;
use crate::registry::TenantDetails;
use crate::tenant::{Login, Pooling, RoleName, ServerName, TenantName};

/// A login that was made or changed.
#[derive(Debug)]
pub struct LoginMade {
    /// The tenant's slug.
    pub tenant: String,
    /// The login.
    pub login: String,
    /// The role it opens.
    pub role: String,
    /// The password that was made for it; none when one was given, or when the login was there already.
    pub password: Option<Secret>,
}

impl Control {
    /// Gives a tenant another login: a role of its own with the tenant's rights. On its servers first, so that it works from
    /// the moment that the registry has it. One that is there already stays as it is.
    ///
    /// # Errors
    /// A name that PostgreSQL does not allow, a server that could not be reached.
    pub async fn add_login(
        &self,
        name: &TenantName,
        login: &str,
        password: Option<Secret>,
    ) -> Result<LoginMade, Error> {
        let inventory = self.inventory().await?;
        let (_alone, mut tenant) = self.alone(name).await?;
        if let Some(known) = tenant.logins.iter().find(|known| known.login == login && known.verifier.is_some()) {
            return Ok(made(&tenant, known, None));
        }
        let generated = password.is_none().then(generate_password);
        let added = Login {
            login: login.to_owned(),
            role: new_role(&inventory, &tenant, login)?.to_string(),
            verifier: password.as_ref().or(generated.as_ref()).map(|password| verifier(password.expose())),
        };
        tenant.logins.retain(|known| known.login != login);
        tenant.logins.push(added.clone());
        open_places(&inventory, &tenant, &added).await?;
        self.put_login(&tenant, &added).await?;
        Ok(made(&tenant, &added, generated))
    }

    /// Gives a login another password: on all servers, then in the registry.
    ///
    /// # Errors
    /// [`Error::NoLogin`]; [`Error::Adopted`] where its role is not ours to change.
    pub async fn set_password(
        &self,
        name: &TenantName,
        login: &str,
        password: Option<Secret>,
    ) -> Result<LoginMade, Error> {
        let inventory = self.inventory().await?;
        let (_alone, tenant) = self.alone(name).await?;
        let mut changed = find(&tenant, login)?.clone();
        let generated = password.is_none().then(generate_password);
        changed.verifier = password.as_ref().or(generated.as_ref()).map(|password| verifier(password.expose()));
        let role = login_role(&changed)?;
        for place in role_places(&inventory, &tenant, &role).await? {
            set_login(&place, &role).await?;
        }
        self.put_login(&tenant, &changed).await?;
        Ok(made(&tenant, &changed, generated))
    }

    /// Takes a login from a tenant: off its servers, with the sessions that it has there, then out of the registry.
    ///
    /// # Errors
    /// [`Error::NoLogin`], a server that could not be reached.
    pub async fn remove_login(&self, name: &TenantName, login: &str) -> Result<TenantDetails, Error> {
        let inventory = self.inventory().await?;
        let (_alone, tenant) = self.alone(name).await?;
        let role = login_role(find(&tenant, login)?)?;
        // With the last login nothing of pgtenant's is needed any more where it made nothing but logins.
        let last = tenant.logins.len() == 1 && tenant.placements.iter().all(|placement| !placement.managed);
        for placement in tenant.placements.iter().filter(|placement| placement.role.is_some()) {
            let place = inventory.place(&tenant, placement)?;
            if last {
                drop_own_roles(&place).await?;
            } else if placement.managed || is_ours(&place, &role.role).await? {
                remove_login(&place, &role).await?;
            }
        }
        let transaction = self.registry.begin().await?;
        transaction.remove_login(tenant.tenant.id, login).await?;
        transaction.commit().await?;
        self.tenant(name).await
    }

    async fn put_login(&self, tenant: &TenantDetails, login: &Login) -> Result<(), Error> {
        let transaction = self.registry.begin().await?;
        transaction.put_login(tenant.tenant.id, login).await?;
        Ok(transaction.commit().await?)
    }
}

fn made(tenant: &TenantDetails, login: &Login, password: Option<Secret>) -> LoginMade {
    let (tenant, role) = (tenant.tenant.slug.to_string(), login.role.clone());
    LoginMade { tenant, login: login.login.clone(), role, password }
}

fn find<'a>(tenant: &'a TenantDetails, login: &str) -> Result<&'a Login, Error> {
    let found = tenant.logins.iter().find(|known| known.login == login);
    found.ok_or_else(|| Error::NoLogin { tenant: tenant.tenant.slug.to_string(), login: login.to_owned() })
}

/// The role of a login to be: the tenant's own for the first, one beside it for each further.
fn new_role(inventory: &Inventory, tenant: &TenantDetails, login: &str) -> Result<RoleName, Error> {
    if let Some(known) = tenant.logins.iter().find(|known| known.login == login) {
        return Ok(RoleName::parse(&known.role)?);
    }
    let own = match (tenant_role(tenant), tenant.placements.first()) {
        (Some(role), _) => role,
        (None, Some(placement)) => inventory.module(&placement.module)?.role_for(&tenant.tenant.slug, tenant.tenant.id),
        (None, None) => return Err(Error::NoPlaces { tenant: tenant.tenant.slug.to_string() }),
    };
    let first = login == DEFAULT_LOGIN || tenant.logins.is_empty();
    let taken = tenant.logins.iter().any(|known| known.role == own);
    Ok(RoleName::parse(&if first && !taken { own } else { format!("{own}.{login}") })?)
}

/// Lets a login into every place of its tenant. Of the places that were there before pgtenant, those with a role of their owner's are left alone: who
/// logs in there is for him to say.
async fn open_places(inventory: &Inventory, tenant: &TenantDetails, login: &Login) -> Result<(), Error> {
    let (mut places, mut closed) = (Vec::new(), None);
    for placement in &tenant.placements {
        let place = inventory.place(tenant, placement)?;
        if placement.managed || may_admit(&place).await? {
            places.push((place, placement.managed));
        } else {
            closed = Some(place);
        }
    }
    if let (true, Some(closed)) = (places.is_empty(), closed) {
        let role = closed.role.map_or_else(|| login.role.clone(), |role| role.to_string());
        return Err(Error::Adopted { role, server: closed.server.name.clone() });
    }
    for (place, managed) in &places {
        if *managed {
            provision(place, &mut Steps::unrecorded()).await?;
        } else {
            admit(place).await?;
        }
    }
    Ok(())
}

/// One place for each server on which the role of a login is.
async fn role_places(inventory: &Inventory, tenant: &TenantDetails, role: &LoginRole) -> Result<Vec<Place>, Error> {
    let mut places: BTreeMap<ServerName, Place> = BTreeMap::new();
    for placement in &tenant.placements {
        let place = inventory.place(tenant, placement)?;
        if !placement.managed && !is_ours(&place, &role.role).await? {
            return Err(Error::Adopted { role: role.role.to_string(), server: placement.server.clone() });
        }
        if place.pooling == Pooling::PerTenant || place.role.is_some() {
            places.entry(placement.server.clone()).or_insert(place);
        }
    }
    Ok(places.into_values().collect())
}
