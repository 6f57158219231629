//! What modules say of their tenants' places, and what may differ for one tenant.

use serde_json::Value;

use super::site::{Site, login};
use crate::support::{self, connect, proxy_over};

#[tokio::test(flavor = "multi_thread")]
async fn a_database_made_from_a_template_is_the_tenants_with_all_that_is_in_it() {
    let site = Site::new("template").await;
    let template = site.slug("template");
    site.registry.admin.batch_execute(&format!("CREATE DATABASE {template}")).await.unwrap();
    let made = support::cluster().await.connect(&template).await.unwrap();
    let contents = "CREATE SCHEMA extra; CREATE TYPE extra.mood AS ENUM ('fine'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        CREATE TABLE items (id int GENERATED ALWAYS AS IDENTITY, old serial, n positive, mood extra.mood DEFAULT 'fine');
        INSERT INTO items (n) VALUES (7); CREATE VIEW seen AS SELECT n FROM items; CREATE SEQUENCE own;
        CREATE MATERIALIZED VIEW extra.kept AS SELECT n FROM items; CREATE EXTENSION pg_trgm;
        CREATE FUNCTION extra.twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1';
        CREATE PROCEDURE fill() LANGUAGE sql AS 'INSERT INTO items (n) VALUES (1)';
        CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')";
    made.batch_execute(contents).await.unwrap();
    drop(made);
    std::fs::write(site.files.path().join("1_more.sql"), "ALTER TABLE items ADD COLUMN more text").unwrap();
    let directory = site.files.path().to_str().unwrap();
    let flags = ["--isolation", "database", "--template", &template, "--migrations", directory];
    let erp = site.module("erp", &flags);
    let slug = site.slug("acme");
    let create = ["tenant", "create", &slug, "--name", "Acme", "--modules", &erp];
    let tenant = site.json(&create);
    let client = login(&tenant["modules"][0], tenant["password"].as_str().unwrap()).await.unwrap();
    let use_it = "INSERT INTO items (n) VALUES (8); SELECT nextval('own'); CALL fill(); SELECT * FROM extra.kept";
    client.batch_execute(use_it).await.unwrap();
    let rows = client.query_one("SELECT total(extra.twice(n)) FROM seen", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i32>(0), 32);
    assert!(client.batch_execute("CREATE TABLE mine (n int)").await.is_err(), "no rights to make anything");
    let others = "SELECT string_agg(x::text, ' ') FROM (
            SELECT oid::regclass::text AS x FROM pg_class WHERE relnamespace::regnamespace::text IN ('public', 'extra')
                AND relkind <> 'i' AND pg_get_userbyid(relowner) NOT LIKE '%.owner'
            UNION ALL SELECT oid::regtype::text FROM pg_type WHERE typnamespace::regnamespace::text IN ('public', 'extra')
                AND pg_get_userbyid(typowner) NOT LIKE '%.owner' AND typname NOT LIKE '%gtrgm') AS x";
    let database = support::cluster().await.connect(tenant["modules"][0]["database"].as_str().unwrap()).await.unwrap();
    assert_eq!(database.query_one(others, &[]).await.unwrap().get::<_, Option<String>>(0), None);
    assert_eq!(site.json(&create)["tenant_id"], tenant["tenant_id"]);
    site.ok(&["tenant", "reconcile", &slug]);
    assert!(
        site.fails(1, &["module", "add", "x", "--server", "main", "--isolation", "database", "--pooling", "shared"])
            .contains("cannot be shared")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_pool_size_holds_and_follows_the_next_command() {
    let site = Site::new("limits").await;
    let ops = site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops"), "--pool-size", "3"]);
    let slug = site.slug("acme");
    let create = ["tenant", "create", &slug, "--name", "Acme", "--modules", &ops, "--pool-size", "1"];
    let tenant = site.json(&create);
    let proxy = proxy_over(&site.registry.url, |config| {
        config.pool.checkout_timeout = std::time::Duration::from_millis(300);
    })
    .await;
    let mut config = tokio_postgres::Config::new();
    config.host(proxy.address.ip().to_string()).port(proxy.address.port()).user(format!("app@{slug}"));
    config.password(tenant["password"].as_str().unwrap()).dbname(&ops);
    // How many transactions run side by side.
    let at_once = async || {
        let mut held = Vec::new();
        loop {
            let client = connect(&config).await.unwrap();
            if client.batch_execute("BEGIN").await.is_err() {
                return held.len();
            }
            held.push(client);
        }
    };
    assert_eq!(at_once().await, 1);
    site.ok(&["tenant", "subscribe", &slug, &ops, "--pool-size", "2"]);
    support::until("two at once", async || at_once().await == 2).await;
    assert!(site.ok(&["tenant", "show", &slug]).contains("pool 2"));
    site.ok(&["tenant", "subscribe", &slug, &ops, "--pool-size", "default", "--pool-mode", "transaction"]);
    support::until("three at once, as the module says", async || at_once().await == 3).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_tenant_may_bring_its_own_id_and_patterns_use_it() {
    let site = Site::new("ids").await;
    let shop = site.module(
        "shop",
        &["--isolation", "database", "--database-pattern", "storefront_{id}", "--role-pattern", "r_{id}"],
    );
    let slug = site.slug("acme");
    let id = uuid::Uuid::new_v4().to_string();
    let create = ["tenant", "create", &slug, "--name", "Acme", "--modules", &shop, "--id", &id];
    let tenant = site.json(&create);
    assert_eq!(tenant["tenant_id"], Value::from(id.as_str()));
    assert_eq!(tenant["modules"][0]["database"], Value::from(format!("storefront_{id}")));
    login(&tenant["modules"][0], tenant["password"].as_str().unwrap()).await.unwrap();
    site.ok(&create);
    let other = uuid::Uuid::new_v4().to_string();
    let another = ["tenant", "create", &slug, "--name", "Acme", "--modules", &shop, "--id", &other];
    assert!(site.fails(1, &another).contains(&id), "the tenant of that slug has another id");
    let taken = ["tenant", "create", &site.slug("beta"), "--name", "Beta", "--modules", &shop, "--id", &id];
    assert!(site.fails(1, &taken).contains(&id), "the id is another tenant's");
    site.ok(&["tenant", "delete", &slug, "--drop-data"]);
}

#[tokio::test]
async fn a_module_that_changes_its_pooling_keeps_its_tenants_places_as_they_were_made() {
    let site = Site::new("pooling").await;
    let database = site.slug("ops");
    let module =
        |pooling| site.module("ops", &["--isolation", "schema", "--database", &database, "--pooling", pooling]);
    let ops = module("per-tenant");
    let (acme, beta) = (site.slug("acme"), site.slug("beta"));
    site.ok(&["tenant", "create", &acme, "--name", "A", "--modules", &ops]);
    module("shared");
    site.ok(&["tenant", "create", &beta, "--name", "B", "--modules", &ops]);
    let pooling = "SELECT string_agg(coalesce(pooling, '-'), ' ' ORDER BY schema) FROM pgtenant.placements";
    let row = site.registry.admin.query_one(pooling, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "per-tenant -");
}

#[tokio::test]
async fn schemas_after_the_tenants_own_in_the_path_can_be_looked_into() {
    let site = Site::new("extras").await;
    let database = site.slug("ops");
    site.registry.admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let common = support::cluster().await.connect(&database).await.unwrap();
    let made = "CREATE SCHEMA common; CREATE TABLE common.rates (n int); GRANT SELECT ON common.rates TO PUBLIC;
        CREATE TABLE common.private (n int)";
    common.batch_execute(made).await.unwrap();
    let ops = site.module("ops", &["--isolation", "schema", "--database", &database, "--search-path-extra", "common"]);
    let slug = site.slug("acme");
    let tenant = site.json(&["tenant", "create", &slug, "--name", "Acme", "--modules", &ops]);
    let client = login(&tenant["modules"][0], tenant["password"].as_str().unwrap()).await.unwrap();
    client.batch_execute("SELECT * FROM common.rates").await.unwrap();
    assert!(client.batch_execute("SELECT * FROM common.private").await.is_err());
    assert!(client.batch_execute("INSERT INTO common.rates VALUES (1)").await.is_err());
}

#[tokio::test]
async fn a_second_run_with_another_password_says_so_instead_of_ignoring_it() {
    let site = Site::new("again").await;
    let ops = site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops")]);
    let slug = site.slug("acme");
    let create = ["tenant", "create", &slug, "--name", "Acme", "--modules", &ops, "--password-stdin"];
    assert!(site.run_with_input(&create, "the first\n").status.success());
    assert!(site.run_with_input(&create, "the first\n").status.success());
    let other = site.run_with_input(&create, "the second\n");
    let said = String::from_utf8(other.stderr).unwrap();
    assert!(
        other.status.code() == Some(1) && said.contains("another password") && said.contains("login password"),
        "{said}"
    );
}
