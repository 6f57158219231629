//! Adoption of a place that is there already (external, customer-managed, from before): checked, read, not changed.

use super::connection::{Connection, Step, admin_credentials, in_step};
use super::error::Error;
use super::order::DEFAULT_LOGIN;
use super::place::Place;
use crate::auth::Verifier;
use crate::tenant::{Login, RoleName};

/// Checks that the place is there and that its role may use it; the logins that open it, with the verifiers that the server has.
pub(super) async fn adopt(place: &Place, known: &[Login]) -> Result<Vec<Login>, Error> {
    let admin = admin_credentials(&place.server).await?;
    let mut connection = Connection::open(&place.server, &admin, place.database.as_str()).await?;
    in_step!(connection, "look at the place to be adopted", &place.lock(), |step| look(&step, place, known))
}

async fn look(step: &Step<'_>, place: &Place, known: &[Login]) -> Result<Vec<Login>, Error> {
    let wrong = |what: String| Error::NotAdoptable { what, server: step.server.clone() };
    let schema = place.schema_name();
    if !step.value::<bool>("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", &[&schema]).await? {
        return Err(wrong(format!("database \"{}\" has no schema \"{schema}\"", place.database)));
    }
    // Shared pools open it by the service login of the server's secret.
    let Some(role) = place.role.as_ref() else { return Ok(Vec::new()) };
    let mut roles: Vec<(String, &str)> = known.iter().map(|login| (login.login.clone(), login.role.as_str())).collect();
    if roles.is_empty() {
        roles.push((DEFAULT_LOGIN.to_owned(), role.as_str()));
    }
    let mut logins = Vec::with_capacity(roles.len());
    for (login, name) in roles {
        let verifier = verifier_of(step, name).await?.map_err(wrong)?;
        let usable = "SELECT has_database_privilege($1, current_database(), 'CONNECT') AND has_schema_privilege($1, $2, 'USAGE')";
        if !step.value::<bool>(usable, &[&name, &schema]).await? {
            return Err(wrong(format!(
                "role \"{name}\" may not connect to \"{}\" or use schema \"{schema}\"",
                place.database
            )));
        }
        logins.push(Login { login, role: RoleName::parse(name)?.to_string(), verifier: Some(verifier) });
    }
    let conflicts = known
        .iter()
        .zip(&logins)
        .find(|(had, read)| had.verifier.is_some() && had.verifier != read.verifier && !known.is_empty());
    match conflicts {
        Some((had, _)) => Err(wrong(format!(
            "role \"{}\" has another password there than on the tenant's other servers; give it the same SCRAM verifier",
            had.role
        ))),
        None => Ok(logins),
    }
}

/// The SCRAM verifier that the server has of a role; the inner error says what is wrong with the role.
async fn verifier_of(step: &Step<'_>, role: &str) -> Result<Result<String, String>, Error> {
    let sql = "SELECT rolpassword, rolcanlogin, coalesce(rolvaliduntil <= now(), false), \
                      rolsuper OR rolbypassrls OR rolreplication OR rolcreaterole OR rolcreatedb \
               FROM pg_authid WHERE rolname = $1";
    let rows = step.query(sql, &[&role]).await?;
    let Some(row) = rows.first() else { return Ok(Err(format!("there is no role \"{role}\""))) };
    let failed = |source| step.failed(source);
    let password: Option<String> = row.try_get(0).map_err(failed)?;
    if !row.try_get::<_, bool>(1).map_err(failed)? {
        return Ok(Err(format!("role \"{role}\" may not log in")));
    }
    if row.try_get::<_, bool>(2).map_err(failed)? {
        return Ok(Err(format!("the password of role \"{role}\" has expired")));
    }
    if row.try_get::<_, bool>(3).map_err(failed)? {
        return Err(Error::Powerful { role: role.to_owned(), server: step.server.clone() });
    }
    match password.map(|password| (password.parse::<Verifier>().is_ok(), password)) {
        Some((true, password)) => Ok(Ok(password)),
        Some((false, _)) => {
            Ok(Err(format!("the password of role \"{role}\" is no SCRAM-SHA-256 verifier; set it again there")))
        }
        None => Ok(Err(format!("role \"{role}\" has no password"))),
    }
}
