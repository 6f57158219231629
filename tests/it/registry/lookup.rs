//! Finding tenants by name.

use std::sync::Arc;
use std::time::Duration;

use pgtenant::registry::{Admin, Change, Config, Contents, Registry};
use pgtenant::tenant::{Alias, TenantStatus};
use tokio_postgres::Client;

use super::fixture::{add, furnished, hear, name, open, open_with, server, suspend};
use crate::support;

#[tokio::test]
async fn a_tenant_is_found_whole_by_any_of_its_names() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let tx = admin.begin().await.unwrap();
    tx.add_alias(acme.id, &Alias::parse("krn:acme:client:prod-001").unwrap()).await.unwrap();
    tx.commit().await.unwrap();
    let registry = open(&database).await;
    for any in ["acme", "krn:acme:client:prod-001", &acme.id.to_string().to_uppercase()] {
        let found = registry.lookup(&name(any)).await.unwrap().expect(any);
        assert_eq!((found.id, found.status), (acme.id, TenantStatus::Active));
        let place = found.placement("operations").unwrap();
        assert_eq!(place.schema.as_deref(), Some("operations_acme"));
        assert_eq!(*place.server, server("main"));
        assert!(place.ready);
        assert_eq!(found.login("app").unwrap().role, "acme_app");
    }
    for nobody in ["nobody", "ACME", "acme ", "' OR true --", "krn:acme"] {
        assert_eq!(registry.lookup(&name(nobody)).await.unwrap(), None, "{nobody}");
    }
}

#[tokio::test]
async fn an_id_that_a_damaged_registry_gives_to_another_tenant_leads_to_nobody() {
    let (database, admin) = furnished().await;
    let (acme, beta) = (add(&admin, "acme").await, add(&admin, "beta").await);
    // What the triggers refuse.
    let damage = format!(
        "SET session_replication_role = replica;
         UPDATE pgtenant.tenant_names SET tenant_id = '{}' WHERE name = '{}';
         RESET session_replication_role",
        beta.id, acme.id
    );
    database.admin.batch_execute(&damage).await.unwrap();
    let registry = open(&database).await;
    for _ in 0..2 {
        assert_eq!(registry.lookup(&name(&acme.id.to_string())).await.unwrap(), None);
        assert_eq!(registry.lookup(&name("beta")).await.unwrap().unwrap().id, beta.id);
    }
}

#[tokio::test]
async fn a_crowd_that_asks_for_one_name_asks_the_database_once() {
    let (database, admin) = furnished().await;
    add(&admin, "acme").await;
    let registry = open(&database).await;
    database.admin.batch_execute("BEGIN; LOCK TABLE pgtenant.tenant_names IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.lookup(&name("acme")).await })
        })
        .collect();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pgtenant.tenant_names'::regclass";
    while count(&database.admin, waiting).await == 0 {
        tokio::task::yield_now().await;
    }
    assert!(crowd.iter().all(|one| !one.is_finished()));
    assert_eq!(count(&database.admin, waiting).await, 1);
    database.admin.batch_execute("COMMIT").await.unwrap();
    let mut found = Vec::new();
    for one in crowd {
        found.push(one.await.unwrap().unwrap().unwrap());
    }
    assert!(found.iter().all(|one| Arc::ptr_eq(one, &found[0])));
    // From now on from memory: nobody asks, so nobody waits.
    database.admin.batch_execute("BEGIN; LOCK TABLE pgtenant.tenant_names IN ACCESS EXCLUSIVE MODE").await.unwrap();
    assert!(registry.cached(&name("acme")).flatten().is_some());
}

#[tokio::test]
async fn one_answer_stays_a_matter_of_indexes_at_a_hundred_thousand_tenants() {
    let (database, admin) = furnished().await;
    // Without triggers, or it would take minutes; the rows are as the triggers would leave them.
    let many = "SET session_replication_role = replica;
        INSERT INTO pgtenant.tenants (slug, name, status, generation)
            SELECT 't' || n, 'n', 'active', n FROM generate_series(1, 100000) AS n;
        INSERT INTO pgtenant.tenant_names (name, tenant_id, kind) SELECT slug, id, 'slug' FROM pgtenant.tenants
            UNION ALL SELECT id::text, id, 'id' FROM pgtenant.tenants;
        INSERT INTO pgtenant.placements (tenant_id, module, isolation, server, database, schema, status)
            SELECT id, 'operations', 'schema', 'main', 'operations_db', slug, 'ready' FROM pgtenant.tenants;
        INSERT INTO pgtenant.logins (tenant_id, login, role) SELECT id, 'app', slug FROM pgtenant.tenants;
        RESET session_replication_role;";
    database.admin.batch_execute(many).await.unwrap();
    let tables = "FROM pg_stat_user_tables WHERE schemaname = 'pgtenant'
        AND relname IN ('tenants', 'tenant_names', 'placements', 'logins')";
    let scans = format!("SELECT coalesce(sum(seq_scan), 0)::int8 {tables}");
    let by_index = format!("SELECT coalesce(min(idx_scan), 0)::int8 {tables}");
    database.admin.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    drop(admin);
    let before = count(&database.admin, &scans).await;
    database.admin.batch_execute("SELECT pg_stat_reset()").await.unwrap();
    let admin = Admin::connect(&database.url).await.unwrap();
    // With and without statistics for the planner.
    for (slug, analyze) in [("t4711", false), ("t99999", true)] {
        if analyze {
            database.admin.batch_execute("ANALYZE").await.unwrap();
        }
        let found = admin.load(&name(slug)).await.unwrap().unwrap();
        assert_eq!(found.placements[0].schema.as_deref(), Some(slug));
    }
    // The connection tells its counters when it ends.
    drop(admin);
    while count(&database.admin, &by_index).await < 2 {
        tokio::task::yield_now().await;
    }
    assert!(before > 0, "the counter counts");
    assert_eq!(count(&database.admin, &scans).await, 0);
}

#[tokio::test]
async fn the_registry_is_reached_by_tls_as_libpq_would() {
    let (database, _admin) = furnished().await;
    let authority = support::cluster().await.ca_file().unwrap();
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE ssl AND application_name = 'tls-test'";
    for (parameters, works) in [
        (format!("sslmode=verify-ca&sslrootcert={}", authority.display()), true),
        (format!("sslmode=verify-full&sslrootcert={}", authority.display()), true),
        ("sslmode=require".to_owned(), true),
        ("sslmode=verify-ca".to_owned(), false),
    ] {
        let url = format!("{}?application_name=tls-test&{parameters}", database.url);
        let admin = Admin::connect(&url).await;
        assert_eq!(admin.is_ok(), works, "{parameters}: {:?}", admin.err());
        if works {
            assert_ne!(count(&database.admin, encrypted).await, 0);
        }
    }
}

#[tokio::test]
async fn what_a_client_could_plant_in_the_registry_database_is_never_run_by_a_lookup() {
    let (database, admin) = furnished().await;
    add(&admin, "acme").await;
    // CVE-2025-12819: an operator and functions of the attacker's, first in the search path of the role and the database.
    let trap = "CREATE SCHEMA evil;
        CREATE FUNCTION evil.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always);
        CREATE FUNCTION evil.json_build_object(VARIADIC \"any\") RETURNS json LANGUAGE internal AS 'json_build_object_noargs';
        ALTER DATABASE %d SET search_path = evil, pg_catalog";
    database.admin.batch_execute(&trap.replace("%d", &database.name)).await.unwrap();
    let url = format!("{}?options=-c%20search_path%3Devil,pg_catalog", database.url);
    let registry = Registry::open(&Config { url: Some(url), ..Config::default() }).await.unwrap();
    assert_eq!(registry.lookup(&name("nobody")).await.unwrap(), None);
    assert!(registry.lookup(&name("acme")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_proxy_needs_no_more_than_to_read_eight_tables() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let (role, cluster) = (support::role("proxy").await, support::cluster().await);
    let grants =
        "GRANT USAGE ON SCHEMA pgtenant TO %r; GRANT SELECT ON pgtenant.servers, pgtenant.modules, pgtenant.tenants,
        pgtenant.tenant_names, pgtenant.tenant_addresses, pgtenant.placements, pgtenant.logins, pgtenant.changes TO %r";
    database.admin.batch_execute(&grants.replace("%r", &role.name)).await.unwrap();
    let (host, port) = (cluster.host(), cluster.port());
    let url =
        format!("host={host} port={port} dbname={} user={} password='{}'", database.name, role.name, role.password);
    let registry = open_with(&Config { url: Some(url.clone()), ..Config::default() }).await;
    let mut changes = registry.changes();
    assert!(registry.lookup(&name("acme")).await.unwrap().is_some());
    suspend(&admin, acme.id).await;
    hear(&mut changes, Change::Tenant(acme.id)).await;
    assert_eq!(registry.current(acme.id).await.unwrap().unwrap().status, TenantStatus::Suspended);
    let tx = Admin::connect(&url).await.unwrap().begin().await.unwrap();
    let denied = tx.set_status(acme.id, TenantStatus::Active, Duration::ZERO).await.unwrap_err();
    assert_eq!(denied.sqlstate(), Some("42501"));
}

#[tokio::test]
async fn a_registry_exported_as_a_file_gives_the_same_tenants() {
    let (database, admin) = furnished().await;
    add(&admin, "acme").await;
    add(&admin, "beta").await;
    let contents = admin.contents().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tenants.toml");
    std::fs::write(&path, contents.to_toml().unwrap()).unwrap();
    let config = Config { file: Some(path.clone()), ..Config::default() };
    let file = Registry::open(&config).await.unwrap();
    let database = open(&database).await;
    for slug in ["acme", "beta"] {
        let mut from_file = (*file.lookup(&name(slug)).await.unwrap().unwrap()).clone();
        let from_database = database.lookup(&name(slug)).await.unwrap().unwrap();
        from_file.generation = from_database.generation;
        assert_eq!(from_file, *from_database);
    }

    let mut changes = file.changes();
    let without_beta = Contents { tenants: contents.tenants[..1].to_vec(), ..contents };
    std::fs::write(&path, without_beta.to_toml().unwrap()).unwrap();
    file.reload().await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(5), changes.recv()).await.unwrap().unwrap();
    assert!(matches!(told, pgtenant::registry::Change::Tenant(_)));
    assert_eq!(file.lookup(&name("beta")).await.unwrap(), None);
    // A broken file changes nothing.
    std::fs::write(&path, "[[tenant]]\ncolour = 1").unwrap();
    assert!(file.reload().await.is_err());
    assert!(file.lookup(&name("acme")).await.unwrap().is_some());
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}
