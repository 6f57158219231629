//! Becoming somebody else, and getting rights that one has not.

use super::attempts::Attempt::{self, Look, Refused};
use super::attempts::attempt;
use super::check::Check;
use super::error::Error;
use super::scene::{Scene, Way};
use super::verdict::{Verdict, Wall};

pub(super) const CHECKS: &[Check] = &[
    Check::new("SET ROLE and RESET ROLE", Wall::Everywhere, |scene| Box::pin(become_another(scene, ROLE))),
    Check::new("SET ROLE, out of the proxy's sight", Wall::Hostile, |scene| {
        Box::pin(become_another(scene, HIDDEN_ROLE))
    }),
    Check::new("SET SESSION AUTHORIZATION", Wall::Everywhere, |scene| Box::pin(become_another(scene, AUTHORIZATION))),
    Check::new("rights and roles given to oneself", Wall::Everywhere, |scene| Box::pin(attempt(scene, RIGHTS))),
    Check::new("powers of the connection's role", Wall::Everywhere, |scene| Box::pin(powers(scene))),
];

/// Comes after all others: connections that were opened while the role had such settings keep them, and stay in the pools.
pub(super) const LAST: &[Check] =
    &[Check::new("ALTER ROLE SET on the connection's own role", Wall::Hostile, |scene| Box::pin(own_role(scene)))];

const ROLE: &[Attempt] = &[
    Look("SET ROLE {role}"),
    Look("SET LOCAL ROLE {role}"),
    Look("SET ROLE 'postgres'"),
    Look("SET ROLE pg_read_all_data"),
    Look("SET ROLE NONE"),
    Look("RESET ROLE"),
    Look("SELECT set_config('role', '{role_text}', false)"),
    Look("BEGIN; SET LOCAL ROLE {role}; COMMIT"),
];

const HIDDEN_ROLE: &[Attempt] = &[
    Look("DO $$ BEGIN EXECUTE 'SET ROLE {role}'; END $$"),
    Look("SELECT set_config('ro' || 'le', '{role_text}', false)"),
    Look("UPDATE pg_settings SET setting = '{role_text}' WHERE name = 'role'"),
    Look("CREATE FUNCTION pg_temp.mine() RETURNS text LANGUAGE sql SET role = {role} AS 'SELECT current_user::text'"),
    Look("SELECT pg_temp.mine()"),
];

const AUTHORIZATION: &[Attempt] = &[
    Look("SET SESSION AUTHORIZATION {role}"),
    Look("SET LOCAL SESSION AUTHORIZATION {role}"),
    Look("SET SESSION AUTHORIZATION 'postgres'"),
    Look("SET SESSION AUTHORIZATION DEFAULT"),
    Look("RESET SESSION AUTHORIZATION"),
    Look("SELECT set_config('session_authorization', '{role_text}', false)"),
    Look("DO $$ BEGIN EXECUTE 'SET SESSION AUTHORIZATION {role}'; END $$"),
];

/// After each attempt the session is whom it was, and reads what it read.
async fn become_another(scene: &Scene, attempts: &[Attempt]) -> Result<Verdict, Error> {
    const WHO: &str = "SELECT session_user || ' as ' || current_user";
    let mut session = scene.thief(Way::Wide).await?;
    let before = session.value("ask who one is", WHO).await?;
    for attempt in attempts {
        let (Attempt::Look(statement) | Attempt::Refused(statement)) = attempt else { continue };
        let accepted = session.say(&scene.aimed(statement)).await.code.is_none();
        let now = session.say(WHO).await;
        if now.value().is_some_and(|who| who != before) {
            return Ok(Verdict::Leaks(format!("{statement} makes it {}", now.value().unwrap_or_default())));
        }
        let seen = session.say(&scene.aimed("SELECT * FROM {schema}.{table}")).await;
        // A service login may read every schema without becoming anybody else.
        if seen.text.contains(&scene.victim.secret) && !scene.has_common_connections() {
            return Ok(Verdict::Leaks(format!("after {statement} another's table is read")));
        }
        if let Some(amiss) = scene.amiss(&mut session, &scene.thief).await.filter(|_| accepted) {
            return Ok(Verdict::Leaks(format!("after {statement} it {amiss}")));
        }
    }
    session.leave().await;
    Ok(Verdict::Holds(format!("{} tried", attempts.len())))
}

const RIGHTS: &[Attempt] = &[
    Refused("GRANT {role} TO CURRENT_USER"),
    Refused("GRANT pg_read_all_data TO CURRENT_USER"),
    Refused("GRANT pg_execute_server_program TO CURRENT_USER"),
    Refused("ALTER ROLE CURRENT_USER SUPERUSER"),
    Refused("ALTER ROLE CURRENT_USER BYPASSRLS"),
    Refused("ALTER ROLE CURRENT_USER CREATEROLE"),
    Refused("ALTER ROLE CURRENT_USER CREATEDB"),
    Refused("ALTER ROLE CURRENT_USER REPLICATION"),
    Refused("ALTER ROLE CURRENT_USER SET session_preload_libraries = 'x'"),
    Refused("ALTER ROLE {role} PASSWORD 'known'"),
    Refused("ALTER ROLE {role} SET search_path = pg_temp"),
    Refused("ALTER ROLE {role} NOLOGIN"),
    Refused("ALTER ROLE {role} RENAME TO pgtenant_verify_mine"),
    Refused("CREATE ROLE pgtenant_verify_mine LOGIN"),
    Refused("DROP ROLE {role}"),
    Refused("REASSIGN OWNED BY {role} TO CURRENT_USER"),
    Refused("DROP OWNED BY {role}"),
];

/// The role has none of the attributes and memberships that lead past every wall.
async fn powers(scene: &Scene) -> Result<Verdict, Error> {
    const POWERS: &str = "SELECT concat_ws(', ', CASE WHEN rolsuper THEN 'superuser' END, CASE WHEN rolbypassrls THEN 'bypassrls' END, \
        CASE WHEN rolcreaterole THEN 'createrole' END, CASE WHEN rolcreatedb THEN 'createdb' END, \
        CASE WHEN rolreplication THEN 'replication' END, \
        (SELECT string_agg('member of ' || g.rolname, ', ') FROM pg_catalog.pg_roles g \
         WHERE pg_has_role(r.oid, g.oid, 'MEMBER') AND g.rolname IN ('pg_read_all_data', 'pg_write_all_data', 'pg_monitor', \
               'pg_read_all_stats', 'pg_signal_backend', 'pg_read_server_files', 'pg_write_server_files', \
               'pg_execute_server_program', 'pg_maintain'))) \
        FROM pg_catalog.pg_roles r WHERE rolname = session_user";
    let mut session = scene.thief(Way::Wide).await?;
    let powers = session.value("ask for the role's powers", POWERS).await?;
    session.leave().await;
    Ok(match powers.as_str() {
        "" => Verdict::Holds("none".to_owned()),
        powers => Verdict::Leaks(format!("the role of its connections is {powers}")),
    })
}

/// What a role says of its own next connections: with one login for all tenants, those are everybody's.
async fn own_role(scene: &Scene) -> Result<Verdict, Error> {
    let mut session = scene.thief(Way::Wide).await?;
    if scene.has_common_connections() {
        // Undone at once: the login may be one that others work with.
        let said = session.say("BEGIN; ALTER ROLE SESSION_USER SET statement_timeout = '1h'").await;
        session.say("ROLLBACK").await;
        return Ok(match said.code {
            None => Verdict::Leaks("ALTER ROLE SESSION_USER SET was done on the common login".to_owned()),
            Some(code) => Verdict::Holds(code),
        });
    }
    let own = ["search_path = {schema}", "role = {role}", "session_authorization = {role}"];
    for setting in own {
        session.say(&scene.aimed(&format!("ALTER ROLE CURRENT_USER SET {setting}"))).await;
    }
    session.leave().await;
    let mut amiss = None;
    for way in [Way::Wide, Way::Narrow] {
        // A role's own settings may break its own connections, which is nobody else's loss.
        let Ok(mut next) = scene.thief(way).await else { continue };
        let seen = next.say(&scene.notes()).await;
        if seen.text.contains(&scene.victim.secret) {
            amiss = Some("its next session reads another's table".to_owned());
        }
        next.say("ALTER ROLE CURRENT_USER RESET ALL").await;
        next.leave().await;
    }
    let mut victim = scene.victim(Way::Wide).await?;
    amiss = amiss.or(scene.amiss(&mut victim, &scene.victim).await.map(|amiss| format!("the other tenant {amiss}")));
    Ok(amiss.map_or_else(|| Verdict::Holds("it binds its own role only".to_owned()), Verdict::Leaks))
}
