//! Another tenant's place by its names: tables, schemas, databases, and the path that leads to them.

use super::attempts::Attempt::{self, CopyIn, CopyOut, Look, Refused};
use super::attempts::attempt;
use super::check::Check;
use super::error::Error;
use super::scene::{Scene, Way};
use super::session::Session;
use super::verdict::{Verdict, Wall};

pub(super) const CHECKS: &[Check] = &[
    Check::new("another's tables by their full names", Wall::Hostile, |scene| Box::pin(full_names(scene))),
    Check::new("another's database by its name", Wall::Everywhere, |scene| Box::pin(databases(scene))),
    Check::new("search_path set to another's schema", Wall::Everywhere, |scene| Box::pin(path(scene, PATH))),
    Check::new("search_path set to another's schema, out of the proxy's sight", Wall::Hostile, |scene| {
        Box::pin(path(scene, HIDDEN_PATH))
    }),
    Check::new("a schema that is gone leads to nothing", Wall::Everywhere, |scene| Box::pin(gone(scene))),
    Check::new("objects made in public, and where others find them", Wall::Everywhere, |scene| {
        Box::pin(attempt(scene, OBJECTS))
    }),
];

const FULL_NAMES: &[Attempt] = &[
    Look("SELECT * FROM {schema}.{table}"),
    Look("TABLE {schema}.{table}"),
    Look("SELECT * FROM {database}.{schema}.{table}"),
    CopyOut("COPY {schema}.{table} TO STDOUT"),
    CopyOut("COPY (SELECT * FROM {schema}.{table}) TO STDOUT"),
    Look("SELECT query_to_xml('SELECT * FROM {schema}.{table}', true, true, '')"),
    Look("SELECT schema_to_xml('{schema_text}', true, true, '')"),
    Look("BEGIN; CREATE TEMP TABLE loot AS SELECT * FROM {schema}.{table}; TABLE loot"),
    Look("ROLLBACK"),
    Look(
        "DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM {schema}.{table} LOOP RAISE NOTICE '%', r; END LOOP; END $$",
    ),
];

/// What changes another's table: of interest only where it is not one's own by the same name.
const FULL_NAMES_CHANGED: &[Attempt] = &[
    Refused("INSERT INTO {schema}.{table} (note) VALUES ('planted')"),
    Refused("UPDATE {schema}.{table} SET note = 'stolen'"),
    Refused("DELETE FROM {schema}.{table}"),
    Refused("TRUNCATE {schema}.{table}"),
    Refused("LOCK TABLE {schema}.{table} IN ACCESS SHARE MODE"),
    Refused("SELECT nextval('{schema}.{table}_id_seq')"),
    Refused("DROP TABLE {schema}.{table}"),
    Refused("ALTER TABLE {schema}.{table} OWNER TO CURRENT_USER"),
    Refused("GRANT SELECT ON {schema}.{table} TO PUBLIC"),
    CopyIn("COPY {schema}.{table} (note) FROM STDIN"),
];

async fn full_names(scene: &Scene) -> Result<Verdict, Error> {
    if scene.has_common_tables() {
        return Ok(Verdict::NotApplicable("the tables are common; see the checks of rows".to_owned()));
    }
    match attempt(scene, FULL_NAMES).await? {
        Verdict::Holds(_) if !scene.has_own_databases() => attempt(scene, FULL_NAMES_CHANGED).await,
        verdict => Ok(verdict),
    }
}

/// The proxy leads only to the tenant's own places, by whatever name the database is asked for.
async fn databases(scene: &Scene) -> Result<Verdict, Error> {
    for database in [scene.victim.database.as_str(), "postgres", "template1"] {
        let mut config = scene.config(&scene.thief, Way::Wide);
        match Session::open(config.dbname(database)).await {
            Ok(_) => return Ok(Verdict::Leaks(format!("database \"{database}\" lets it in"))),
            Err(error) if error.as_db_error().is_some() => {}
            Err(source) => return Err(Error::Postgres { doing: "ask for another database", source }),
        }
    }
    Ok(Verdict::Holds("3 refused".to_owned()))
}

const PATH: &[Attempt] = &[
    Look("SET search_path = {schema}"),
    Look("SELECT note FROM {table}"),
    Look("SET SCHEMA '{schema_text}'"),
    Look("SELECT note FROM {table}"),
    Look("SET search_path = {schema}; SELECT note FROM {table}"),
    Look("BEGIN; SET LOCAL search_path = {schema}, pg_temp; SELECT note FROM {table}"),
    Look("ROLLBACK"),
    Look("SELECT set_config('search_path', '{schema_text}', false)"),
    Look("SELECT note FROM {table}"),
    Look("SELECT pg_catalog.set_config('search_path', '{schema_text}', true); SELECT note FROM {table}"),
    Look("/* a */ SET /* b */ SESSION search_path TO \"$user\", {schema}"),
    Look("SELECT note FROM {table}"),
    Look("RESET search_path"),
];

const HIDDEN_PATH: &[Attempt] = &[
    Look("DO $$ BEGIN EXECUTE 'SET search_path = {schema}'; END $$; SELECT note FROM {table}"),
    Look("DO $$ BEGIN PERFORM set_config('search' || '_path', '{schema_text}', false); END $$"),
    Look("SELECT note FROM {table}"),
    Look("SELECT set_config('search' || '_path', '{schema_text}', false)"),
    Look("SELECT note FROM {table}"),
    Look("UPDATE pg_settings SET setting = '{schema_text}' WHERE name = 'search_path'"),
    Look("SELECT note FROM {table}"),
    Look("DISCARD ALL"),
];

async fn path(scene: &Scene, attempts: &[Attempt]) -> Result<Verdict, Error> {
    match scene.ground.isolation {
        crate::tenant::Isolation::Schema => attempt(scene, attempts).await,
        _ => Ok(Verdict::NotApplicable("the tenants' schemas have the same name".to_owned())),
    }
}

/// A placement whose schema nobody made: what is in `public`, or was on the connection before, must not stand in for it.
async fn gone(scene: &Scene) -> Result<Verdict, Error> {
    let Some(module) = &scene.gone else {
        return Ok(Verdict::NotApplicable("a database of its own".to_owned()));
    };
    for way in [Way::Wide, Way::Narrow] {
        let mut config = scene.config(&scene.thief, way);
        let mut session = match Session::open(config.dbname(module)).await {
            Ok(session) => session,
            Err(error) if error.as_db_error().is_some() => continue,
            Err(source) => return Err(Error::Postgres { doing: "log in to a place that is gone", source }),
        };
        let said = session.say(&scene.notes()).await;
        session.leave().await;
        if said.code.is_none() {
            return Ok(Verdict::Leaks(format!("reads {} rows of something else", said.rows.len())));
        }
    }
    Ok(Verdict::Holds("an error".to_owned()))
}

const OBJECTS: &[Attempt] = &[
    Refused("CREATE TABLE public.{table}_mine (note text)"),
    Refused("CREATE VIEW public.{table}_mine AS SELECT 1"),
    Refused("CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1'"),
    Refused("CREATE OPERATOR public.= (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text)"),
    Refused("CREATE SCHEMA pgtenant_verify_mine"),
    Refused("CREATE TABLE {schema}.{table}_mine (note text)"),
    Refused("CREATE FUNCTION {schema}.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
    Refused("CREATE FUNCTION pg_catalog.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
    Refused("CREATE CAST (text AS int) WITH INOUT"),
    Refused("DROP SCHEMA {schema} CASCADE"),
    Refused("ALTER SCHEMA {schema} OWNER TO CURRENT_USER"),
    Refused("ALTER DATABASE {database} SET search_path = pg_temp"),
    Refused("ALTER DEFAULT PRIVILEGES FOR ROLE {role} GRANT ALL ON TABLES TO CURRENT_USER"),
    Refused("CREATE TABLE pgtenant.mine (note text)"),
];
