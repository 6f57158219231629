//! Provisioning: makes a place on its server whole, from whatever is there already; a second run finds nothing to do.

use std::sync::Arc;

use super::apply::{ApplyConfig, Ground, apply};
use super::connection::{Connection, Step, admin_credentials, app_credentials, in_step};
use super::database;
use super::error::Error;
use super::files;
use super::place::{LoginRole, Place};
use super::roles;
use super::schema::{self, Grantees};
use super::steps::Steps;
use super::template;
use crate::auth::{Credentials, Verifier};
use crate::tenant::{Isolation, Pooling, Server};

/// Iterations of verifiers made here: PostgreSQL's own default, so that both sides take logins at the same cost.
pub const SCRAM_ITERATIONS: u32 = 4096;
/// The database that is connected to where an admin secret names none.
const MAINTENANCE_DATABASE: &str = "postgres";
/// The word under which steps that make roles wait for each other.
pub(super) const ROLES: &str = "roles";

/// What provisioning a place came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provisioned {
    /// Migration files applied by this run.
    pub migrations: usize,
    /// The highest version of them that the place has had.
    pub version: Option<i64>,
}

/// Makes a place whole: roles, database, schema, rights, walls, migrations. Every step may be repeated; a run that broke off anywhere is finished by the next.
///
/// # Errors
/// The first step that failed. What was made before it stays, and bears the tenant's mark.
pub async fn provision(place: &Place, steps: &mut Steps<'_>) -> Result<Provisioned, Error> {
    let (admin, service, mut connection) = steps.take("connection", connect(place)).await?;
    let service = service.as_ref();
    steps.take("roles", make_roles(&mut connection, place, service)).await?;
    steps.take("database", make_database(&mut connection, place, service)).await?;
    drop(connection);
    let mut connection = Connection::open(&place.server, &admin, place.database.as_str()).await?;
    let grantees = Grantees::of(place, service.map(|service| service.user.as_str()));
    steps.take("schema", make_schema(&mut connection, place, service)).await?;
    steps.take("rights", grant(&mut connection, place, &grantees)).await?;
    let migrated = steps.take("migrations", migrate(&connection, place, &grantees)).await?;
    steps.take("verification", verify(&mut connection, place, &admin, service, &grantees)).await?;
    Ok(migrated)
}

/// The admin's credentials and connection, and the service login's credentials where a shared pool serves the place.
async fn connect(place: &Place) -> Result<(Credentials, Option<Credentials>, Connection), Error> {
    let admin = admin_credentials(&place.server).await?;
    let service = match place.pooling {
        Pooling::Shared => Some(app_credentials(&place.server).await?),
        Pooling::PerTenant => None,
    };
    let connection = maintenance(place, &admin).await?;
    Ok((admin, service, connection))
}

async fn make_roles(connection: &mut Connection, place: &Place, service: Option<&Credentials>) -> Result<(), Error> {
    in_step!(connection, "make the roles", ROLES, |step| roles::ensure(&step, place))?;
    let Some(service) = service else { return Ok(()) };
    let verifier = service.password.as_ref().map(|password| verifier(password.expose()));
    in_step!(connection, "make the service login", ROLES, |step| {
        roles::ensure_service(&step, &service.user, verifier.as_deref(), place.role.as_ref())
    })
}

async fn make_database(connection: &mut Connection, place: &Place, service: Option<&Credentials>) -> Result<(), Error> {
    database::ensure(connection, place).await?;
    let Some(service) = service else { return Ok(()) };
    let lock = place.database.as_str();
    in_step!(connection, "let the service login connect", lock, |step| database::allow(&step, place, &service.user))
}

async fn make_schema(connection: &mut Connection, place: &Place, service: Option<&Credentials>) -> Result<(), Error> {
    database::keep_books(connection).await?;
    if place.isolation == Isolation::Database && place.template.is_some() {
        template::take_over(connection, place).await?;
    }
    let lock = place.lock();
    in_step!(connection, "make the schema", &lock, |step| schema::ensure(&step, place))?;
    if place.isolation != Isolation::Shared {
        return Ok(());
    }
    in_step!(connection, "say whose rows a role sees", &lock, |step| map_roles(&step, place, service))
}

async fn grant(connection: &mut Connection, place: &Place, grantees: &Grantees) -> Result<(), Error> {
    let lock = place.lock();
    in_step!(connection, "grant rights on the schema", &lock, |step| schema::grant(&step, place, grantees))
}

/// Applies what the module's directory has and the place has not.
async fn migrate(connection: &Connection, place: &Place, grantees: &Grantees) -> Result<Provisioned, Error> {
    let Some(directory) = &place.migrations else { return Ok(Provisioned { migrations: 0, version: None }) };
    let files = files::read(directory)?;
    let owner = place.owner();
    let ground = Ground { place, owner: &owner, grantees };
    let (progress, outcome) = apply(connection, &ground, &files, &ApplyConfig::default()).await;
    outcome.map(|()| Provisioned { migrations: progress.applied, version: progress.version })
}

async fn verify(
    connection: &mut Connection,
    place: &Place,
    admin: &Credentials,
    service: Option<&Credentials>,
    grantees: &Grantees,
) -> Result<(), Error> {
    let lock = place.lock();
    in_step!(connection, "verify the place", &lock, |step| schema::verify(&step, place, grantees))?;
    match service {
        Some(service) => check_service(place, admin, service).await,
        None => Ok(()),
    }
}

/// Brings the role of a login on the place's server to what the registry is to say: there, with this verifier.
pub(super) async fn set_login(place: &Place, login: &LoginRole) -> Result<(), Error> {
    let admin = admin_credentials(&place.server).await?;
    let mut connection = maintenance(place, &admin).await?;
    let mark = place.tenant_mark();
    in_step!(connection, "set the password of a login", ROLES, |step| roles::ensure_login(&step, login, &mark))
}

/// A connection from which roles and databases are made and dropped.
pub(super) async fn maintenance(place: &Place, admin: &Credentials) -> Result<Connection, Error> {
    maintenance_of(&place.server, admin).await
}

/// The same on a server.
pub(super) async fn maintenance_of(server: &Arc<Server>, admin: &Credentials) -> Result<Connection, Error> {
    let database = admin.database.as_deref().unwrap_or(MAINTENANCE_DATABASE);
    Connection::open(server, admin, database).await
}

/// The name of a server's service login, if it has one.
pub(super) async fn app_login(server: &Server) -> Result<Option<String>, Error> {
    if server.app_secret.is_none() {
        return Ok(None);
    }
    Ok(Some(app_credentials(server).await?.user))
}

async fn map_roles(step: &Step<'_>, place: &Place, service: Option<&Credentials>) -> Result<(), Error> {
    if let Some(service) = service {
        database::map_role(step, &service.user, None).await?;
    }
    if let Some(role) = &place.role {
        database::map_role(step, role.as_str(), Some(place.tenant.0)).await?;
        for login in &place.logins {
            database::map_role(step, login.role.as_str(), Some(place.tenant.0)).await?;
        }
    }
    Ok(())
}

/// Tries the service login. One that provisioning made follows its secret when the secret has changed.
async fn check_service(place: &Place, admin: &Credentials, service: &Credentials) -> Result<(), Error> {
    let database = place.database.as_str();
    let refused = match Connection::open(&place.server, service, database).await {
        Ok(_) => return Ok(()),
        Err(error) if database::is_wrong_password(&error) => error,
        Err(error) => return Err(error),
    };
    let Some(password) = &service.password else { return Err(refused) };
    let verifier = verifier(password.expose());
    let mut connection = maintenance(place, admin).await?;
    let renewed = in_step!(connection, "renew the password of the service login", ROLES, |step| {
        roles::renew_service(&step, &service.user, &verifier)
    })?;
    if !renewed {
        return Err(refused);
    }
    Connection::open(&place.server, service, database).await.map(drop)
}

/// A fresh verifier for a password, as PostgreSQL stores it.
#[must_use]
pub fn verifier(password: &str) -> String {
    Verifier::generate(password, SCRAM_ITERATIONS).to_string()
}

/// Whether an admin can be reached on a server: connects and asks nothing.
///
/// # Errors
/// Why not.
pub async fn check_admin(server: &Arc<Server>) -> Result<(), Error> {
    let admin = admin_credentials(server).await?;
    let database = admin.database.clone().unwrap_or_else(|| MAINTENANCE_DATABASE.to_owned());
    Connection::open(server, &admin, &database).await.map(drop)
}
