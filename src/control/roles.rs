//! The roles of a place: who owns it, who may connect, whose rights count, and what the tenant's logins open.

use super::connection::Step;
use super::error::Error;
use super::place::{LoginRole, Place};
use crate::tenant::{Isolation, RoleName, quote_ident, quote_literal};

/// What is made of a role.
enum Login<'a> {
    /// It only holds rights.
    No,
    /// It logs in, with this verifier.
    With(&'a str),
    /// It logs in by what the server's own rules say (certificate, peer).
    Unproved,
}

/// Makes the roles of a place and their memberships, or finds them made.
pub(super) async fn ensure(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    let mark = place.mark();
    let owner = place.owner();
    ensure_role(step, &owner, &mark, &Login::No).await?;
    own_through(step, &owner).await?;
    ensure_clients(step, place).await?;
    if place.isolation == Isolation::Shared {
        ensure_role(step, &place.rows(), &mark, &Login::No).await?;
    }
    ensure_logins(step, place).await?;
    match &place.role {
        Some(role) if place.isolation == Isolation::Shared => grant_role(step, &place.rows(), role.as_str()).await,
        _ => Ok(()),
    }
}

/// Makes the group of those who may connect to a common database.
pub(super) async fn ensure_clients(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    if place.isolation == Isolation::Database {
        return Ok(());
    }
    ensure_role(step, &place.clients(), &place.database_mark(), &Login::No).await
}

/// Makes the role whose rights count at a place and those of the tenant's logins, in the group of those who may connect.
pub(super) async fn ensure_logins(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    let Some(role) = &place.role else { return Ok(()) };
    let tenant_mark = place.tenant_mark();
    if !place.logins.iter().any(|login| login.role == *role) {
        ensure_role(step, role.as_str(), &tenant_mark, &Login::No).await?;
    }
    for login in &place.logins {
        ensure_login(step, login, &tenant_mark).await?;
        if login.role != *role {
            grant_role(step, role.as_str(), login.role.as_str()).await?;
        }
    }
    if place.isolation != Isolation::Database {
        grant_role(step, &place.clients(), role.as_str()).await?;
    }
    Ok(())
}

/// Makes a tenant's login role, or brings its password to what the registry says.
pub(super) async fn ensure_login(step: &Step<'_>, login: &LoginRole, tenant_mark: &str) -> Result<(), Error> {
    let verifier = login.verifier.as_deref();
    let verifier = verifier.ok_or_else(|| Error::NoVerifier { role: login.role.to_string() })?;
    ensure_role(step, login.role.as_str(), tenant_mark, &Login::With(verifier)).await
}

/// Makes the service login of shared pools, or checks the one that is there: it is named by the operator's own secret, so any harmless role will do.
/// It is a member of no role but those that its pools switch to.
pub(super) async fn ensure_service(
    step: &Step<'_>,
    role: &str,
    verifier: Option<&str>,
    switches_to: Option<&RoleName>,
) -> Result<(), Error> {
    match find(step, role).await? {
        Some(found) if found.powerful => return Err(powerful(step, role)),
        Some(_) => {}
        None => create(step, role, SERVICE_MARK, &verifier.map_or(Login::Unproved, Login::With)).await?,
    }
    match switches_to {
        Some(tenant) => grant_role(step, tenant.as_str(), role).await,
        None => Ok(()),
    }
}

/// Gives a service login that provisioning made a new password; false for one made by someone else.
pub(super) async fn renew_service(step: &Step<'_>, role: &str, verifier: &str) -> Result<bool, Error> {
    if find(step, role).await?.and_then(|found| found.mark).as_deref() != Some(SERVICE_MARK) {
        return Ok(false);
    }
    step.run(&format!("ALTER ROLE {} PASSWORD {}", quote_ident(role), quote_literal(verifier))).await?;
    Ok(true)
}

/// Drops a role that bears the mark, and ends its sessions; one that is gone already is no error.
pub(super) async fn drop_marked(step: &Step<'_>, role: &str, mark: &str) -> Result<(), Error> {
    if !is_marked(step, role, mark).await? {
        return Ok(());
    }
    end_sessions(step, role).await?;
    step.run(&format!("DROP ROLE {}", quote_ident(role))).await
}

/// Drops every role of ours whose name begins so, and ends its sessions. They own nothing any more.
pub(super) async fn drop_all_marked(step: &Step<'_>, prefix: &str) -> Result<(), Error> {
    let sql = "SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, $1) \
               AND shobj_description(oid, 'pg_authid') LIKE 'pgtenant:%'";
    for row in step.query(sql, &[&prefix]).await? {
        let role: String = row.try_get(0).map_err(|source| step.failed(source))?;
        end_sessions(step, &role).await?;
        step.run(&format!("DROP ROLE {}", quote_ident(&role))).await?;
    }
    Ok(())
}

/// Drops the service login of shared pools, if provisioning made it and nothing depends on it.
pub(super) async fn drop_service(step: &Step<'_>, role: &str) -> Result<(), Error> {
    let used = "SELECT EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass \
                    AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1))";
    if step.value::<bool>(used, &[&role]).await? {
        return Ok(());
    }
    drop_marked(step, role, SERVICE_MARK).await
}

/// The databases in which a role that bears the mark has rights or objects. Its sessions end, and with them their temporary tables.
pub(super) async fn rights(step: &Step<'_>, role: &str, mark: &str) -> Result<Vec<String>, Error> {
    if !is_marked(step, role, mark).await? {
        return Ok(Vec::new());
    }
    end_sessions(step, role).await?;
    // A right on a database as such is taken from anywhere.
    let sql = "SELECT DISTINCT coalesce(d.datname, current_database())::text FROM pg_shdepend s \
               LEFT JOIN pg_database d ON d.oid = s.dbid \
               WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1)";
    let rows = step.query(sql, &[&role]).await?;
    rows.iter().map(|row| row.try_get(0).map_err(|source| step.failed(source))).collect()
}

/// Takes all rights in the connected database from a role, which must own nothing there.
pub(super) async fn disown(step: &Step<'_>, role: &str) -> Result<(), Error> {
    let owns = "SELECT EXISTS (SELECT FROM pg_shdepend WHERE deptype = 'o' AND refclassid = 'pg_authid'::regclass \
                    AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1) \
                    AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    if step.value::<bool>(owns, &[&role]).await? {
        return Err(Error::Owns { role: role.to_owned(), server: step.server.clone() });
    }
    own_through(step, role).await?;
    step.run(&format!("DROP OWNED BY {}", quote_ident(role))).await
}

/// Takes the login from a role that bears the mark, and drops it unless it is to `stay`.
pub(super) async fn close(step: &Step<'_>, role: &str, mark: &str, stay: bool) -> Result<(), Error> {
    if !stay {
        return drop_marked(step, role, mark).await;
    }
    if !is_marked(step, role, mark).await? {
        return Ok(());
    }
    step.run(&format!("ALTER ROLE {} NOLOGIN PASSWORD NULL", quote_ident(role))).await?;
    end_sessions(step, role).await
}

/// Whether a role is there and ours; one of someone else's is an error.
pub(super) async fn is_marked(step: &Step<'_>, role: &str, mark: &str) -> Result<bool, Error> {
    match find(step, role).await? {
        None => Ok(false),
        Some(found) if found.mark.as_deref() == Some(mark) => Ok(true),
        Some(_) => Err(Error::Foreign { kind: "role", name: role.to_owned(), server: step.server.clone() }),
    }
}

/// Ends a role's sessions as far as the admin may, and waits for that: their temporary tables go with them. Those through a proxy end by the
/// registry's word as well.
async fn end_sessions(step: &Step<'_>, role: &str) -> Result<(), Error> {
    let sql = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
               WHERE usename = $1 AND pid <> pg_backend_pid() AND pg_has_role(usename, 'MEMBER')";
    step.query(sql, &[&role]).await.map(drop)
}

/// The mark of service logins that provisioning made.
const SERVICE_MARK: &str = "pgtenant:service";

struct Found {
    mark: Option<String>,
    powerful: bool,
}

async fn find(step: &Step<'_>, role: &str) -> Result<Option<Found>, Error> {
    let rows = step
        .query(
            "SELECT shobj_description(oid, 'pg_authid'), \
                    rolsuper OR rolbypassrls OR rolreplication OR rolcreaterole OR rolcreatedb \
             FROM pg_roles WHERE rolname = $1",
            &[&role],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mark = row.try_get(0).map_err(|source| step.failed(source))?;
    let powerful = row.try_get(1).map_err(|source| step.failed(source))?;
    Ok(Some(Found { mark, powerful }))
}

async fn ensure_role(step: &Step<'_>, role: &str, mark: &str, login: &Login<'_>) -> Result<(), Error> {
    let Some(found) = find(step, role).await? else { return create(step, role, mark, login).await };
    if found.mark.as_deref() != Some(mark) {
        return Err(Error::Foreign { kind: "role", name: role.to_owned(), server: step.server.clone() });
    }
    if found.powerful {
        return Err(powerful(step, role));
    }
    let name = quote_ident(role);
    match login {
        Login::No => step.run(&format!("ALTER ROLE {name} NOLOGIN")).await,
        Login::With(verifier) => {
            step.run(&format!("ALTER ROLE {name} LOGIN PASSWORD {}", quote_literal(verifier))).await
        }
        Login::Unproved => step.run(&format!("ALTER ROLE {name} LOGIN")).await,
    }
}

async fn create(step: &Step<'_>, role: &str, mark: &str, login: &Login<'_>) -> Result<(), Error> {
    let name = quote_ident(role);
    let login = match login {
        Login::No => "NOLOGIN".to_owned(),
        Login::With(verifier) => format!("LOGIN PASSWORD {}", quote_literal(verifier)),
        Login::Unproved => "LOGIN".to_owned(),
    };
    let mark = quote_literal(mark);
    step.run(&format!(
        "CREATE ROLE {name} {login} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT; \
         COMMENT ON ROLE {name} IS {mark}"
    ))
    .await
}

fn powerful(step: &Step<'_>, role: &str) -> Error {
    Error::Powerful { role: role.to_owned(), server: step.server.clone() }
}

/// Takes a role out of a group, if it is in it.
pub(super) async fn revoke_role(step: &Step<'_>, group: &str, member: &str) -> Result<(), Error> {
    if is_member(step, group, member).await? {
        step.run(&format!("REVOKE {} FROM {}", quote_ident(group), quote_ident(member))).await?;
    }
    Ok(())
}

async fn is_member(step: &Step<'_>, group: &str, member: &str) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid \
               JOIN pg_roles u ON u.oid = m.member WHERE g.rolname = $1 AND u.rolname = $2)";
    step.value(sql, &[&group, &member]).await
}

/// Makes `member` a member of `group` unless it is one.
async fn grant_role(step: &Step<'_>, group: &str, member: &str) -> Result<(), Error> {
    if is_member(step, group, member).await? {
        return Ok(());
    }
    step.run(&format!("GRANT {} TO {}", quote_ident(group), quote_ident(member))).await
}

/// Lets an admin that is no superuser act as the owner role.
async fn own_through(step: &Step<'_>, owner: &str) -> Result<(), Error> {
    let row = step.query("SELECT rolsuper, current_setting('server_version_num')::integer FROM pg_roles WHERE rolname = current_user", &[]).await?;
    let Some(row) = row.first() else { return Ok(()) };
    let superuser: bool = row.try_get(0).map_err(|source| step.failed(source))?;
    let version: i32 = row.try_get(1).map_err(|source| step.failed(source))?;
    if superuser {
        return Ok(());
    }
    // Since PostgreSQL 16 the maker of a role has only the right to grant it, and a membership says by itself what it is good for.
    let options = if version >= 160_000 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
    step.run(&format!("GRANT {} TO CURRENT_USER{options}", quote_ident(owner))).await
}
