//! Tenants in the registry and on their servers: made, finished, suspended, activated.

use std::error::Error as _;
use std::time::Duration;

use uuid::Uuid;

use super::error::Error;
use super::order::{Inventory, Overrides, default_login};
use super::provision::verifier;
use crate::address::Network;
use crate::auth::{Secret, Verifier};
use crate::limits::Own;
use crate::registry::{Admin, Lock, PlacementRow, PlacementStatus, RegistryError, TenantDetails, TenantRow};
use crate::tenant::{Alias, Login, ModuleName, RoleName, Slug, TenantId, TenantName, TenantStatus};

/// Characters of a generated password: about 190 bits, none of which a URL has to escape.
const PASSWORD_CHARACTERS: usize = 32;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A tenant to be made.
#[derive(Debug)]
pub struct NewTenant {
    /// Its id where it has one elsewhere already; a new one is made when absent.
    pub id: Option<TenantId>,
    /// Its short name.
    pub slug: Slug,
    /// Its name for people.
    pub name: String,
    /// Whom to write to.
    pub contact: Option<String>,
    /// Its other names.
    pub aliases: Vec<Alias>,
    /// What it subscribes to; the first is what a client gets that names none.
    pub modules: Vec<ModuleName>,
    /// What differs from the modules' own settings.
    pub overrides: Overrides,
    /// The name of its login.
    pub login: String,
    /// The login's password; one is made when absent.
    pub password: Option<Secret>,
}

/// A tenant that was made, or found made.
#[derive(Debug)]
pub struct Created {
    /// The tenant as it is now.
    pub tenant: TenantDetails,
    /// The password that was made for its login; a second run knows it no more.
    pub password: Option<Secret>,
}

/// The control plane over one registry.
#[derive(Clone)]
pub struct Control {
    pub(super) registry: Admin,
}

impl Control {
    /// Works on this registry.
    #[must_use]
    pub const fn new(registry: Admin) -> Self {
        Self { registry }
    }

    /// The registry it works on.
    #[must_use]
    pub const fn registry(&self) -> &Admin {
        &self.registry
    }

    /// All servers and modules.
    ///
    /// # Errors
    /// The registry's.
    pub async fn inventory(&self) -> Result<Inventory, Error> {
        Ok(Inventory { servers: self.registry.servers().await?, modules: self.registry.modules().await? })
    }

    /// A tenant by any of its names.
    ///
    /// # Errors
    /// [`Error::NoTenant`], and the registry's.
    pub async fn tenant(&self, name: &TenantName) -> Result<TenantDetails, Error> {
        let found = self.registry.tenant(name).await?;
        found.ok_or_else(|| Error::NoTenant { name: name.to_string() })
    }

    /// A tenant by any of its names, and the lock that lets nobody else work on it; waits for whoever does. The tenant is as it is
    /// once the lock is held.
    pub(super) async fn alone(&self, name: &TenantName) -> Result<(Lock, TenantDetails), Error> {
        let tenant = self.tenant(name).await?.tenant;
        let lock = self.lock(&tenant.slug).await?;
        Ok((lock, self.by_id(tenant.id).await?))
    }

    async fn lock(&self, slug: &Slug) -> Result<Lock, Error> {
        Ok(self.registry.lock(&format!("tenant {slug}")).await?)
    }

    /// Makes a tenant: in the registry first, as `provisioning`, then on its servers, and active when it is whole. What an
    /// earlier run left unfinished is finished, what is there stays as it is.
    ///
    /// # Errors
    /// A tenant of this slug that is another; whatever stopped one of its places.
    pub async fn create(&self, new: NewTenant) -> Result<Created, Error> {
        let inventory = self.inventory().await?;
        let _alone = self.lock(&new.slug).await?;
        let name = TenantName::parse(new.slug.as_str())?;
        let known = self.registry.tenant(&name).await?;
        let password = self.write(&inventory, &new, known.as_ref()).await?;
        let tenant = self.tenant(&name).await?;
        let done = self.finish(&inventory, &tenant, false).await;
        match (done, password) {
            (Ok(()), password) => Ok(Created { tenant: self.tenant(&name).await?, password }),
            (Err(source), Some(password)) => Err(Error::Unfinished { password, source: Box::new(source) }),
            (Err(error), None) => Err(error),
        }
    }

    /// Writes what is asked for and not there yet, all of it or nothing; the password that it made.
    async fn write(
        &self,
        inventory: &Inventory,
        new: &NewTenant,
        known: Option<&TenantDetails>,
    ) -> Result<Option<Secret>, Error> {
        if let Some(known) = known {
            check_same(new, known)?;
        }
        let id = known.map(|known| known.tenant.id).or(new.id).unwrap_or_else(|| TenantId(Uuid::now_v7()));
        let mut placements = Vec::new();
        let (mut login, mut made) = (None, None);
        // A tenant without a module gets a login with its first: its role is named by a module.
        if let Some(first) = new.modules.first() {
            let role = inventory.role((&new.slug, id), known, first)?;
            for module in &new.modules {
                let placed = known.and_then(|known| known.placements.iter().find(|p| p.module == *module));
                placements.push(match placed {
                    Some(placed) => {
                        let mut placed = placed.clone();
                        new.overrides.limits.apply(&mut placed);
                        placed
                    }
                    None => inventory.placement((&new.slug, id), module, &role, &new.overrides)?,
                });
            }
            if known.is_none_or(|known| known.logins.is_empty()) {
                let (first_login, password) = new_login(new, &role);
                (login, made) = (Some(first_login), password);
            }
        }
        let transaction = self.registry.begin().await?;
        if known.is_none() {
            transaction.insert_tenant(&new_row(new, id)).await?;
        }
        for alias in &new.aliases {
            transaction.add_alias(id, alias).await.map_err(|error| taken(alias, error))?;
        }
        for placement in &placements {
            transaction.put_placement(id, placement).await?;
        }
        if let Some(login) = &login {
            transaction.put_login(id, login).await?;
        }
        transaction.commit().await?;
        Ok(made)
    }

    /// Refuses a tenant's new sessions from now on, on every proxy, and ends its running ones after `grace`.
    ///
    /// # Errors
    /// [`Error::NoTenant`], and the registry's.
    pub async fn suspend(&self, name: &TenantName, grace: Duration) -> Result<TenantDetails, Error> {
        self.set_status(name, TenantStatus::Suspended, grace).await
    }

    /// Serves a tenant again.
    ///
    /// # Errors
    /// [`Error::NotWhole`] when one of its places is not there yet; [`Error::NoTenant`], and the registry's.
    pub async fn activate(&self, name: &TenantName) -> Result<TenantDetails, Error> {
        let id = self.tenant(name).await?.tenant.id;
        let transaction = self.registry.begin().await?;
        // From here on nobody else changes what is looked at.
        transaction.lock_tenant(id).await?;
        let tenant = self.by_id(id).await?;
        check_whole(&tenant)?;
        transaction.set_status(id, TenantStatus::Active, Duration::ZERO).await?;
        transaction.commit().await?;
        self.by_id(id).await
    }

    /// Lets a tenant take this much, from now on and on every proxy.
    ///
    /// # Errors
    /// [`Error::NoTenant`], and the registry's, which refuses what makes no sense.
    pub async fn set_limits(&self, name: &TenantName, limits: &Own) -> Result<TenantDetails, Error> {
        let id = self.tenant(name).await?.tenant.id;
        let transaction = self.registry.begin().await?;
        transaction.set_limits(id, limits).await?;
        transaction.commit().await?;
        self.by_id(id).await
    }

    /// Gives a tenant another name.
    ///
    /// # Errors
    /// A name that is any tenant's already; [`Error::NoTenant`], and the registry's.
    pub async fn add_alias(&self, name: &TenantName, alias: &Alias) -> Result<TenantDetails, Error> {
        let tenant = self.tenant(name).await?;
        let transaction = self.registry.begin().await?;
        transaction.add_alias(tenant.tenant.id, alias).await.map_err(|error| taken(alias, error))?;
        transaction.commit().await?;
        self.by_id(tenant.tenant.id).await
    }

    /// Takes a name from a tenant.
    ///
    /// # Errors
    /// [`Error::NoAlias`]; [`Error::NoTenant`], and the registry's.
    pub async fn remove_alias(&self, name: &TenantName, alias: &Alias) -> Result<TenantDetails, Error> {
        let tenant = self.tenant(name).await?;
        let transaction = self.registry.begin().await?;
        if !transaction.remove_alias(tenant.tenant.id, alias).await? {
            return Err(Error::NoAlias { tenant: tenant.tenant.slug.to_string(), alias: alias.to_string() });
        }
        transaction.commit().await?;
        self.by_id(tenant.tenant.id).await
    }

    /// Lets a tenant's clients come from a network, and with the first one from nowhere else.
    ///
    /// # Errors
    /// [`Error::NoTenant`], and the registry's.
    pub async fn allow(&self, name: &TenantName, network: Network) -> Result<TenantDetails, Error> {
        let tenant = self.tenant(name).await?;
        let transaction = self.registry.begin().await?;
        transaction.allow(tenant.tenant.id, network).await?;
        transaction.commit().await?;
        self.by_id(tenant.tenant.id).await
    }

    /// Lets them come from there no more; after the last network, from everywhere.
    ///
    /// # Errors
    /// [`Error::NotAllowed`]; [`Error::NoTenant`], and the registry's.
    pub async fn disallow(&self, name: &TenantName, network: Network) -> Result<TenantDetails, Error> {
        let tenant = self.tenant(name).await?;
        let transaction = self.registry.begin().await?;
        if !transaction.disallow(tenant.tenant.id, network).await? {
            return Err(Error::NotAllowed { tenant: tenant.tenant.slug.to_string(), network });
        }
        transaction.commit().await?;
        self.by_id(tenant.tenant.id).await
    }

    pub(super) async fn by_id(&self, id: TenantId) -> Result<TenantDetails, Error> {
        self.tenant(&TenantName::from(id)).await
    }

    pub(super) async fn set_status(
        &self,
        name: &TenantName,
        status: TenantStatus,
        grace: Duration,
    ) -> Result<TenantDetails, Error> {
        let tenant = self.tenant(name).await?;
        let transaction = self.registry.begin().await?;
        transaction.set_status(tenant.tenant.id, status, grace).await?;
        transaction.commit().await?;
        self.tenant(name).await
    }
}

/// All places of a tenant must be there before it is served.
fn check_whole(tenant: &TenantDetails) -> Result<(), Error> {
    let Some(missing) = tenant.placements.iter().find(|placement| placement.status != PlacementStatus::Ready) else {
        return Ok(());
    };
    let (tenant, module) = (tenant.tenant.slug.to_string(), missing.module.to_string());
    Err(match missing.status {
        PlacementStatus::Dropping => Error::BeingDropped { tenant, module },
        PlacementStatus::Provisioning | PlacementStatus::Ready => Error::NotWhole { tenant, module },
    })
}

/// A tenant that is there must be the one that is asked for.
fn check_same(new: &NewTenant, known: &TenantDetails) -> Result<(), Error> {
    let slug = &known.tenant.slug;
    if *slug != new.slug {
        return Err(Error::SlugIsAlias { slug: new.slug.to_string(), tenant: slug.to_string() });
    }
    let differs = |what, has: &str, asked: &str| {
        let (tenant, has, asked) = (slug.to_string(), has.to_owned(), asked.to_owned());
        Err(Error::Differs { tenant, what, has, asked })
    };
    if let Some(id) = new.id.filter(|id| *id != known.tenant.id) {
        return differs("id", &known.tenant.id.to_string(), &id.to_string());
    }
    if known.tenant.name != new.name {
        return differs("name", &known.tenant.name, &new.name);
    }
    if !matches!(known.tenant.status, TenantStatus::Provisioning | TenantStatus::Active) {
        return Err(Error::Inactive { tenant: slug.to_string(), status: known.tenant.status });
    }
    if let Some(login) = default_login(known).filter(|_| known.logins.iter().all(|l| l.login != new.login)) {
        return differs("login", &login.login, &new.login);
    }
    let login = known.logins.iter().find(|login| login.login == new.login);
    let verifier = login.and_then(|login| login.verifier.as_ref()?.parse::<Verifier>().ok());
    if let (Some(verifier), Some(password)) = (verifier, &new.password)
        && !verifier.matches(password.expose())
    {
        return Err(Error::OtherPassword { tenant: slug.to_string(), login: new.login.clone() });
    }
    for placement in known.placements.iter().filter(|placement| new.modules.contains(&placement.module)) {
        check_stays(known, placement)?;
        let isolation = new.overrides.isolation.unwrap_or(placement.isolation);
        if isolation != placement.isolation {
            return differs("isolation", placement.isolation.as_str(), isolation.as_str());
        }
        let server = new.overrides.server.as_ref().unwrap_or(&placement.server);
        if *server != placement.server {
            return differs("server", placement.server.as_str(), server.as_str());
        }
    }
    Ok(())
}

/// A place that is wanted must not be on its way out.
pub(super) fn check_stays(tenant: &TenantDetails, placement: &PlacementRow) -> Result<(), Error> {
    let (tenant, module) = (tenant.tenant.slug.to_string(), placement.module.to_string());
    match placement.status {
        PlacementStatus::Dropping => Err(Error::BeingDropped { tenant, module }),
        PlacementStatus::Provisioning | PlacementStatus::Ready => Ok(()),
    }
}

/// A tenant's first login, and the password that was made for it.
fn new_login(new: &NewTenant, role: &RoleName) -> (Login, Option<Secret>) {
    let made = new.password.is_none().then(generate_password);
    let login = Login {
        login: new.login.clone(),
        role: role.to_string(),
        verifier: new.password.as_ref().or(made.as_ref()).map(|password| verifier(password.expose())),
    };
    (login, made)
}

fn new_row(new: &NewTenant, id: TenantId) -> TenantRow {
    TenantRow {
        id,
        slug: new.slug.clone(),
        name: new.name.clone(),
        contact: new.contact.clone(),
        status: TenantStatus::Provisioning,
        sessions_end_at: None,
        default_module: new.modules.first().cloned(),
        limits: Own::default(),
        generation: 0,
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A random password that needs no escaping in a URL.
#[must_use]
pub fn generate_password() -> Secret {
    let character = || char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]);
    Secret::new((0..PASSWORD_CHARACTERS).map(|_| character()).collect())
}

/// An alias is one tenant's only.
fn taken(alias: &Alias, error: RegistryError) -> Error {
    if error.is_taken() { Error::AliasTaken { alias: alias.to_string() } } else { error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_random_and_safe_in_a_url() {
        let (a, b) = (generate_password(), generate_password());
        assert_ne!(a.expose(), b.expose());
        assert!(a.expose().len() >= 24 && a.expose().bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
