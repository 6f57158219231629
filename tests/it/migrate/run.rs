//! What a run does and says: order, results, selections, stages, status.

use serde_json::{Value, json};

use super::fleet::{Fleet, result, results};
use crate::commands::site::{keys, login};

#[tokio::test]
async fn files_are_applied_in_the_order_of_their_numbers_and_once() {
    let fleet = Fleet::new("order", &["a", "b"]).await;
    fleet.file("V0002__rows.sql", "INSERT INTO items VALUES (1)");
    fleet.file("0001_items.sql", "CREATE TABLE items (n int)");
    fleet.file(
        "0010_double.sql",
        "UPDATE items SET n = n * 2; CREATE VIEW {schema}.doubled AS SELECT n FROM {schema}.items",
    );
    let (code, places) = fleet.migrate(&[]);
    assert_eq!(code, Some(0));
    for (place, tenant) in places.iter().zip(["a", "b"]) {
        assert_eq!(keys(place), ["applied", "duration_ms", "error", "module", "status", "tenant", "version"]);
        assert_eq!((&place["tenant"], &place["module"]), (&json!(fleet.site.slug(tenant)), &json!(fleet.module)));
        assert!(place["duration_ms"].as_u64().unwrap() > 0 && place["error"].is_null());
    }
    assert_eq!(results(&places), [result("applied", 3, 10), result("applied", 3, 10)]);
    fleet.file("0011_more.sql", "ALTER TABLE items ADD COLUMN note text");
    assert_eq!(fleet.migrated(&["run"]), [result("applied", 1, 11), result("applied", 1, 11)]);
    assert_eq!(fleet.migrated(&[]), [result("current", 0, 11), result("current", 0, 11)]);
    for tenant in 0..2 {
        assert_eq!(fleet.number(tenant, "SELECT sum(n) FROM {}.doubled").await, 2);
        // Whoever works with the data may do so with what is new, and owns none of it.
        let (module, password) = (&fleet.tenants[tenant]["modules"][0], fleet.tenants[tenant]["password"].as_str());
        let client = login(module, password.unwrap()).await.unwrap();
        let schema = fleet.schema(tenant);
        client.batch_execute(&format!("INSERT INTO {schema}.items VALUES (1); TABLE {schema}.doubled")).await.unwrap();
        assert!(client.batch_execute(&format!("ALTER TABLE {schema}.items ADD COLUMN x int")).await.is_err());
    }
}

#[tokio::test]
async fn a_failed_tenant_stops_no_other_and_goes_on_where_it_failed() {
    let fleet = Fleet::new("failure", &["a", "b", "c"]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int); INSERT INTO items VALUES (1)");
    fleet.file("2_orders.sql", "CREATE TABLE before (n int);\nCREATE TABLE orders (n int)");
    fleet.as_owner(1, "CREATE TABLE orders (n int)").await;
    let (code, places) = fleet.migrate(&["--jobs", "1"]);
    assert_eq!(code, Some(1));
    assert_eq!(results(&places), [result("applied", 2, 2), result("failed", 1, 1), result("applied", 2, 2)]);
    let error = places[1]["error"].as_str().unwrap();
    assert!(error.contains("2_orders.sql") && error.contains("\"orders\" already exists"), "{error}");
    assert_eq!(
        fleet
            .number(1, "SELECT count(*) FROM pg_class WHERE relname = 'before' AND relnamespace = '{}'::regnamespace")
            .await,
        0
    );
    let log = "SELECT count(*) FROM tenant_module_log WHERE step = 'migrations' AND status = 'failed' AND detail LIKE '%already exists%'";
    assert_eq!(fleet.site.count(log).await, 1);
    fleet.as_owner(1, "DROP TABLE orders").await;
    assert_eq!(fleet.migrated(&[]), [result("current", 0, 2), result("applied", 1, 2), result("current", 0, 2)]);
    assert_eq!(fleet.number(1, "SELECT count(*) FROM {}.items").await, 1);
}

#[tokio::test]
async fn a_run_goes_to_the_tenants_and_modules_that_are_named() {
    let fleet = Fleet::new("named", &["a", "b"]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    let id = fleet.tenants[0]["tenant_id"].as_str().unwrap();
    let slug = fleet.site.slug("a");
    assert_eq!(fleet.migrated(&["--tenant", id, "--tenant", &slug]), [result("applied", 1, 1)]);
    assert_eq!(fleet.migrated(&["--module", &fleet.module]), [result("current", 0, 1), result("applied", 1, 1)]);
    let bare = fleet.site.module("bare", &["--isolation", "schema", "--database", &fleet.site.slug("ops")]);
    for (arguments, said) in [
        (&["migrate", "--tenant", "nobody"][..], "nobody"),
        (&["migrate", "--module", "nothing"], "nothing"),
        (&["migrate", "--module", &bare], "no migrations"),
        (&["migrate", "--canary", "nobody"], "nobody"),
    ] {
        assert!(fleet.site.fails(1, arguments).contains(said), "{arguments:?}");
    }
    // Archived tenants are passed over, unless they are named.
    fleet.file("2_more.sql", "CREATE TABLE more (n int)");
    fleet.site.ok(&["tenant", "delete", &slug]);
    assert_eq!(fleet.migrated(&[]), [result("applied", 1, 2)]);
    assert_eq!(fleet.migrated(&["--tenant", &slug]), [result("applied", 1, 2)]);
}

#[tokio::test]
async fn a_place_that_is_being_made_gets_its_migrations_with_that() {
    let fleet = Fleet::new("unready", &["a"]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    let slug = fleet.site.slug("b");
    let id = fleet.site.json(&["tenant", "create", &slug, "--name", "B"])["tenant_id"].as_str().unwrap().to_owned();
    let call = format!("CALL subscribe_tenant_to_module('{id}', '{}')", fleet.module);
    fleet.site.registry.admin.batch_execute(&call).await.unwrap();
    assert_eq!(fleet.migrated(&[]), [result("applied", 1, 1)]);
    let (code, places) = fleet.migrate(&["--tenant", &slug]);
    assert_eq!((code, results(&places)), (Some(1), vec![result("failed", 0, None)]));
    assert!(places[0]["error"].as_str().unwrap().contains("tenant reconcile"), "{places:?}");
    fleet.site.ok(&["tenant", "reconcile"]);
    assert_eq!(fleet.site.count("SELECT count(*) FROM tenant_versions WHERE version = 1").await, 2);
    assert_eq!(fleet.migrated(&[]), [result("current", 0, 1), result("current", 0, 1)]);
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let mut fleet = Fleet::new("dry", &[]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    fleet.add("a");
    fleet.file("2_more.sql", "CREATE TABLE more (n int)");
    fleet.file("3_most.sql", "CREATE TABLE most (n int)");
    let state = "SELECT (SELECT count(*) FROM pg_class) + (SELECT count(*) FROM pgtenant.schema_versions)";
    let before = fleet.number(0, state).await;
    assert_eq!(fleet.migrated(&["--dry-run"]), [result("applied", 2, 3)]);
    let said = fleet.site.ok(&["migrate", "--dry-run"]);
    assert!(said.contains("2_more.sql, 3_most.sql"), "{said}");
    assert_eq!(fleet.number(0, state).await, before);
    assert_eq!(fleet.site.count("SELECT sum(version)::bigint FROM tenant_versions").await, 1);
    fleet.file("1_items.sql", "CREATE TABLE items (n bigint)");
    assert_eq!(fleet.migrate(&["--dry-run"]).0, Some(1));
}

/// Three tenants of which the second fails.
async fn one_of_three_fails(prefix: &str) -> Fleet {
    let fleet = Fleet::new(prefix, &["a", "b", "c"]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    fleet.as_owner(1, "CREATE TABLE items (n int)").await;
    fleet
}

#[tokio::test]
async fn a_canary_that_fails_is_the_only_one_tried() {
    let fleet = one_of_three_fails("canary").await;
    let (code, places) = fleet.migrate(&["--canary", &fleet.site.slug("b")]);
    assert_eq!((code, results(&places)), (Some(1), vec![result("failed", 0, None)]));
    let (code, places) = fleet.migrate(&["--canary", &fleet.site.slug("c")]);
    assert_eq!(code, Some(1));
    assert_eq!(results(&places), [result("applied", 1, 1), result("failed", 0, None), result("applied", 1, 1)]);
}

#[tokio::test]
async fn a_wave_with_failures_is_the_last_unless_so_many_may_fail() {
    let fleet = one_of_three_fails("wave").await;
    let (code, places) = fleet.migrate(&["--wave", "2"]);
    assert_eq!((code, results(&places)), (Some(1), vec![result("applied", 1, 1), result("failed", 0, None)]));
    let (code, places) = fleet.migrate(&["--wave", "1", "--max-failures", "1"]);
    assert_eq!(code, Some(1));
    assert_eq!(results(&places), [result("current", 0, 1), result("failed", 0, None), result("applied", 1, 1)]);
}

#[tokio::test]
async fn nothing_more_is_begun_when_more_have_failed_than_may() {
    let fleet = one_of_three_fails("budget").await;
    let (code, places) = fleet.migrate(&["--jobs", "1", "--max-failures", "0"]);
    assert_eq!((code, results(&places)), (Some(1), vec![result("applied", 1, 1), result("failed", 0, None)]));
    let said = String::from_utf8(fleet.site.run(&["migrate", "--jobs", "1", "--max-failures", "0"]).stderr).unwrap();
    assert!(said.contains("1 were not tried"), "{said}");
}

#[tokio::test]
async fn status_says_who_is_behind_and_who_has_drifted() {
    let mut fleet = Fleet::new("status", &[]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    fleet.add("a");
    fleet.file("2_more.sql", "CREATE TABLE more (n int)");
    fleet.add("b");
    fleet
        .database(0)
        .await
        .execute("UPDATE pgtenant.schema_versions SET checksum = 'x' WHERE version = 2", &[])
        .await
        .unwrap();
    let standing = |places: &Value| -> Vec<String> {
        places.as_array().unwrap().iter().map(|place| place["status"].as_str().unwrap().to_owned()).collect()
    };
    let places = fleet.site.json(&["migrate", "status"]);
    assert_eq!(keys(&places[0]), ["error", "latest", "module", "pending", "status", "tenant", "version"]);
    assert_eq!(standing(&places), ["behind", "drifted"]);
    assert_eq!(
        (&places[0]["version"], &places[0]["latest"], &places[0]["pending"]),
        (&json!(1), &json!(2), &json!(["2_more.sql"]))
    );
    assert!(places[1]["error"].as_str().unwrap().contains("changed"), "{places}");
    assert_eq!(fleet.site.run(&["migrate", "status", "--check"]).status.code(), Some(1));
    // The registry knows it as well, without asking the places.
    let known = "SELECT count(*) FROM tenant_versions WHERE version = 2 AND error IS NULL AND migrated_at IS NOT NULL";
    assert_eq!(fleet.site.count(known).await, 1);
    fleet.migrated(&["--tenant", &fleet.site.slug("a")]);
    assert_eq!(fleet.site.count(known).await, 2);
    assert!(fleet.site.ok(&["migrate", "status", "--check", "--tenant", &fleet.site.slug("a")]).contains("current"));
}
