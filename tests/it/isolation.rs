//! Hostile tenants with free SQL on connections of their own: whatever they try, no row of another tenant is read or changed.

use crate::support::{Wire, proxy, unique, wire, world};

/// What becomes of an attempt.
#[derive(Clone, Copy)]
enum Fate {
    /// It fails with this SQLSTATE.
    Refused(&'static str),
    /// It fails, with what depends on the server's installation.
    Fails,
    /// It succeeds, and gives nothing away.
    Harmless,
    /// It succeeds or fails, and gives nothing away.
    Either,
}

use Fate::{Either, Fails, Harmless, Refused};

/// A fixture of two tenants of a module: one with a secret in each place where it could be looked for, one who looks.
struct Scene {
    module: &'static str,
    proxy: crate::support::Running,
    victim: crate::support::Tenant,
    thief: crate::support::Tenant,
    secret: String,
    /// The victim's session, whose last statement has the secret in it.
    session: Wire,
    process_id: String,
    row: String,
    large_object: String,
}

impl Scene {
    async fn set(module: &'static str) -> Self {
        let world = world().await;
        let (victim, thief) = (world.tenant_of("victim", &[module]).await, world.tenant_of("thief", &[module]).await);
        let proxy = proxy(world, |_| {}).await;
        let secret = format!("secret of {}", unique("nobody"));
        let mut session = Wire::login(proxy.address, &victim, module).await;
        let large_object = session.value(&format!("SELECT lo_from_bytea(0, '{secret}')")).await;
        let row = session.value(&format!("INSERT INTO notes (note) VALUES ('{secret}') RETURNING id")).await;
        // Statistics hold values, too; only the owner may collect them.
        let admin = crate::support::cluster().await.connect(victim.place(module, "database")).await.unwrap();
        admin.batch_execute("ANALYZE").await.unwrap();
        // A transaction keeps the server connection, and its text in pg_stat_activity, with the victim.
        session.run("BEGIN").await;
        let process_id = session.value(&format!("SELECT pg_backend_pid() /* {secret} */")).await;
        Self { module, proxy, victim, thief, secret, session, process_id, row, large_object }
    }

    /// Names of the victim's in an attempt.
    fn aimed(&self, attempt: &str) -> String {
        let place = |what| self.victim.place(self.module, what);
        attempt
            .replace("{role}", place("role"))
            .replace("{schema}", place("schema"))
            .replace("{database}", place("database"))
            .replace("{id}", &self.victim.id)
            .replace("{pid}", &self.process_id)
            .replace("{row}", &self.row)
            .replace("{lo}", &self.large_object)
    }

    /// Makes every attempt in one session of the thief's; none may show the secret.
    async fn attempt(&self, attempts: &[(&str, Fate)]) {
        let mut session = Wire::login(self.proxy.address, &self.thief, self.module).await;
        let mut wrong = Vec::new();
        for (attempt, fate) in attempts {
            let attempt = self.aimed(attempt);
            let outcome = session.run(&attempt).await;
            let code = outcome.code();
            let as_expected = match fate {
                Refused(expected) => code == *expected,
                Fails => !code.is_empty(),
                Harmless => code.is_empty(),
                Either => true,
            };
            if outcome.text.contains(&self.secret) {
                wrong.push(format!("{attempt} shows the secret: {}", outcome.text));
            } else if !as_expected || outcome.ended {
                wrong.push(format!("{attempt}: {:?}", outcome.error));
            }
            if outcome.ended {
                session = Wire::login(self.proxy.address, &self.thief, self.module).await;
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// The victim's data is as it was, and it is still served.
    async fn ends_whole(mut self) {
        assert_eq!(self.session.value("SELECT pg_backend_pid()").await, self.process_id, "the victim's session");
        self.session.run("COMMIT").await;
        let notes = self.session.run("SELECT note FROM notes ORDER BY id").await.rows;
        assert_eq!(notes, [[self.victim.slug.clone()], [self.secret.clone()]]);
        let object = self.session.value(&self.aimed("SELECT convert_from(lo_get({lo}), 'UTF8')")).await;
        assert_eq!(object, self.secret);
        self.proxy.stop().await;
    }
}

/// Who one is cannot be changed.
const IDENTITIES: &[(&str, Fate)] = &[
    ("SET ROLE \"{role}\"", Refused("42501")),
    ("SET LOCAL ROLE \"{role}\"", Refused("42501")),
    ("SET ROLE postgres", Refused("42501")),
    ("SET ROLE pg_read_all_data", Refused("42501")),
    ("SET SESSION AUTHORIZATION \"{role}\"", Refused("42501")),
    ("SET SESSION AUTHORIZATION postgres", Refused("42501")),
    ("SELECT set_config('role', '{role}', false)", Refused("42501")),
    ("SELECT set_config('session_authorization', '{role}', false)", Refused("42501")),
    ("UPDATE pg_settings SET setting = '{role}' WHERE name = 'role'", Harmless),
    ("DO $$ BEGIN EXECUTE 'SET ROLE \"{role}\"'; END $$", Refused("42501")),
    ("GRANT \"{role}\" TO CURRENT_USER", Refused("42501")),
    ("GRANT postgres TO CURRENT_USER", Refused("42501")),
    ("GRANT pg_read_all_data TO CURRENT_USER", Refused("42501")),
    ("ALTER ROLE CURRENT_USER SUPERUSER", Refused("42501")),
    ("ALTER ROLE CURRENT_USER BYPASSRLS", Refused("42501")),
    ("ALTER ROLE CURRENT_USER CREATEROLE", Refused("42501")),
    ("ALTER ROLE CURRENT_USER REPLICATION", Refused("42501")),
    ("ALTER ROLE CURRENT_USER SET role = '{role}'", Either),
    ("ALTER ROLE CURRENT_USER SET session_preload_libraries = 'x'", Refused("42501")),
    ("ALTER ROLE \"{role}\" PASSWORD 'known'", Refused("42501")),
    ("ALTER ROLE \"{role}\" SET search_path = pg_temp", Refused("42501")),
    ("ALTER ROLE \"{role}\" NOLOGIN", Refused("42501")),
    ("ALTER ROLE \"{role}\" RENAME TO mine", Refused("42501")),
    ("CREATE ROLE mine SUPERUSER LOGIN", Refused("42501")),
    ("DROP ROLE \"{role}\"", Refused("42501")),
    ("REASSIGN OWNED BY \"{role}\" TO CURRENT_USER", Refused("42501")),
    ("DROP OWNED BY \"{role}\"", Refused("42501")),
    ("SELECT session_user || current_user", Harmless),
];

/// The server's files, programs and other sessions are out of reach.
const SERVER: &[(&str, Fate)] = &[
    ("CREATE TEMP TABLE loot (line text)", Harmless),
    ("COPY loot FROM PROGRAM 'cat PG_VERSION'", Refused("42501")),
    ("COPY loot TO PROGRAM 'cat'", Refused("42501")),
    ("COPY (SELECT 1) TO PROGRAM 'cat'", Refused("42501")),
    ("COPY loot FROM '/etc/passwd'", Refused("42501")),
    ("COPY loot TO '/tmp/loot'", Refused("42501")),
    ("SELECT pg_read_file('PG_VERSION')", Refused("42501")),
    ("SELECT pg_read_binary_file('PG_VERSION')", Refused("42501")),
    ("SELECT pg_ls_dir('.')", Refused("42501")),
    ("SELECT pg_stat_file('PG_VERSION')", Refused("42501")),
    ("SELECT pg_ls_logdir()", Refused("42501")),
    ("SELECT lo_import('/etc/passwd')", Refused("42501")),
    ("SELECT lo_export(lo_create(0), '/tmp/loot')", Refused("42501")),
    ("SELECT pg_terminate_backend({pid})", Refused("42501")),
    ("SELECT pg_cancel_backend({pid})", Refused("42501")),
    ("SELECT pg_reload_conf()", Refused("42501")),
    ("ALTER SYSTEM SET log_statement = 'all'", Refused("42501")),
    ("SET log_statement = 'none'", Refused("42501")),
    ("SET session_preload_libraries = 'x'", Refused("42501")),
    ("SET local_preload_libraries = 'x'", Harmless),
    ("SET session_replication_role = replica", Refused("42501")),
    ("SET lo_compat_privileges = on", Refused("42501")),
    ("LOAD '/tmp/evil.so'", Fails),
    ("CREATE EXTENSION dblink", Fails),
    ("CREATE EXTENSION postgres_fdw", Fails),
    ("CREATE EXTENSION file_fdw", Fails),
    ("CREATE EXTENSION adminpack", Fails),
    ("CREATE EXTENSION plperlu", Fails),
    ("CREATE EXTENSION lo", Fails),
    ("CREATE FOREIGN DATA WRAPPER mine", Refused("42501")),
    ("CREATE PUBLICATION mine FOR ALL TABLES", Fails),
    ("CREATE SUBSCRIPTION mine CONNECTION '' PUBLICATION x WITH (connect = false)", Fails),
    ("SELECT pg_create_logical_replication_slot('mine', 'test_decoding')", Fails),
    ("CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION lo_manage()", Fails),
    ("CREATE LANGUAGE c", Fails),
    ("CREATE FUNCTION pg_temp.system(text) RETURNS int LANGUAGE c AS 'libc.so.6', 'system'", Refused("42501")),
    (
        "CREATE FUNCTION pg_temp.internal(text) RETURNS bytea LANGUAGE internal AS 'pg_read_binary_file_all'",
        Refused("42501"),
    ),
];

/// The catalogs say what there is, not what is in it.
const CATALOGS: &[(&str, Fate)] = &[
    ("SELECT rolname, rolpassword FROM pg_authid", Refused("42501")),
    ("SELECT * FROM pg_shadow", Refused("42501")),
    ("SELECT rolname, rolpassword FROM pg_roles", Harmless),
    ("SELECT * FROM pg_statistic", Refused("42501")),
    ("SELECT * FROM pg_stats", Harmless),
    ("SELECT * FROM pg_stats_ext", Harmless),
    ("SELECT * FROM pg_hba_file_rules", Refused("42501")),
    ("SELECT * FROM pg_file_settings", Refused("42501")),
    ("SELECT * FROM pg_user_mapping", Refused("42501")),
    ("SELECT * FROM pg_largeobject", Refused("42501")),
    ("SELECT * FROM pg_subscription", Refused("42501")),
    ("SELECT * FROM pg_stat_activity", Harmless),
    ("SELECT * FROM pg_stat_get_activity({pid})", Harmless),
    ("SELECT pg_stat_get_backend_activity(i) FROM generate_series(1, 500) i", Harmless),
    ("SELECT * FROM pg_cursors, pg_locks", Harmless),
    ("SELECT * FROM pg_prepared_statements", Harmless),
    ("SELECT * FROM pg_prepared_xacts", Harmless),
    ("SELECT lo_get({lo})", Fails),
    ("SELECT lo_put({lo}, 0, 'x')", Fails),
    ("SELECT lo_unlink({lo})", Fails),
    ("SELECT lo_open({lo}, 131072)", Fails),
    ("SELECT database_to_xml(true, true, '')", Either),
    ("SELECT * FROM pgtenant.roles", Refused("42501")),
    ("INSERT INTO pgtenant.roles SELECT current_user, NULL, true", Refused("42501")),
    ("UPDATE pgtenant.roles SET tenant_id = '{id}'", Refused("42501")),
    ("SELECT * FROM pgtenant.schema_versions", Refused("42501")),
    ("SELECT pgtenant.expose_to_owner('{schema}')", Refused("42501")),
    ("SELECT pgtenant.grant_rows('{schema}', current_user)", Refused("42501")),
    ("SELECT pgtenant.protect('{schema}', 'id')", Refused("42501")),
    (
        "CREATE OR REPLACE FUNCTION pgtenant.current_tenant() RETURNS uuid LANGUAGE sql AS 'SELECT ''{id}''::uuid'",
        Refused("42501"),
    ),
    ("ALTER FUNCTION pgtenant.current_tenant() SECURITY INVOKER", Refused("42501")),
    ("CREATE TABLE pgtenant.mine ()", Refused("42501")),
];

/// Nothing that others might use can be made, and nothing of theirs unmade.
const OBJECTS: &[(&str, Fate)] = &[
    ("CREATE SCHEMA mine", Refused("42501")),
    ("CREATE DATABASE mine", Refused("42501")),
    ("CREATE TABLESPACE mine LOCATION '/tmp'", Refused("42501")),
    ("CREATE TABLE public.notes (id int, note text)", Refused("42501")),
    ("CREATE TABLE \"{schema}\".mine ()", Refused("42501")),
    ("CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1'", Refused("42501")),
    (
        "CREATE FUNCTION \"{schema}\".f() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT note FROM notes'",
        Refused("42501"),
    ),
    ("CREATE FUNCTION pg_catalog.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", Refused("42501")),
    ("CREATE OPERATOR public.= (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text)", Refused("42501")),
    ("CREATE CAST (text AS int) WITH INOUT", Refused("42501")),
    ("DROP SCHEMA \"{schema}\" CASCADE", Refused("42501")),
    ("ALTER SCHEMA \"{schema}\" OWNER TO CURRENT_USER", Refused("42501")),
    ("DROP DATABASE \"{database}\"", Fails),
    ("ALTER DATABASE \"{database}\" SET search_path = pg_temp", Refused("42501")),
    ("ALTER DATABASE \"{database}\" OWNER TO CURRENT_USER", Refused("42501")),
    ("GRANT ALL ON DATABASE \"{database}\" TO CURRENT_USER", Either),
    ("SELECT has_database_privilege('{database}', 'CREATE')::text", Harmless),
    ("ALTER DEFAULT PRIVILEGES FOR ROLE \"{role}\" GRANT ALL ON TABLES TO CURRENT_USER", Refused("42501")),
    (
        "CREATE FUNCTION pg_temp.mine() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'",
        Harmless,
    ),
    ("ALTER FUNCTION pg_temp.mine() OWNER TO \"{role}\"", Refused("42501")),
    ("ALTER FUNCTION pg_temp.mine() SET role = '{role}'", Either),
    ("SELECT pg_temp.mine()", Either),
];

/// Another tenant's schema, by name.
const OTHER_SCHEMA: &[(&str, Fate)] = &[
    ("SELECT * FROM \"{schema}\".notes", Refused("42501")),
    ("TABLE \"{schema}\".notes", Refused("42501")),
    ("EXPLAIN ANALYZE SELECT * FROM \"{schema}\".notes", Refused("42501")),
    ("COPY \"{schema}\".notes TO STDOUT", Refused("42501")),
    ("COPY \"{schema}\".notes (note) FROM STDIN", Refused("42501")),
    ("INSERT INTO \"{schema}\".notes (note) VALUES ('planted')", Refused("42501")),
    ("UPDATE \"{schema}\".notes SET note = 'stolen' RETURNING *", Refused("42501")),
    ("DELETE FROM \"{schema}\".notes RETURNING *", Refused("42501")),
    ("TRUNCATE \"{schema}\".notes", Refused("42501")),
    ("DROP TABLE \"{schema}\".notes", Refused("42501")),
    ("ALTER TABLE \"{schema}\".notes OWNER TO CURRENT_USER", Refused("42501")),
    ("DO $$ BEGIN LOCK TABLE \"{schema}\".notes; END $$", Refused("42501")),
    ("SELECT nextval('\"{schema}\".notes_id_seq')", Refused("42501")),
    ("SELECT * FROM \"{schema}\".notes_id_seq", Refused("42501")),
    ("SELECT query_to_xml('SELECT * FROM \"{schema}\".notes', true, true, '')", Refused("42501")),
    ("SELECT table_to_xml('\"{schema}\".notes', true, true, '')", Refused("42501")),
    ("SELECT schema_to_xml('{schema}', true, true, '')", Either),
    ("CREATE TEMP TABLE heir () INHERITS (\"{schema}\".notes)", Refused("42501")),
    ("CREATE TEMP TABLE copy (LIKE \"{schema}\".notes)", Refused("42501")),
    ("CREATE TEMP TABLE copy AS SELECT * FROM \"{schema}\".notes", Refused("42501")),
    ("CREATE TEMP VIEW peek AS SELECT * FROM \"{schema}\".notes", Refused("42501")),
    ("CREATE TRIGGER t BEFORE INSERT ON \"{schema}\".notes EXECUTE FUNCTION lo_manage()", Fails),
    ("GRANT SELECT ON \"{schema}\".notes TO CURRENT_USER", Refused("42501")),
    ("GRANT USAGE ON SCHEMA \"{schema}\" TO PUBLIC", Refused("42501")),
    ("SET search_path = \"{schema}\"", Harmless),
    ("SELECT * FROM notes", Refused("42P01")),
    ("CREATE TABLE notes (note text)", Fails),
    ("SELECT set_config('search_path', '{schema}', false)", Harmless),
    ("SELECT * FROM notes", Refused("42P01")),
    (
        "DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM \"{schema}\".notes LOOP RAISE NOTICE '%', r; END LOOP; END $$",
        Refused("42501"),
    ),
    ("PREPARE x AS SELECT * FROM \"{schema}\".notes", Refused("42501")),
    ("RESET ALL", Harmless),
    ("SELECT note FROM notes", Harmless),
    ("DISCARD ALL", Harmless),
    ("SELECT note FROM notes", Harmless),
];

/// Rows of another tenant in common tables.
const OTHER_ROWS: &[(&str, Fate)] = &[
    ("SELECT * FROM notes", Harmless),
    ("SELECT * FROM notes WHERE tenant_id = '{id}'", Harmless),
    ("SELECT * FROM notes WHERE id = {row}", Harmless),
    ("SELECT * FROM notes WHERE ctid IN ('(0,1)', '(0,2)', '(0,3)', '(0,4)')", Harmless),
    ("SELECT * FROM notes TABLESAMPLE SYSTEM (100)", Harmless),
    ("SELECT count(*), max(note), string_agg(note, ',') FROM notes", Harmless),
    ("COPY notes TO STDOUT", Harmless),
    ("COPY (SELECT * FROM notes) TO STDOUT", Harmless),
    ("COPY notes (note) FROM STDIN", Fails),
    ("SELECT table_to_xml('notes', true, true, '')", Harmless),
    ("SET pgtenant.tenant_id = '{id}'", Harmless),
    ("SELECT * FROM notes", Harmless),
    ("SELECT set_config('pgtenant.tenant_id', '{id}', false)", Harmless),
    ("SELECT * FROM notes", Harmless),
    ("SET LOCAL pgtenant.tenant_id = '{id}'", Harmless),
    ("SELECT pgtenant.current_tenant()", Harmless),
    ("INSERT INTO notes (tenant_id, note) VALUES ('{id}', 'planted')", Refused("42501")),
    ("UPDATE notes SET tenant_id = '{id}'", Refused("42501")),
    ("UPDATE notes SET note = 'stolen' WHERE tenant_id = '{id}' RETURNING *", Harmless),
    ("DELETE FROM notes WHERE tenant_id = '{id}' RETURNING *", Harmless),
    ("DELETE FROM notes WHERE id = {row}", Harmless),
    ("INSERT INTO notes (id, note) VALUES ({row}, 'x') ON CONFLICT (id) DO NOTHING RETURNING *", Either),
    (
        "INSERT INTO notes (id, note) VALUES ({row}, 'x') ON CONFLICT (id) DO UPDATE SET note = 'stolen' RETURNING *",
        Refused("42501"),
    ),
    (
        "MERGE INTO notes n USING (VALUES ({row})) v (id) ON n.id = v.id WHEN MATCHED THEN UPDATE SET note = 'stolen'",
        Harmless,
    ),
    (
        "WITH gone AS (DELETE FROM notes WHERE note <> '' AND tenant_id = '{id}' RETURNING *) SELECT * FROM gone",
        Harmless,
    ),
    ("TRUNCATE notes", Refused("42501")),
    ("SET row_security = off", Harmless),
    ("SELECT * FROM notes", Refused("42501")),
    ("RESET row_security", Harmless),
    ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY", Refused("42501")),
    ("ALTER TABLE notes NO FORCE ROW LEVEL SECURITY", Refused("42501")),
    ("DROP POLICY pgtenant_tenant ON notes", Refused("42501")),
    ("ALTER POLICY pgtenant_tenant ON notes USING (true)", Refused("42501")),
    ("CREATE POLICY mine ON notes USING (true)", Refused("42501")),
    ("CREATE RULE mine AS ON SELECT TO notes DO INSTEAD NOTHING", Refused("42501")),
    (
        "CREATE TRIGGER t BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger()",
        Refused("42501"),
    ),
    ("CREATE INDEX ON notes (note)", Refused("42501")),
    ("CREATE STATISTICS mine ON id, note FROM notes", Refused("42501")),
    ("DROP TABLE notes", Refused("42501")),
    ("GRANT SELECT ON notes TO PUBLIC", Either),
    ("SELECT setval('notes_id_seq', 1)", Refused("42501")),
    ("SELECT * FROM notes_id_seq", Refused("42501")),
    ("CREATE TEMP VIEW peek AS SELECT * FROM notes", Harmless),
    ("SELECT * FROM peek", Harmless),
    ("CREATE TEMP VIEW peep WITH (security_barrier = false) AS SELECT * FROM notes WHERE tenant_id = '{id}'", Harmless),
    ("SELECT * FROM peep", Harmless),
    (
        "CREATE FUNCTION pg_temp.definer() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT note FROM notes'",
        Harmless,
    ),
    ("SELECT pg_temp.definer()", Harmless),
    (
        "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE NOTICE 'seen: %', $1; RETURN true; END $$",
        Harmless,
    ),
    ("SELECT count(*) FROM notes WHERE pg_temp.leak(note)", Harmless),
    ("ALTER FUNCTION pg_temp.leak(text) LEAKPROOF", Refused("42501")),
    ("CREATE FUNCTION pg_temp.leaker(text) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true'", Refused("42501")),
    ("SELECT 1 FROM notes WHERE note::int = 1", Either),
    ("SELECT 1 FROM notes WHERE 1 / (length(note) - length(note)) = 1", Fails),
    ("CREATE TEMP TABLE notes (note text)", Harmless),
    ("SELECT * FROM notes", Harmless),
    ("DROP TABLE pg_temp.notes", Harmless),
    ("CREATE FUNCTION pg_temp.current_tenant() RETURNS uuid LANGUAGE sql AS 'SELECT ''{id}''::uuid'", Harmless),
    ("CREATE FUNCTION pg_temp.uuid_eq(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true'", Harmless),
    ("CREATE OPERATOR pg_temp.= (FUNCTION = pg_temp.uuid_eq, LEFTARG = uuid, RIGHTARG = uuid)", Harmless),
    ("CREATE TEMP TABLE roles AS SELECT session_user AS role, '{id}'::uuid AS tenant_id, false AS service", Harmless),
    ("SET search_path = pg_temp, pgtenant, \"{schema}\"", Harmless),
    ("SELECT * FROM \"{schema}\".notes", Harmless),
    ("DISCARD ALL", Harmless),
    ("SELECT count(*) FROM notes", Harmless),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_tenant_with_a_database_of_its_own_stays_in_it() {
    let scene = Scene::set("crm").await;
    for attempts in [IDENTITIES, SERVER, CATALOGS, OBJECTS] {
        scene.attempt(attempts).await;
    }
    scene
        .attempt(&[
            ("SELECT * FROM \"{database}\".public.notes", Refused("0A000")),
            ("SELECT note FROM notes", Harmless),
            ("CREATE TABLE mine ()", Refused("42501")),
            ("RESET ALL", Harmless),
            ("SELECT note FROM notes", Harmless),
        ])
        .await;
    // The proxy leads only to the tenant's own places, by whatever name the database is asked for.
    for database in [scene.victim.place("crm", "database"), "postgres", "template1", &scene.victim.slug] {
        let startup = wire::startup(&[("user", &scene.thief.user()), ("database", database)]);
        let refusal = Wire::login_with(scene.proxy.address, &startup, &scene.thief.password).await.err();
        assert_eq!(refusal.expect("a refusal").field(b'C'), "3D000", "{database}");
    }
    scene.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_tenant_with_a_schema_of_its_own_stays_in_it() {
    let scene = Scene::set("operations").await;
    for attempts in [IDENTITIES, SERVER, CATALOGS, OBJECTS, OTHER_SCHEMA] {
        scene.attempt(attempts).await;
    }
    scene.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_tenant_in_common_tables_reaches_its_own_rows_only() {
    let scene = Scene::set("ledger").await;
    for attempts in [IDENTITIES, SERVER, CATALOGS, OBJECTS, OTHER_ROWS] {
        scene.attempt(attempts).await;
    }
    scene.ends_whole().await;
}

/// Start-up parameters that would make somebody else of the client, each with the SQLSTATE that it gets.
const SMUGGLED: &[(&str, &str, &str)] = &[
    ("role", "{role}", "42501"),
    ("ROLE", "{role}", "42501"),
    ("session_authorization", "{role}", "42501"),
    ("Session_Authorization", "{role}", "42501"),
    ("session_preload_libraries", "x", "42501"),
    ("local_preload_libraries", "x", "42501"),
    ("pgtenant.tenant_id", "{id}", "42501"),
    ("PGTENANT.Tenant_ID", "{id}", "42501"),
    ("options", "-c role={role}", "42501"),
    ("options", "-crole={role}", "42501"),
    ("options", "-c ROLE={role}", "42501"),
    ("options", "--role={role}", "42501"),
    ("options", "-c\trole={role}", "42501"),
    ("options", "-c r\\ole={role}", "42501"),
    ("options", "-c \\role={role}", "42501"),
    ("options", "  -c application_name=a\\ b   -c role={role}", "42501"),
    ("options", "-c session-authorization={role}", "42501"),
    ("options", "--session-authorization={role}", "42501"),
    ("options", "-c pgtenant.tenant-id={id}", "42501"),
    ("options", "--pgtenant.tenant_id={id}", "42501"),
    ("options", "-c session_preload_libraries=x", "42501"),
    ("options", "-c options=-crole={role}", "42704"),
    ("options", "-c user={role}", "42704"),
    ("options", "-c database={database}", "42704"),
    ("options", "-c replication=database", "42704"),
    ("options", "-d postgres", "42501"),
    ("options", "-O", "42501"),
    ("options", "-P", "42501"),
    ("replication", "database", "42501"),
    ("options", "-c nonsense=1", "42704"),
    ("nonsense", "1", "42704"),
];

#[tokio::test(flavor = "multi_thread")]
async fn start_up_options_make_nobody_else_of_a_client() {
    for module in ["operations", "ledger"] {
        let scene = Scene::set(module).await;
        let user = scene.thief.user();
        let mut wrong = Vec::new();
        for (name, value, code) in SMUGGLED {
            let value = scene.aimed(value);
            let startup = wire::startup(&[("user", &user), ("database", module), (name, &value)]);
            let refused = Wire::login_with(scene.proxy.address, &startup, &scene.thief.password).await.err();
            let got = refused.map_or_else(String::new, |error| error.field(b'C'));
            if got != *code {
                wrong.push(format!("{name}={value}: {got:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // What PostgreSQL itself allows reaches no further either.
        let path = scene.aimed("-c search_path=\"{schema}\",public --search_path={schema}");
        let startup = wire::startup(&[("user", &user), ("database", module), ("options", &path)]);
        let mut session = Wire::login_with(scene.proxy.address, &startup, &scene.thief.password).await.expect("log in");
        let seen = session.run("SELECT note FROM notes").await;
        assert!(!seen.text.contains(&scene.secret), "{}", seen.text);
        let who = session.value("SELECT session_user || ' ' || current_user").await;
        let own = scene.thief.place(module, "role");
        assert_eq!(who, format!("{own} {own}"));
        scene.ends_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_return_to_the_tenants_own_when_a_client_resets_everything() {
    let world = world().await;
    let tenant = world.tenant_of("reset", &["operations", "ledger"]).await;
    let proxy = proxy(world, |_| {}).await;
    for module in ["operations", "ledger"] {
        let mut session = Wire::login(proxy.address, &tenant, module).await;
        for reset in ["RESET ALL", "DISCARD ALL", "RESET search_path", "SET search_path TO DEFAULT"] {
            session.run("SET search_path = pg_catalog").await;
            assert_eq!(session.run("SELECT note FROM notes").await.code(), "42P01");
            assert_eq!(session.run(reset).await.code(), "", "{reset}");
            assert_eq!(session.value("SELECT note FROM notes").await, tenant.slug, "{reset}");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_objects_never_hide_a_tenants_own() {
    let world = world().await;
    let tenant = world.tenant_of("temp", &["operations", "shop", "ledger", "stock"]).await;
    let proxy = proxy(world, |_| {}).await;
    for module in ["operations", "shop", "ledger", "stock"] {
        let mut session = Wire::login(proxy.address, &tenant, module).await;
        session.run("CREATE TEMP TABLE notes (note text)").await;
        session.run("INSERT INTO pg_temp.notes VALUES ('hidden')").await;
        assert_eq!(session.value("SELECT note FROM notes").await, tenant.slug, "{module}");
    }
    proxy.stop().await;
}
