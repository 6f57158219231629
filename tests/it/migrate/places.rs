//! Places of every kind: databases, common rows, places that were there before, servers that are not there.

use super::fleet::{Fleet, result, results};
use crate::commands::site::login;
use crate::support::{self, unique};

#[tokio::test]
async fn tenants_with_databases_of_their_own_are_migrated_each_in_its_own() {
    let fleet = Fleet::with("own", &["--isolation", "database"], &["a", "b", "c"]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (n int); CREATE SCHEMA more; CREATE TABLE more.things (n int)");
    assert_eq!(fleet.migrated(&["--jobs", "2"]), vec![result("applied", 1, 1); 3]);
    for tenant in &fleet.tenants {
        let client = login(&tenant["modules"][0], tenant["password"].as_str().unwrap()).await.unwrap();
        client.batch_execute("INSERT INTO items VALUES (1); INSERT INTO more.things VALUES (1)").await.unwrap();
    }
}

#[tokio::test]
async fn common_tables_are_migrated_once_for_all_their_tenants() {
    let fleet = Fleet::with("common", &["--isolation", "shared"], &["a", "b", "c"]).await;
    fleet.file("1_items.sql", "CREATE TABLE items (tenant_id uuid NOT NULL, n int)");
    assert_eq!(fleet.migrated(&[]), vec![result("applied", 1, 1); 3], "each tenant is told of it");
    assert_eq!(fleet.number(0, "SELECT count(*) FROM pgtenant.schema_versions").await, 1);
    let said = fleet.site.ok(&["migrate"]);
    assert_eq!(said.matches(&fleet.module).count(), 1, "one line for the one place: {said}");
    for (n, tenant) in fleet.tenants.iter().enumerate() {
        let client = login(&tenant["modules"][0], tenant["password"].as_str().unwrap()).await.unwrap();
        client.batch_execute(&format!("INSERT INTO {}.items (n) VALUES ({n})", fleet.schema(0))).await.unwrap();
    }
    // A file that rewrites everyone's rows, alone or not; the wall stands after it.
    fleet.file("2_double.sql", "UPDATE items SET n = n * 2");
    fleet.file(
        "3_again.sql",
        "-- pgtenant: no-transaction\nUPDATE items SET n = n * 2;\nCREATE INDEX CONCURRENTLY items_n ON items (n)",
    );
    assert_eq!(fleet.migrated(&["--tenant", &fleet.site.slug("b")]), [result("applied", 2, 3)]);
    assert_eq!(fleet.number(0, "SELECT sum(n) FROM {}.items").await, 12);
    let tenant = &fleet.tenants[2];
    let client = login(&tenant["modules"][0], tenant["password"].as_str().unwrap()).await.unwrap();
    let own = client.query_one(&format!("SELECT sum(n) FROM {}.items", fleet.schema(0)), &[]).await.unwrap();
    assert_eq!(own.get::<_, i64>(0), 8, "its own rows and no others'");
}

#[tokio::test]
async fn an_adopted_place_is_migrated_as_its_owner() {
    let mut fleet = Fleet::new("adopted", &[]).await;
    let (database, app, owner) = (unique("external"), unique("external_app"), unique("external_owner"));
    let postgres = support::cluster().await.connect("postgres").await.unwrap();
    postgres.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let external = support::cluster().await.connect(&database).await.unwrap();
    external
        .batch_execute(&format!(
            "CREATE ROLE {owner}; CREATE ROLE {app} LOGIN PASSWORD 'x'; CREATE SCHEMA shop; GRANT USAGE ON SCHEMA shop TO {app}; \
             CREATE TABLE shop.items (n int); GRANT SELECT ON shop.items TO {app}"
        ))
        .await
        .unwrap();
    let slug = fleet.site.slug("a");
    fleet.site.ok(&["tenant", "create", &slug, "--name", "A"]);
    let place = ["--database", &database, "--schema", "shop", "--role", &app, "--existing"];
    fleet.tenants.push(fleet.site.json(&[&["tenant", "subscribe", &slug, &fleet.module], &place[..]].concat()));
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    fleet.file("2_orders.sql", "CREATE TABLE orders (n int)");
    let (code, places) = fleet.migrate(&[]);
    assert_eq!((code, results(&places)), (Some(1), vec![result("failed", 0, None)]));
    assert!(places[0]["error"].as_str().unwrap().contains("OWNER TO"), "never with an admin's rights: {places:?}");
    external
        .batch_execute(&format!("ALTER SCHEMA shop OWNER TO {owner}; ALTER TABLE shop.items OWNER TO {owner}"))
        .await
        .unwrap();
    let (_, places) = fleet.migrate(&[]);
    assert!(places[0]["error"].as_str().unwrap().contains("already exists"), "{places:?}");
    let (code, places) = fleet.migrate(&["baseline", "1", "--module", &fleet.module, "--tenant", &slug]);
    assert_eq!((code, results(&places)), (Some(0), vec![result("applied", 1, 1)]));
    assert_eq!(fleet.migrated(&[]), [result("applied", 1, 2)]);
    let made = format!("SELECT count(*) FROM pg_tables WHERE tablename = 'orders' AND tableowner = '{owner}'");
    assert_eq!(fleet.number(0, &made).await, 1);
    let client = login(&fleet.tenants[0]["modules"][0], "x").await.unwrap();
    client.batch_execute("INSERT INTO shop.orders VALUES (1)").await.unwrap();
}

#[tokio::test]
async fn a_place_that_is_not_there_fails_and_makes_nothing_elsewhere() {
    let fleet = Fleet::new("gone", &["a", "b"]).await;
    fleet.database(0).await.batch_execute(&format!("DROP SCHEMA {} CASCADE", fleet.schema(0))).await.unwrap();
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    let (code, places) = fleet.migrate(&[]);
    assert_eq!((code, results(&places)), (Some(1), vec![result("failed", 0, None), result("applied", 1, 1)]));
    assert!(places[0]["error"].as_str().unwrap().contains("does not exist"), "{places:?}");
    assert_eq!(fleet.number(1, "SELECT count(*) FROM pg_class WHERE relname = 'items'").await, 1);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_fails_its_own_tenants_only() {
    let mut fleet = Fleet::new("away", &["a"]).await;
    let cluster = support::cluster().await;
    let (port, admin) = (cluster.port().to_string(), fleet.site.secret("admin"));
    let server = |port: &str| {
        fleet.site.ok(&["server", "add", "away", "--host", cluster.host(), "--port", port, "--admin-secret", &admin]);
    };
    server(&port);
    let slug = fleet.site.slug("b");
    let other = fleet.site.slug("other");
    fleet.site.ok(&["tenant", "create", &slug, "--name", "B"]);
    fleet.site.ok(&["tenant", "subscribe", &slug, &fleet.module, "--server", "away", "--database", &other]);
    server("1");
    fleet.file("1_items.sql", "CREATE TABLE items (n int)");
    let (code, places) = fleet.migrate(&[]);
    assert_eq!((code, results(&places)), (Some(1), vec![result("applied", 1, 1), result("failed", 0, None)]));
    assert!(places[1]["error"].as_str().unwrap().contains("connect to server away"), "{places:?}");
    server(&port);
    assert_eq!(fleet.migrated(&[]), [result("current", 0, 1), result("applied", 1, 1)]);
    fleet.tenants.clear();
}
