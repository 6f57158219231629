//! What the control plane writes, and what plain SQL sees and does.

use std::time::{Duration, Instant};

use pgtenant::registry::{Admin, Put, RegistryError};
use pgtenant::tenant::{Alias, Isolation, Login, TenantStatus};
use tokio_postgres::Client;

use super::fixture::{add, furnished, module, name, operations, registry, server, suspend, tenant};
use crate::support;

fn refusal<T>(result: Result<T, RegistryError>) -> String {
    match result {
        Err(error @ RegistryError::Refused { .. }) => error.to_string(),
        Err(error) => panic!("another error: {error:?}"),
        Ok(_) => panic!("it was not refused"),
    }
}

async fn sql_refusal(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.unwrap_err();
    error.as_db_error().map(|db| db.message().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn init_runs_once_however_many_start_it_at_once() {
    let database = support::database("registry").await;
    let admin = Admin::connect(&database.url).await.unwrap();
    assert!(admin.status().await.unwrap().iter().all(|m| !m.applied));
    let (a, b, c) = tokio::join!(admin.init(), admin.init(), admin.init());
    let applied: Vec<_> = [a, b, c].into_iter().flat_map(|names| names.unwrap()).collect();
    let states = admin.status().await.unwrap();
    assert_eq!(applied.len(), states.len());
    assert!(states.iter().all(|m| m.applied));
    assert!(admin.init().await.unwrap().is_empty());
}

#[tokio::test]
async fn init_refuses_a_registry_whose_migrations_are_not_this_programs() {
    let (database, admin) = registry().await;
    database.admin.batch_execute("UPDATE pgtenant.schema_versions SET checksum = 'x' WHERE version = 2").await.unwrap();
    assert!(matches!(admin.init().await, Err(RegistryError::MigrationChanged { version: 2, .. })));
    let newer = "UPDATE pgtenant.schema_versions SET version = 9999 WHERE version = 2";
    database.admin.batch_execute(newer).await.unwrap();
    assert!(matches!(admin.status().await, Err(RegistryError::Newer { version: 9999 })));
}

#[tokio::test]
async fn a_registry_without_tables_says_so() {
    let database = support::database("registry").await;
    let admin = Admin::connect(&database.url).await.unwrap();
    assert!(matches!(admin.servers().await, Err(RegistryError::NotInitialised(_))));
}

#[tokio::test]
async fn rows_come_back_as_they_were_put() {
    let (_database, admin) = furnished().await;
    let tx = admin.begin().await.unwrap();
    assert_eq!(tx.put_server(&server("main")).await.unwrap(), Put::Unchanged);
    let mut moved = server("main");
    moved.port = 6000;
    assert_eq!(tx.put_server(&moved).await.unwrap(), Put::Changed);
    let mut finance = module("finance", Isolation::Schema);
    finance.aliases = vec!["finance_db".to_owned()];
    finance.search_path_extra = vec!["common".to_owned()];
    assert_eq!(tx.put_module(&finance).await.unwrap(), Put::Created);
    assert_eq!(tx.put_module(&finance).await.unwrap(), Put::Unchanged);
    let acme = tenant("acme");
    tx.insert_tenant(&acme).await.unwrap();
    let alias = Alias::parse("krn:acme:client:prod-001").unwrap();
    assert!(tx.add_alias(acme.id, &alias).await.unwrap());
    assert!(!tx.add_alias(acme.id, &alias).await.unwrap());
    let place = operations("tenant_acme", "acme_app");
    assert_eq!(tx.put_placement(acme.id, &place).await.unwrap(), Put::Created);
    assert_eq!(tx.put_placement(acme.id, &place).await.unwrap(), Put::Unchanged);
    tx.commit().await.unwrap();

    assert_eq!(admin.servers().await.unwrap(), [moved]);
    assert_eq!(admin.modules().await.unwrap().last(), Some(&finance));
    for any in ["acme", "krn:acme:client:prod-001", &acme.id.to_string(), &acme.id.to_string().to_uppercase()] {
        let found = admin.tenant(&name(any)).await.unwrap().expect(any);
        assert_eq!(found.tenant.id, acme.id);
        assert_eq!(found.placements, std::slice::from_ref(&place));
        assert_eq!(found.aliases, std::slice::from_ref(&alias));
    }
    assert_eq!(admin.tenant(&name("nobody")).await.unwrap(), None);
}

#[tokio::test]
async fn a_transaction_that_is_dropped_or_has_failed_leaves_nothing() {
    let (_database, admin) = furnished().await;
    let tx = admin.begin().await.unwrap();
    tx.insert_tenant(&tenant("gone")).await.unwrap();
    drop(tx);
    let tx = admin.begin().await.unwrap();
    tx.insert_tenant(&tenant("half")).await.unwrap();
    refusal(tx.insert_tenant(&tenant("half")).await);
    assert!(tx.commit().await.is_err(), "a commit after a failure must not look like one");
    assert!(admin.tenants(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn no_name_place_or_role_belongs_to_two_tenants() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let beta = add(&admin, "beta").await;
    let shaped = "INSERT INTO pgtenant.tenant_aliases (tenant_id, alias)
        SELECT id, '{0190b5a0-0000-7000-8000-000000000001}' FROM pgtenant.tenants LIMIT 1";
    assert!(sql_refusal(&database.admin, shaped).await.contains("check constraint"));

    let tx = admin.begin().await.unwrap();
    let taken = tx.add_alias(beta.id, &Alias::parse("acme").unwrap()).await;
    assert!(taken.as_ref().is_err_and(RegistryError::is_taken), "{taken:?}");
    for (place, expected) in [
        (operations("operations_acme", "beta_app"), "schema \"operations_acme\""),
        (operations("operations_beta2", "acme_app"), "role \"acme_app\" belongs to tenant \"acme\""),
    ] {
        let tx = admin.begin().await.unwrap();
        let message = refusal(tx.put_placement(beta.id, &place).await);
        assert!(message.contains(expected), "{message}");
    }
    let whole =
        pgtenant::registry::PlacementRow { isolation: Isolation::Database, schema: None, ..operations("", "beta_app") };
    let tx = admin.begin().await.unwrap();
    let message = refusal(tx.put_placement(beta.id, &whole).await);
    assert!(message.contains("database \"operations_db\""), "{message}");
    let tx = admin.begin().await.unwrap();
    let login = Login { login: "spy".to_owned(), role: "acme_app".to_owned(), verifier: None };
    refusal(tx.put_login(beta.id, &login).await);

    // Given up, it is free again.
    let tx = admin.begin().await.unwrap();
    assert!(tx.delete_tenant(acme.id).await.unwrap());
    tx.put_placement(beta.id, &operations("operations_acme", "acme_app")).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn two_tenants_that_want_one_place_at_once_do_not_both_get_it() {
    let (_database, admin) = furnished().await;
    let (acme, beta) = (add(&admin, "acme").await, add(&admin, "beta").await);
    let (one, two) = (admin.begin().await.unwrap(), admin.begin().await.unwrap());
    let place = |role| operations("disputed", role);
    one.put_placement(acme.id, &place("acme_app")).await.unwrap();
    let second_place = place("beta_app");
    let second = two.put_placement(beta.id, &second_place);
    let (second, first) = tokio::join!(second, one.commit());
    first.unwrap();
    assert!(refusal(second).contains("belongs to tenant \"acme\""));
}

#[tokio::test]
async fn every_change_of_a_tenants_rows_raises_its_generation_and_reborn_tenants_stay_above() {
    let (_database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let generation = async || admin.load(&name("acme")).await.unwrap().unwrap().generation;
    let mut last = generation().await;
    let tx = admin.begin().await.unwrap();
    tx.add_alias(acme.id, &Alias::parse("Acme Inc").unwrap()).await.unwrap();
    tx.commit().await.unwrap();
    for step in ["login", "placement", "alias", "reborn"] {
        let now = generation().await;
        assert!(now > last, "before {step}");
        last = now;
        let tx = admin.begin().await.unwrap();
        match step {
            "login" => drop(tx.remove_login(acme.id, "app").await.unwrap()),
            "placement" => drop(tx.remove_placement(acme.id, &"operations".parse().unwrap()).await.unwrap()),
            "alias" => drop(tx.remove_alias(acme.id, &Alias::parse("Acme Inc").unwrap()).await.unwrap()),
            _ => {
                tx.delete_tenant(acme.id).await.unwrap();
                tx.insert_tenant(&acme).await.unwrap();
            }
        }
        tx.commit().await.unwrap();
    }
    assert!(generation().await > last);
}

#[tokio::test]
async fn a_suspension_has_an_end_of_sessions_and_activation_clears_it() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let tx = admin.begin().await.unwrap();
    tx.set_status(acme.id, TenantStatus::Suspended, Duration::from_secs(600)).await.unwrap();
    tx.commit().await.unwrap();
    let found = admin.load(&name("acme")).await.unwrap().unwrap();
    let left = found.sessions_end.unwrap().by.saturating_duration_since(Instant::now());
    assert!(left > Duration::from_secs(500) && left <= Duration::from_secs(600));
    database.admin.batch_execute("UPDATE pgtenant.tenants SET status = 'active'").await.unwrap();
    assert_eq!(admin.load(&name("acme")).await.unwrap().unwrap().sessions_end, None);
    // By plain SQL, at once.
    database.admin.batch_execute("UPDATE pgtenant.tenants SET status = 'suspended'").await.unwrap();
    assert!(admin.load(&name("acme")).await.unwrap().unwrap().sessions_end.unwrap().by <= Instant::now());
}

#[tokio::test]
async fn plain_sql_sees_the_registry_as_a_view_with_a_column_a_module() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let role = support::role("reader").await;
    database.admin.batch_execute(&format!("GRANT SELECT ON tenant_registry TO {}", role.name)).await.unwrap();
    let weird = "we\"ird'; DROP TABLE x; --\\";
    let tx = admin.begin().await.unwrap();
    tx.put_module(&module(weird, Isolation::Schema)).await.unwrap();
    tx.commit().await.unwrap();
    let reader = role.connect(&database.name).await.unwrap();
    let sql =
        "SELECT tenant_id::text, tenant_slug, tenant_name, modules_subscribed, is_active, operations_schema, crm_schema
        FROM tenant_registry";
    let row = reader.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), acme.id.to_string());
    assert_eq!((row.get::<_, &str>(1), row.get::<_, &str>(2)), ("acme", "ACME"));
    assert_eq!(row.get::<_, Vec<String>>(3), ["operations"]);
    assert!(row.get::<_, bool>(4));
    assert_eq!((row.get(5), row.get(6)), (Some("operations_acme"), None::<&str>));
    let columns = reader.prepare("SELECT * FROM tenant_registry").await.unwrap();
    assert_eq!(columns.columns().last().unwrap().name(), format!("{weird}_schema"));

    // A module goes, its column goes, the grant stays.
    let tx = admin.begin().await.unwrap();
    assert!(tx.remove_module(&"crm".parse().unwrap()).await.unwrap());
    tx.commit().await.unwrap();
    let columns = reader.prepare("SELECT * FROM tenant_registry").await.unwrap();
    assert!(columns.columns().iter().all(|c| c.name() != "crm_schema"));
    suspend(&admin, acme.id).await;
    assert!(!reader.query_one("SELECT is_active FROM tenant_registry", &[]).await.unwrap().get::<_, bool>(0));
    let denied = reader.batch_execute("SELECT * FROM pgtenant.logins").await.unwrap_err();
    assert_eq!(denied.code().map(|code| code.code()), Some("42501"));
}

#[tokio::test]
async fn a_module_in_use_and_an_alias_in_use_are_refused() {
    let (_database, admin) = furnished().await;
    add(&admin, "acme").await;
    let tx = admin.begin().await.unwrap();
    let used = tx.remove_module(&"operations".parse().unwrap()).await;
    assert!(used.as_ref().is_err_and(RegistryError::is_reference), "{used:?}");
    let tx = admin.begin().await.unwrap();
    let mut finance = module("finance", Isolation::Schema);
    finance.aliases = vec!["operations".to_owned()];
    assert!(refusal(tx.put_module(&finance).await).contains("already means module \"operations\""));
}

#[tokio::test]
async fn subscribing_by_sql_makes_a_place_to_provision_and_logs_it() {
    let (database, admin) = furnished().await;
    let acme = tenant("acme");
    let tx = admin.begin().await.unwrap();
    tx.insert_tenant(&acme).await.unwrap();
    tx.commit().await.unwrap();
    let call = format!("CALL subscribe_tenant_to_module('{}'::uuid, 'operations', 'ops_acme')", acme.id);
    // A hostile search_path in the caller's session reaches nothing inside the procedure.
    let hostile = "CREATE SCHEMA evil; CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS 'SELECT 1/0';
        SET search_path = evil, public, pg_catalog";
    database.admin.batch_execute(hostile).await.unwrap();
    database.admin.batch_execute(&call).await.unwrap();
    database.admin.batch_execute(&call).await.unwrap();
    let unready = admin.unready_tenants().await.unwrap();
    assert_eq!(unready.len(), 1);
    let place = &unready[0].placements[0];
    assert_eq!(place.schema.as_deref(), Some("ops_acme"));
    assert_eq!(place.role.as_ref().map(|r| r.as_str()), Some("acme_app"));
    let crm = format!("CALL subscribe_tenant_to_module('{}', 'crm', NULL)", acme.id);
    database.admin.batch_execute(&crm).await.unwrap();
    let found = admin.tenant(&name("acme")).await.unwrap().unwrap();
    assert_eq!(found.placements[0].database.as_str(), "crm_acme");
    let pattern = admin.modules().await.unwrap().iter().find(|m| m.name.as_str() == "crm").unwrap().clone();
    assert_eq!(pattern.database_for(&acme.slug, acme.id).as_deref(), Some("crm_acme"));
    assert_eq!(pattern.role_for(&acme.slug, acme.id), "acme_app");

    let tx = admin.begin().await.unwrap();
    let ready = pgtenant::registry::PlacementStatus::Ready;
    assert!(tx.set_placement_status(acme.id, &"operations".parse().unwrap(), ready).await.unwrap());
    tx.commit().await.unwrap();
    let leave = format!("CALL unsubscribe_tenant_from_module('{}', 'operations')", acme.id);
    database.admin.batch_execute(&leave).await.unwrap();
    let rows = database
        .admin
        .query(
            "SELECT status, schema_name, provisioned_at IS NOT NULL FROM public.tenant_module_log
             WHERE module_name = 'operations' ORDER BY log_id",
            &[],
        )
        .await
        .unwrap();
    let log: Vec<(&str, &str, bool)> = rows.iter().map(|r| (r.get(0), r.get(1), r.get(2))).collect();
    let expected =
        [("provisioning", "ops_acme", false), ("provisioned", "ops_acme", true), ("unsubscribed", "ops_acme", false)];
    assert_eq!(log, expected);
    assert_eq!(admin.log(acme.id, 10).await.unwrap()[0].status, "unsubscribed");
}

#[tokio::test]
async fn a_subscription_that_cannot_be_says_why() {
    let (database, admin) = furnished().await;
    let (acme, beta) = (add(&admin, "acme").await, add(&admin, "beta").await);
    let nobody = tenant("nobody");
    let call =
        |id, module: &str, place: &str| format!("CALL subscribe_tenant_to_module('{id}', '{module}', '{place}')");
    for (sql, expected) in [
        (call(nobody.id, "crm", "x"), format!("tenant {} not found", nobody.id)),
        (call(acme.id, "nope", "x"), "module \"nope\" not found".to_owned()),
        (call(acme.id, "operations", "other"), "subscribed to module \"operations\" already".to_owned()),
        (call(acme.id, "crm", "operations_db"), "common to several tenants".to_owned()),
        (call(acme.id, "shop", "pg_toast"), "check constraint".to_owned()),
    ] {
        let message = sql_refusal(&database.admin, &sql).await;
        assert!(message.contains(&expected), "{sql}: {message}");
    }
    database.admin.batch_execute(&call(acme.id, "crm", "crm_one")).await.unwrap();
    let message = sql_refusal(&database.admin, &call(beta.id, "crm", "crm_one")).await;
    assert!(message.contains("database \"crm_one\" on server \"main\" belongs to tenant \"acme\""), "{message}");
    suspend(&admin, beta.id).await;
    let message = sql_refusal(&database.admin, &call(beta.id, "crm", "crm_two")).await;
    assert!(message.contains("tenant \"beta\" is inactive"), "{message}");
    let leave = format!("CALL unsubscribe_tenant_from_module('{}', 'crm')", beta.id);
    assert!(sql_refusal(&database.admin, &leave).await.contains("not subscribed to module \"crm\""));
}

#[tokio::test]
async fn a_lock_is_held_by_one_at_a_time_and_ends_with_its_guard() {
    let (database, admin) = registry().await;
    let held = admin.lock("acme").await.unwrap();
    let other = admin.lock("beta").await.unwrap();
    let waiting = {
        let admin = admin.clone();
        tokio::spawn(async move { admin.lock("acme").await.map(drop) })
    };
    let blocked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    while database.admin.query_one(blocked, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    drop((held, other));
    waiting.await.unwrap().unwrap();
}
