//! Changes to a registry as pairs of what was and what is to be: made in a transaction, and unmade by the same pairs turned round.

use std::fmt;

use tokio_postgres::types::Type;

use super::admin::{Parameter, decode};
use super::error::RegistryError;
use super::queries;
use super::rows::{ModuleRow, PlacementRow, TenantDetails};
use super::transaction::Transaction;
use crate::fault;
use crate::tenant::{Server, TenantId};

/// One thing as it was and as it is to be; nothing: not there. Both are never nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit<T> {
    /// As it was.
    pub from: Option<T>,
    /// As it is to be.
    pub to: Option<T>,
}

impl<T> Edit<T> {
    /// The way back.
    #[must_use]
    pub fn turned(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// Changes that belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// Of servers.
    pub servers: Vec<Edit<Server>>,
    /// Of modules.
    pub modules: Vec<Edit<ModuleRow>>,
    /// Of tenants.
    pub tenants: Vec<Edit<TenantDetails>>,
}

impl Edits {
    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.modules.is_empty() && self.tenants.is_empty()
    }
}

impl Transaction {
    /// A tenant as this transaction sees it; others are kept from it until the transaction ends.
    ///
    /// # Errors
    /// The query's.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<TenantDetails>, RegistryError> {
        if self.lock_tenant(id).await?.is_none() {
            return Ok(None);
        }
        let doing = "read a tenant";
        let id: Parameter<'_> = (&id.0, Type::UUID);
        let rows = self.query(doing, queries::DETAILS_BY_ID, &[id]).await?;
        rows.first().map(|row| decode(doing, row)).transpose()
    }

    /// Makes a tenant what it is to be, if it still is what it was.
    ///
    /// # Errors
    /// [`RegistryError::Moved`] when it is not; what the tables refuse.
    pub async fn edit_tenant(&self, edit: &Edit<TenantDetails>) -> Result<(), RegistryError> {
        if let Some(from) = &edit.from {
            let now = self.tenant(from.tenant.id).await?;
            if now.is_none_or(|now| !differences(from, &now).is_empty()) {
                return Err(RegistryError::Moved { tenant: from.tenant.slug.to_string() });
            }
        }
        match (&edit.from, &edit.to) {
            (None, Some(to)) => {
                self.insert_tenant(&to.tenant).await?;
                self.give(to).await?;
            }
            (Some(from), Some(to)) => {
                self.take(from, to).await?;
                if without_generation(&from.tenant) != without_generation(&to.tenant) {
                    self.update_tenant(&to.tenant).await?;
                }
                self.give(to).await?;
            }
            (Some(from), None) => drop(self.delete_tenant(from.tenant.id).await?),
            (None, None) => {}
        }
        fault::point("after", "write a tenant of an import");
        Ok(())
    }

    /// Takes from a tenant what it is not to have any more.
    async fn take(&self, from: &TenantDetails, to: &TenantDetails) -> Result<(), RegistryError> {
        let id = from.tenant.id;
        for alias in from.aliases.iter().filter(|alias| !to.aliases.contains(alias)) {
            self.remove_alias(id, alias).await?;
        }
        for network in from.allow.iter().filter(|network| !to.allow.contains(network)) {
            self.disallow(id, *network).await?;
        }
        for login in from.logins.iter().filter(|had| to.logins.iter().all(|kept| kept.login != had.login)) {
            self.remove_login(id, &login.login).await?;
        }
        for place in from.placements.iter().filter(|had| to.placements.iter().all(|kept| kept.module != had.module)) {
            self.remove_placement(id, &place.module).await?;
        }
        Ok(())
    }

    /// Gives a tenant what it is to have; what it has already stays untouched.
    async fn give(&self, to: &TenantDetails) -> Result<(), RegistryError> {
        let id = to.tenant.id;
        for alias in &to.aliases {
            self.add_alias(id, alias).await?;
        }
        for network in &to.allow {
            self.allow(id, *network).await?;
        }
        for placement in &to.placements {
            self.put_placement(id, placement).await?;
        }
        for login in &to.logins {
            self.put_login(id, login).await?;
        }
        Ok(())
    }
}

/// One way in which a tenant is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What of it.
    pub what: String,
    /// As it was; nothing: not there.
    pub was: Option<String>,
    /// As it is.
    pub is: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.was, &self.is) {
            (Some(was), Some(is)) if was == is => write!(f, "{} was changed", self.what),
            (Some(was), Some(is)) => write!(f, "{} was \"{was}\" and is \"{is}\"", self.what),
            (None, _) => write!(f, "{} was added", self.what),
            (_, None) => write!(f, "{} was removed", self.what),
        }
    }
}

/// In which ways a tenant is not what it was; its generation counts for nothing.
#[must_use]
pub fn differences(was: &TenantDetails, is: &TenantDetails) -> Vec<Difference> {
    let (a, b) = (&was.tenant, &is.tenant);
    let text = |text: Option<&str>| Some(text.unwrap_or("-").to_owned());
    let module = |row: &crate::registry::TenantRow| row.default_module.as_ref().map(ToString::to_string);
    let mut found = Vec::new();
    let mut compare = |what: &str, was: Option<String>, is: Option<String>| {
        if was != is {
            found.push(Difference { what: what.to_owned(), was, is });
        }
    };
    compare("slug", Some(a.slug.to_string()), Some(b.slug.to_string()));
    compare("name", Some(a.name.clone()), Some(b.name.clone()));
    compare("contact", text(a.contact.as_deref()), text(b.contact.as_deref()));
    compare("status", Some(a.status.to_string()), Some(b.status.to_string()));
    compare("default module", text(module(a).as_deref()), text(module(b).as_deref()));
    let alias = |alias: &crate::tenant::Alias| (format!("alias {alias}"), (), String::new());
    keyed(&mut found, was.aliases.iter().map(alias), is.aliases.iter().map(alias));
    let network = |network: &crate::address::Network| (format!("allowed network {network}"), (), String::new());
    keyed(&mut found, was.allow.iter().map(network), is.allow.iter().map(network));
    let place = |row: &PlacementRow| (format!("module {}", row.module), row.clone(), place_text(row));
    keyed(&mut found, was.placements.iter().map(place), is.placements.iter().map(place));
    let login = |login: &crate::tenant::Login| (format!("login {}", login.login), login.clone(), login.role.clone());
    keyed(&mut found, was.logins.iter().map(login), is.logins.iter().map(login));
    found
}

/// Where a place is, and whether it is there, in a line.
fn place_text(row: &PlacementRow) -> String {
    let schema = row.schema.as_ref().map(|schema| format!(".{schema}")).unwrap_or_default();
    format!("{}/{}{schema} ({})", row.server, row.database, row.status.as_str())
}

/// Compares what has names: the name, what it is, and how that reads.
fn keyed<T: PartialEq>(
    found: &mut Vec<Difference>,
    was: impl Iterator<Item = (String, T, String)>,
    is: impl Iterator<Item = (String, T, String)>,
) {
    let mut left: Vec<_> = is.collect();
    for (what, value, text) in was {
        let Some(at) = left.iter().position(|(name, _, _)| *name == what) else {
            found.push(Difference { what, was: Some(text), is: None });
            continue;
        };
        let (_, now, now_text) = left.swap_remove(at);
        if now != value {
            found.push(Difference { what, was: Some(text), is: Some(now_text) });
        }
    }
    found.extend(left.into_iter().map(|(what, _, text)| Difference { what, was: None, is: Some(text) }));
}

fn without_generation(row: &super::rows::TenantRow) -> super::rows::TenantRow {
    super::rows::TenantRow { generation: 0, ..row.clone() }
}
