//! What PostgreSQL's catalogs, views and functions tell of others, and the server's own files and programs.

use super::attempts::Attempt::{self, Look, Refused};
use super::attempts::attempt;
use super::check::Check;
use super::error::Error;
use super::scene::{Scene, Way};
use super::verdict::{Verdict, Wall};

pub(super) const CHECKS: &[Check] = &[
    Check::new("texts of others' statements in pg_stat_activity", Wall::Hostile, |scene| Box::pin(activity(scene))),
    Check::new("another's large objects", Wall::Hostile, |scene| Box::pin(large_objects(scene))),
    Check::new("passwords, statistics and bookkeeping", Wall::Everywhere, |scene| Box::pin(attempt(scene, CATALOGS))),
    Check::new("the catalogs' lists of names", Wall::Databases, |scene| Box::pin(names(scene))),
    Check::new("COPY PROGRAM and the server's files", Wall::Everywhere, |scene| Box::pin(attempt(scene, SERVER))),
    Check::new("untrusted languages and extensions", Wall::Everywhere, |scene| Box::pin(attempt(scene, CODE))),
];

async fn activity(scene: &Scene) -> Result<Verdict, Error> {
    let mut victim = scene.victim(Way::Wide).await?;
    victim.must("run a statement", &format!("BEGIN; SELECT '{}'", scene.victim.secret)).await?;
    let mut thief = scene.thief(Way::Wide).await?;
    let mut seen = false;
    for look in [
        "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
        "SELECT query FROM pg_stat_get_activity(NULL) WHERE pid <> pg_backend_pid()",
        "SELECT pg_stat_get_backend_activity(i) FROM generate_series(1, 500) i",
    ] {
        seen |= thief.say(look).await.text.contains(&scene.victim.secret);
    }
    victim.must("end a transaction", "ROLLBACK").await?;
    Ok(match seen {
        true => Verdict::Leaks("another's statement is read".to_owned()),
        false => Verdict::Holds("hidden".to_owned()),
    })
}

async fn large_objects(scene: &Scene) -> Result<Verdict, Error> {
    let mut victim = scene.victim(Way::Wide).await?;
    let make = format!("SELECT lo_from_bytea(0, '{}')", scene.victim.secret);
    let object = victim.value("make a large object", &make).await?;
    let mut thief = scene.thief(Way::Wide).await?;
    let mut seen = None;
    for look in ["convert_from(lo_get({lo}), 'UTF8')", "lo_put({lo}, 0, 'x')", "lo_open({lo}, 131072)"] {
        let said = thief.say(&format!("BEGIN; SELECT {}", look.replace("{lo}", &object))).await;
        thief.say("ROLLBACK").await;
        if said.code.is_none() {
            seen.get_or_insert(look.split('(').next().unwrap_or_default());
        }
    }
    victim.must("remove a large object", &format!("SELECT lo_unlink({object})")).await?;
    Ok(match seen {
        Some(function) => Verdict::Leaks(format!("{function} reaches another's object")),
        None => Verdict::Holds("3 refused".to_owned()),
    })
}

const CATALOGS: &[Attempt] = &[
    Refused("SELECT rolpassword FROM pg_authid"),
    Refused("SELECT * FROM pg_shadow"),
    Refused("SELECT * FROM pg_user_mapping"),
    Refused("SELECT * FROM pg_largeobject"),
    Refused("SELECT * FROM pg_statistic"),
    Refused("SELECT * FROM pg_hba_file_rules"),
    Refused("SELECT * FROM pg_subscription"),
    Refused("SELECT * FROM pgtenant.roles"),
    Refused("SELECT * FROM pgtenant.schema_versions"),
    Look("SELECT * FROM pg_prepared_statements, pg_cursors"),
    Look("SELECT rolname, rolpassword FROM pg_roles"),
];

/// Whether the other's table, of the same name, is listed beside one's own.
async fn names(scene: &Scene) -> Result<Verdict, Error> {
    if scene.has_common_tables() {
        return Ok(Verdict::NotApplicable("the tables are common".to_owned()));
    }
    let mut thief = scene.thief(Way::Wide).await?;
    let listed = format!("SELECT count(*) FROM pg_class WHERE relname = '{}'", scene.table);
    let count = thief.value("look for tables", &listed).await?;
    Ok(match count.as_str() {
        "1" => Verdict::Holds("only one's own are listed".to_owned()),
        _ => Verdict::Leaks("the other tenant's tables are listed, not their rows".to_owned()),
    })
}

const SERVER: &[Attempt] = &[
    Refused("COPY (SELECT 1) TO PROGRAM 'cat > /dev/null'"),
    Refused("COPY {table} (note) FROM PROGRAM 'true'"),
    Refused("COPY {table} (note) FROM '/etc/hostname'"),
    Refused("COPY (SELECT 1) TO '/tmp/pgtenant_verify'"),
    Refused("SELECT pg_read_file('PG_VERSION')"),
    Refused("SELECT pg_read_binary_file('PG_VERSION')"),
    Refused("SELECT pg_ls_dir('.')"),
    Refused("SELECT lo_import('/etc/hostname')"),
    Refused("SELECT lo_export(lo_create(0), '/tmp/pgtenant_verify')"),
    Refused("SELECT pg_reload_conf()"),
    Refused("SET session_preload_libraries = 'x'"),
    Refused("SET log_statement = 'none'"),
    Refused("SET session_replication_role = replica"),
    Refused("LOAD '/tmp/pgtenant_verify'"),
];

const CODE: &[Attempt] = &[
    Refused("DO LANGUAGE plperlu $$ $$"),
    Refused("DO LANGUAGE plpython3u $$ pass $$"),
    Refused("CREATE EXTENSION dblink"),
    Refused("CREATE EXTENSION file_fdw"),
    Refused("CREATE EXTENSION plperlu"),
    Refused("CREATE LANGUAGE c"),
    Refused("CREATE FUNCTION pg_temp.system(text) RETURNS int LANGUAGE c AS 'libc.so.6', 'system'"),
    Refused("CREATE FUNCTION pg_temp.mine(text) RETURNS bytea LANGUAGE internal AS 'pg_read_binary_file_all'"),
    Refused("CREATE FUNCTION pg_temp.mine(text) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true'"),
    Refused("CREATE FOREIGN DATA WRAPPER mine"),
    Refused("CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION lo_manage()"),
];
