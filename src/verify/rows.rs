//! Rows of another tenant in common tables, and the parameter that says whose rows are seen.

use super::attempts::Attempt::{self, CopyOut, Look, Refused};
use super::attempts::attempt;
use super::check::Check;
use super::error::Error;
use super::scene::{Scene, Way};
use super::verdict::{Verdict, Wall};

pub(super) const CHECKS: &[Check] = &[
    Check::new("another's rows in common tables", Wall::Everywhere, |scene| Box::pin(rows(scene, READ))),
    Check::new("another's rows, by functions, views and errors", Wall::Everywhere, |scene| {
        Box::pin(rows(scene, SIDEWAYS))
    }),
    Check::new("the module's own tables, read by a tenant without rows", Wall::Everywhere, |scene| {
        Box::pin(tables(scene))
    }),
    Check::new("row policies taken away", Wall::Everywhere, |scene| Box::pin(rows(scene, POLICIES))),
    Check::new("the tenant parameter forged", Wall::Everywhere, |scene| Box::pin(rows(scene, FORGED))),
    Check::new("the tenant parameter forged, out of the proxy's sight", Wall::Hostile, |scene| {
        Box::pin(rows(scene, FORGED_OUT_OF_SIGHT))
    }),
];

async fn rows(scene: &Scene, attempts: &[Attempt]) -> Result<Verdict, Error> {
    if scene.has_common_tables() {
        return attempt(scene, attempts).await;
    }
    Ok(Verdict::NotApplicable("the tenants have tables of their own".to_owned()))
}

/// A tenant that was made a moment ago has rows in no table but the probes' own: whatever it sees elsewhere is another's.
async fn tables(scene: &Scene) -> Result<Verdict, Error> {
    let list = format!(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped \
         WHERE n.nspname = '{}' AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname NOT LIKE 'pgtenant\\_verify\\_%' \
           AND has_table_privilege(c.oid, 'SELECT')",
        scene.thief.schema.replace('\'', "''")
    );
    let mut session = scene.thief(Way::Wide).await?;
    let listed = if scene.has_common_tables() { session.must("list tables", &list).await?.rows } else { Vec::new() };
    for table in listed.iter().flatten() {
        if !session.must("read a table", &format!("SELECT 1 FROM {table} LIMIT 1")).await?.rows.is_empty() {
            return Ok(Verdict::Leaks(format!("it sees rows of {table}")));
        }
    }
    session.leave().await;
    Ok(match listed.len() {
        0 => Verdict::NotApplicable("none are common".to_owned()),
        count => Verdict::Holds(format!("{count} read")),
    })
}

const READ: &[Attempt] = &[
    Look("SELECT * FROM {table}"),
    Look("SELECT * FROM {table} WHERE tenant_id = '{id}'"),
    Look("SELECT * FROM {schema}.{table} WHERE note <> ''"),
    Look("SELECT * FROM {table} TABLESAMPLE SYSTEM (100)"),
    Look("SELECT * FROM {table} WHERE ctid IN ('(0,1)', '(0,2)', '(0,3)', '(0,4)')"),
    Look("SELECT count(*), max(note), string_agg(note, ',') FROM {table}"),
    CopyOut("COPY {table} TO STDOUT"),
    CopyOut("COPY (SELECT * FROM {table}) TO STDOUT"),
    Refused("INSERT INTO {table} (tenant_id, note) VALUES ('{id}', 'planted')"),
    Refused("UPDATE {table} SET tenant_id = '{id}'"),
    Look("BEGIN; UPDATE {table} SET note = 'stolen' WHERE tenant_id = '{id}' RETURNING *"),
    Look("ROLLBACK"),
    Look("BEGIN; DELETE FROM {table} WHERE tenant_id = '{id}' RETURNING *"),
    Look("ROLLBACK"),
    Refused("TRUNCATE {table}"),
];

const SIDEWAYS: &[Attempt] = &[
    Look("SELECT table_to_xml('{table}', true, true, '')"),
    Look("CREATE TEMP VIEW peep WITH (security_barrier = false) AS SELECT * FROM {table}; SELECT * FROM peep"),
    Look(
        "CREATE FUNCTION pg_temp.definer() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT note FROM {table}'",
    ),
    Look("SELECT pg_temp.definer()"),
    Look(
        "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS \
         $$ BEGIN RAISE NOTICE 'seen: %', $1; RETURN true; END $$",
    ),
    Look("SELECT count(*) FROM {table} WHERE pg_temp.leak(note)"),
    Look("SELECT 1 FROM {table} WHERE note::int = 1"),
    Look("CREATE FUNCTION pg_temp.uuid_eq(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true'"),
    Look("CREATE OPERATOR pg_temp.= (FUNCTION = pg_temp.uuid_eq, LEFTARG = uuid, RIGHTARG = uuid)"),
    Look("SELECT * FROM {table}"),
    Look("DISCARD ALL"),
];

const POLICIES: &[Attempt] = &[
    Look("SET row_security = off; SELECT * FROM {table}"),
    Look("RESET row_security"),
    Refused("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"),
    Refused("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"),
    Refused("DROP POLICY pgtenant_tenant ON {table}"),
    Refused("ALTER POLICY pgtenant_tenant ON {table} USING (true)"),
    Refused("CREATE POLICY mine ON {table} USING (true)"),
    Refused("INSERT INTO pgtenant.roles SELECT current_user, NULL, true"),
    Refused("UPDATE pgtenant.roles SET tenant_id = '{id}'"),
    Refused("SELECT pgtenant.expose_to_owner('{schema_text}')"),
    Refused(
        "CREATE OR REPLACE FUNCTION pgtenant.current_tenant() RETURNS uuid LANGUAGE sql AS 'SELECT ''{id}''::uuid'",
    ),
];

const FORGED: &[Attempt] = &[
    Look("SET pgtenant.tenant_id = '{id}'"),
    Look("SELECT * FROM {table}"),
    Look("SET pgtenant.tenant_id = '{id}'; SELECT * FROM {table}"),
    Look("BEGIN; SET LOCAL pgtenant.tenant_id = '{id}'; SELECT * FROM {table}"),
    Look("ROLLBACK"),
    Look("SELECT set_config('pgtenant.tenant_id', '{id}', false)"),
    Look("SELECT * FROM {table}"),
    Look("SELECT pg_catalog.set_config('PGTENANT.tenant_id'::text, '{id}', true); SELECT * FROM {table}"),
    Look("SET \"pgtenant\".\"tenant_id\" TO '{id}'; SELECT * FROM {table}"),
    Look("RESET ALL"),
];

const FORGED_OUT_OF_SIGHT: &[Attempt] = &[
    Look("DO $$ BEGIN PERFORM set_config('pgtenant.' || 'tenant_id', '{id}', false); END $$; SELECT * FROM {table}"),
    Look("SELECT set_config('pgtenant.' || 'tenant_id', '{id}', false)"),
    Look("SELECT * FROM {table}"),
    Look("DO $$ BEGIN EXECUTE 'SET pgtenant.tenant_' || 'id = ''{id}'''; END $$; SELECT * FROM {table}"),
    Look("DISCARD ALL"),
];
