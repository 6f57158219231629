//! Which tenant, and which of its logins, a connection claims to be. Nothing here is proof; that is authentication's.

use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rapidhash::fast::RapidHasher;

use crate::auth::Verifier;
use crate::protocol::{Report, Severity, SqlState};
use crate::registry::{self, Registry};
use crate::tenant::{Login, Slug, Tenant, TenantName, TenantStatus};

use super::config::{DefaultTenantPhase, IdentifyConfig};
use super::error::Error;
use super::names::{Given, Reading, Source, hinted, named, shown};
use super::request::Asked;

/// The login of those who name only a tenant, unless the tenant has just one login of another name.
const DEFAULT_LOGIN: &str = "app";

/// Where tenants are looked up by any of their names: the registry, or a table in tests.
pub trait Directory {
    /// Why a look-up could not be answered.
    type Unavailable: std::error::Error + Send + Sync + 'static;

    /// The tenant with this name, if there is one.
    ///
    /// # Errors
    /// When that cannot be known now.
    fn lookup(&self, name: &TenantName) -> impl Future<Output = Result<Option<Arc<Tenant>>, Self::Unavailable>> + Send;
}

impl Directory for Registry {
    type Unavailable = registry::Unavailable;

    async fn lookup(&self, name: &TenantName) -> Result<Option<Arc<Tenant>>, registry::Unavailable> {
        Self::lookup(self, name).await
    }
}

/// What a client asks for, the tenant's name taken out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The login, without the tenant's name.
    pub login: String,
    /// The user name as the client sent it.
    pub user: String,
    /// The database asked for, which is the module, without the tenant's name; empty if none was given.
    pub database: String,
    /// Start-up settings by lower-case name, in the order of names; each name once, the last value given.
    pub settings: Vec<(String, String)>,
    /// `database`, or a word for true, where replication is asked for and allowed.
    pub replication: Option<String>,
    /// What named the tenant.
    pub source: Source,
}

/// A known tenant's known login, claimed but not proven.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// The login's row.
    pub login: Login,
    /// What proves it.
    pub verifier: Verifier,
    /// What is asked for.
    pub request: Request,
    /// For those who named no tenant: the phase (`allow` or `warn`) in which they became the default tenant's.
    pub by_default: Option<DefaultTenantPhase>,
    /// The only name that was looked up for it; none where it took several. As long as this one leads to this tenant, as it is now, the same
    /// words make the same claim.
    pub name: Option<TenantName>,
    /// What its failures are counted as.
    pub counted_as: String,
    /// Of what it asks for its session: the same for all that ask for the same.
    pub likeness: u64,
}

/// A name that leads nowhere. The client must not learn so: it gets an exchange that ends like a wrong password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// What is unknown, for log and metric only.
    pub reason: UnknownReason,
    /// The tenant, where that much is known.
    pub tenant: Option<Slug>,
    /// The user name as the client sent it.
    pub user: String,
    /// What the salt of the mock exchange is made from: the same for one login, in whichever way its tenant is named, as a
    /// real login's salt is.
    pub salt_name: String,
}

/// What is unknown about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownReason {
    /// The tenant.
    Tenant,
    /// The configured default tenant.
    DefaultTenant,
    /// The tenant's login.
    Login,
    /// Which login a bare tenant name means.
    DefaultLogin,
    /// How to verify the login: its verifier is missing or cannot be read.
    Verifier,
}

impl UnknownReason {
    /// A bounded word for it: the metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "unknown_tenant",
            Self::DefaultTenant => "unknown_default_tenant",
            Self::Login => "unknown_login",
            Self::DefaultLogin => "no_default_login",
            Self::Verifier => "no_verifier",
        }
    }
}

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whom a connection claims to be.
#[derive(Debug, Clone)]
pub enum Identified {
    /// Someone known.
    Known(Arc<Claim>),
    /// Nobody known.
    Unknown(Unknown),
}

impl Identified {
    /// What its failures are counted as: one name for one login of one tenant, known or not.
    #[must_use]
    pub fn counted_as(&self) -> &str {
        match self {
            Self::Known(claim) => &claim.counted_as,
            Self::Unknown(unknown) => &unknown.salt_name,
        }
    }
}

/// The name of a login of a tenant, which need not be there.
fn counted_as(login: &str, tenant: impl fmt::Display) -> String {
    format!("{login}\0{tenant}")
}

/// Finds out whom a connection claims to be, from its startup parameters and its TLS server name.
///
/// # Errors
/// [`Error::NoTenant`], [`Error::Conflict`], [`Error::Unavailable`], and what is wrong with the parameters themselves.
pub async fn identify<D: Directory + Sync>(
    parameters: &[(String, String)],
    server_name: Option<&str>,
    config: &IdentifyConfig,
    directory: &D,
) -> Result<Identified, Error> {
    let asked = Asked::sort(parameters, config)?;
    let found = match named(&asked, server_name, config).as_slice() {
        [] => by_hint_or_default(&asked, config, directory).await?,
        names => by_names(&asked, names, directory).await?,
    };
    Ok(match found {
        Found::Nobody { reason, salt_name } => {
            Identified::Unknown(Unknown { reason, tenant: None, user: asked.user, salt_name })
        }
        Found::Tenant(whom) => claim(whom, asked),
    })
}

/// The NOTICE for a client of the default tenant in phase `warn`.
#[must_use]
pub fn default_tenant_notice(tenant: &Tenant, config: &IdentifyConfig) -> Report {
    let message = format!("no tenant given, using the default tenant \"{}\"", tenant.slug);
    Report::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, message).hint(ways_to_name(config))
}

/// What the names of a connection lead to.
enum Found {
    Tenant(Whom),
    Nobody { reason: UnknownReason, salt_name: String },
}

impl Found {
    fn nobody(reason: UnknownReason, tenant: impl fmt::Display, login: &str) -> Self {
        Self::Nobody { reason, salt_name: counted_as(login, tenant) }
    }
}

/// A known tenant, and what is left of user and database name without its name.
struct Whom {
    tenant: Arc<Tenant>,
    /// None: the tenant's default login.
    login: Option<String>,
    database: String,
    source: Source,
    by_default: Option<DefaultTenantPhase>,
    name: Option<TenantName>,
}

/// All names that count must be one known tenant's; one name that is unknown, however often it is given, is an unknown tenant.
async fn by_names<D: Directory>(asked: &Asked, names: &[Given], directory: &D) -> Result<Found, Error> {
    let mut known: Vec<Option<(Arc<Tenant>, &Reading)>> = Vec::with_capacity(names.len());
    for given in names {
        known.push(resolve(given.source, &given.readings, directory).await?);
    }
    for (given, found) in names.iter().zip(&known).skip(1) {
        let agree = match (&known[0], found) {
            (Some((a, _)), Some((b, _))) => a.id == b.id,
            (None, None) => names[0].readings.iter().any(|a| given.readings.iter().any(|b| a.same_name(b))),
            _ => false,
        };
        if !agree {
            return Err(Error::Conflict { first: names[0].shown(), second: given.shown() });
        }
    }
    let rest_of = |source| {
        let (given, found) = names.iter().zip(&known).find(|(given, _)| given.source == source)?;
        found.as_ref().map(|(_, reading)| *reading).or(given.readings.last()).map(|reading| reading.rest.clone())
    };
    let login = rest_of(Source::User).unwrap_or_else(|| asked.user.clone());
    let Some((tenant, _)) = known[0].clone() else {
        let name = names[0].readings.last().and_then(|reading| reading.name.as_ref());
        return Ok(Found::nobody(UnknownReason::Tenant, name.map_or("", TenantName::as_str), &login));
    };
    let database = rest_of(Source::Database).unwrap_or_else(|| asked.database.clone());
    let name = match names {
        [Given { readings, .. }] if readings.len() == 1 => readings[0].name.clone(),
        _ => None,
    };
    Ok(Found::Tenant(Whom { tenant, login: Some(login), database, source: names[0].source, by_default: None, name }))
}

/// Nothing names a tenant for certain: the user name may hint at one, else it is the default tenant's.
async fn by_hint_or_default<D: Directory>(
    asked: &Asked,
    config: &IdentifyConfig,
    directory: &D,
) -> Result<Found, Error> {
    let default = match &config.default_tenant {
        Some(name) => Some(lookup(TenantName::parse(name).ok().as_ref(), directory).await?),
        None => None,
    };
    let user = asked.user.as_str();
    // A tenant called `app` or `doe` must not capture the default tenant's `app` and `john.doe`.
    let stays_whole = default.iter().flatten().any(|tenant| tenant.login(user).is_some());
    let tries = if stays_whole { Vec::new() } else { hinted(user, config) };
    for readings in &tries {
        if let Some((tenant, reading)) = resolve(Source::User, readings, directory).await? {
            let login = Some(reading.rest.clone()).filter(|login| !login.is_empty());
            let database = asked.database.clone();
            let source = Source::User;
            return Ok(Found::Tenant(Whom { tenant, login, database, source, by_default: None, name: None }));
        }
    }
    let served = config.default_tenant_phase != DefaultTenantPhase::Refuse;
    match default {
        Some(Some(tenant)) if served => Ok(Found::Tenant(Whom {
            tenant,
            login: Some(user.to_owned()),
            database: asked.database.clone(),
            source: Source::Default,
            by_default: Some(config.default_tenant_phase),
            name: None,
        })),
        Some(None) if served => Ok(Found::nobody(UnknownReason::DefaultTenant, "", user)),
        // More than one try: a dotted name, which must not tell whether there is such a tenant.
        _ if tries.len() > 1 => {
            let reading = tries[0].last();
            let name = reading.and_then(|r| r.name.as_ref()).map_or("", TenantName::as_str);
            Ok(Found::nobody(UnknownReason::Tenant, name, reading.map_or(user, |r| r.rest.as_str())))
        }
        _ => Err(Error::NoTenant { hint: ways_to_name(config) }),
    }
}

/// The one known tenant among the readings of a text; several are a conflict.
async fn resolve<'a, D: Directory>(
    source: Source,
    readings: &'a [Reading],
    directory: &D,
) -> Result<Option<(Arc<Tenant>, &'a Reading)>, Error> {
    let mut best: Option<(Arc<Tenant>, &Reading)> = None;
    let mut unavailable = None;
    for reading in readings {
        let tenant = match lookup(reading.name.as_ref(), directory).await {
            Ok(Some(tenant)) => tenant,
            Ok(None) => continue,
            Err(error) => {
                unavailable = Some(error);
                continue;
            }
        };
        match &best {
            Some((other, first)) if other.id != tenant.id => {
                let [first, second] = [first, &reading].map(|reading| (shown(&reading.given), source));
                return Err(Error::Conflict { first, second });
            }
            // Two names of one tenant: the reading whose login exists is the one that was meant.
            Some((same, first)) if same.login(&first.rest).is_some() => {}
            _ => best = Some((tenant, reading)),
        }
    }
    match (best, unavailable) {
        // The other readings of a known tenant's clients are no reason to lock them out while the registry is down.
        (None, Some(error)) => Err(error),
        (best, _) => Ok(best),
    }
}

/// A tenant by a name that one can bear; archived ones are as good as unknown.
async fn lookup<D: Directory>(name: Option<&TenantName>, directory: &D) -> Result<Option<Arc<Tenant>>, Error> {
    let Some(name) = name else { return Ok(None) };
    let tenant = directory.lookup(name).await.map_err(|error| Error::Unavailable(Box::new(error)))?;
    Ok(tenant.filter(|tenant| tenant.status != TenantStatus::Archived))
}

/// The login of a known tenant, with what proves it.
fn claim(whom: Whom, asked: Asked) -> Identified {
    let Whom { tenant, login, database, source, by_default, name } = whom;
    let row = match &login {
        Some(login) => tenant.login(login).ok_or(UnknownReason::Login),
        None => default_login(&tenant).ok_or(UnknownReason::DefaultLogin),
    };
    let verified = row.and_then(|row| {
        let verifier = row.verifier.as_deref().and_then(|text| text.parse().ok());
        Ok((row.clone(), verifier.ok_or(UnknownReason::Verifier)?))
    });
    match verified {
        Err(reason) => {
            let salt_name = counted_as(login.as_deref().unwrap_or(DEFAULT_LOGIN), tenant.id);
            Identified::Unknown(Unknown { reason, tenant: Some(tenant.slug.clone()), user: asked.user, salt_name })
        }
        Ok((login, verifier)) => {
            let request = Request {
                login: login.login.clone(),
                user: asked.user,
                database,
                settings: asked.settings.into_iter().collect(),
                replication: asked.replication,
                source,
            };
            let counted_as = counted_as(&login.login, tenant.id);
            let mut hasher = RapidHasher::default();
            (&request.settings, &request.replication).hash(&mut hasher);
            let likeness = hasher.finish();
            Identified::Known(Arc::new(Claim {
                tenant,
                login,
                verifier,
                request,
                by_default,
                name,
                counted_as,
                likeness,
            }))
        }
    }
}

fn default_login(tenant: &Tenant) -> Option<&Login> {
    tenant.login(DEFAULT_LOGIN).or(match tenant.logins.as_slice() {
        [only] => Some(only),
        _ => None,
    })
}

fn ways_to_name(config: &IdentifyConfig) -> String {
    let separator = config.separators.iter().find(|s| !s.is_empty()).map_or("@", String::as_str);
    let parameter = config.parameters.first().map_or("pgtenant.tenant", String::as_str);
    let mut hint = format!(
        "Name the tenant in the user name (\"app{separator}TENANT\") or as a startup option (\"options=-c {parameter}=TENANT\")"
    );
    if let Some(suffix) = &config.sni_suffix {
        hint.push_str(&format!(", or connect with TLS to TENANT.{}", suffix.trim_start_matches('.')));
    }
    if let Some(separator) = &config.database_separator {
        hint.push_str(&format!(", or in the database name (\"TENANT{separator}MODULE\")"));
    }
    hint.push('.');
    hint
}

#[cfg(test)]
#[path = "identify_tests.rs"]
mod tests;
