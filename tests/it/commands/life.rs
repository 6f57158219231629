//! A tenant's life after it was made: names, logins, modules, its end.

use std::process::Stdio;

use serde_json::Value;

use super::site::{Site, login};
use crate::support;

/// Whether the wall stands on the common tables.
const WALLED: &str =
    "SELECT bool_and(relforcerowsecurity) FROM pg_class WHERE relname IN ('items', 'parts') AND relkind = 'r'";

/// A tenant with a schema and rows of common tables, and the password of its login.
async fn tenant(site: &Site, slug: &str) -> (String, Value) {
    let (ops, shop) = (format!("{}_ops", site.name), format!("{}_shop", site.name));
    let directory = site.files.path().join("shop");
    if !directory.exists() {
        std::fs::create_dir(&directory).unwrap();
        let tables = "CREATE TABLE items (tenant_id uuid NOT NULL, id int, PRIMARY KEY (tenant_id, id)); \
                      CREATE TABLE parts (tenant_id uuid NOT NULL, item int, FOREIGN KEY (tenant_id, item) REFERENCES items); \
                      CREATE TABLE audit (tenant_id uuid NOT NULL, item int); \
                      CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
                        $$ BEGIN INSERT INTO audit (item) VALUES (OLD.id); RETURN NULL; END $$; \
                      CREATE TRIGGER noted AFTER DELETE ON items FOR EACH ROW EXECUTE FUNCTION note()";
        std::fs::write(directory.join("1_tables.sql"), tables).unwrap();
        site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops")]);
        let migrations = directory.to_str().unwrap();
        site.module("shop", &["--isolation", "shared", "--database", &site.slug("shop"), "--migrations", migrations]);
    }
    let slug = site.slug(slug);
    let made = site.json(&["tenant", "create", &slug, "--name", &slug, "--modules", &format!("{ops},{shop}")]);
    (slug, made)
}

/// A module of a tenant in JSON, as a login with this role would open it.
fn opened_by(module: &Value, role: &str) -> Value {
    let mut module = module.clone();
    module["role"] = Value::from(role);
    module
}

#[tokio::test]
async fn aliases_come_and_go_and_are_never_anothers() {
    let site = Site::new("alias").await;
    let (acme, _) = tenant(&site, "acme").await;
    let (globex, _) = tenant(&site, "globex").await;
    assert_eq!(site.json(&["tenant", "alias", "add", &acme, "krn:x"])["aliases"], serde_json::json!(["krn:x"]));
    site.ok(&["tenant", "alias", "add", &acme, "krn:x"]);
    let said = site.fails(1, &["tenant", "alias", "add", &globex, "krn:x"]);
    assert!(said.contains("\"krn:x\" names another tenant already") && !said.contains("duplicate key"), "{said}");
    site.fails(1, &["tenant", "alias", "add", &globex, &acme]);
    assert_eq!(site.json(&["tenant", "alias", "remove", "krn:x", "krn:x"])["aliases"], serde_json::json!([]));
    assert!(site.fails(1, &["tenant", "alias", "remove", &acme, "krn:x"]).contains("no alias"));
}

#[tokio::test]
async fn networks_from_which_clients_may_come_are_listed_and_taken_off_the_list() {
    let site = Site::new("allow").await;
    let (acme, _) = tenant(&site, "acme").await;
    assert_eq!(site.json(&["tenant", "show", &acme])["allow"], serde_json::json!([]));
    site.ok(&["tenant", "allow", "add", &acme, "2001:db8::/32"]);
    let listed = site.json(&["tenant", "allow", "add", &acme, "192.0.2.1"]);
    assert_eq!(listed["allow"], serde_json::json!(["192.0.2.1/32", "2001:db8::/32"]));
    assert_eq!(site.json(&["tenant", "allow", "add", &acme, "192.0.2.1/32"])["allow"], listed["allow"]);
    assert!(site.fails(2, &["tenant", "allow", "add", &acme, "10.0.0.1/8"]).contains("the network is 10.0.0.0/8"));
    assert!(site.fails(1, &["tenant", "allow", "remove", &acme, "10.0.0.0/8"]).contains("not among the networks"));
    let left = site.json(&["tenant", "allow", "remove", &acme, "192.0.2.1"]);
    assert_eq!(left["allow"], serde_json::json!(["2001:db8::/32"]));
}

#[tokio::test]
async fn a_further_login_has_the_tenants_rights_and_a_password_of_its_own() {
    let site = Site::new("login").await;
    let (slug, made) = tenant(&site, "acme").await;
    let added = site.json(&["tenant", "login", "add", &slug, "reports"]);
    let (role, password) = (added["role"].as_str().unwrap(), added["password"].as_str().unwrap());
    assert_eq!(role, format!("{slug}_app.reports"));
    assert_eq!(site.json(&["tenant", "login", "add", &slug, "reports"])["password"], Value::Null);
    let shop = &made["modules"][1];
    let own = login(shop, made["password"].as_str().unwrap()).await.unwrap();
    let schema = shop["schema"].as_str().unwrap();
    own.batch_execute(&format!("INSERT INTO {schema}.items (id) VALUES (1)")).await.unwrap();
    let reports = opened_by(shop, role);
    let client = login(&reports, password).await.unwrap();
    let seen = format!("SELECT count(*) FROM {schema}.items");
    assert_eq!(client.query_one(&seen, &[]).await.unwrap().get::<_, i64>(0), 1, "the same tenant's rows");
    // Another password: the old one opens nothing any more.
    let changed = site.json(&["tenant", "login", "password", &slug, "reports"]);
    assert!(login(&reports, password).await.is_err());
    assert!(login(&reports, changed["password"].as_str().unwrap()).await.is_ok());
    let verifier = "SELECT count(*) FROM pgtenant.logins AS l JOIN pg_authid AS r ON r.rolname = l.role AND r.rolpassword = l.verifier";
    assert_eq!(site.count(verifier).await, 2, "registry and server have the same verifiers");
    site.ok(&["tenant", "login", "remove", &slug, "reports"]);
    assert!(login(&reports, changed["password"].as_str().unwrap()).await.is_err());
    assert!(client.query_one(&seen, &[]).await.is_err(), "its session has ended");
    assert!(site.fails(1, &["tenant", "login", "remove", &slug, "reports"]).contains("no login"));
    assert_eq!(own.query_one(&seen, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_module_is_subscribed_to_by_command_or_by_sql_and_given_up() {
    let site = Site::new("subscribe").await;
    let (slug, made) = tenant(&site, "acme").await;
    let erp = site.module("erp", &["--isolation", "database"]);
    let crm = site.module("crm", &["--isolation", "schema", "--database", &site.slug("crm")]);
    let password = made["password"].as_str().unwrap();
    let subscribed = site.json(&["tenant", "subscribe", &slug, &erp]);
    assert_eq!(subscribed["password"], Value::Null);
    assert_eq!(subscribed["modules"].as_array().unwrap().len(), 3);
    site.ok(&["tenant", "subscribe", &slug, &erp]);
    assert!(site.fails(1, &["tenant", "subscribe", &slug, &erp, "--database", "elsewhere"]).contains("elsewhere"));
    let call = format!(
        "CALL subscribe_tenant_to_module('{}'::uuid, '{crm}', '{crm}_own')",
        made["tenant_id"].as_str().unwrap()
    );
    site.registry.admin.batch_execute(&call).await.unwrap();
    let shown = site.json(&["tenant", "reconcile", &slug]);
    for module in shown[0]["modules"].as_array().unwrap() {
        assert_eq!(module["status"], "ready");
        login(module, password).await.unwrap();
    }
    let crm_place = shown[0]["modules"].as_array().unwrap().iter().find(|m| m["module"] == crm).unwrap();
    assert_eq!(crm_place["schema"], format!("{crm}_own"));
    // Given up, the data stays; given up with it, the data goes.
    site.ok(&["tenant", "unsubscribe", &slug, &crm]);
    let there = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{crm}_own'");
    let place = support::cluster().await.connect(&site.slug("crm")).await.unwrap();
    assert_eq!(place.query_one(&there, &[]).await.unwrap().get::<_, i64>(0), 1);
    site.ok(&["tenant", "subscribe", &slug, &crm, "--schema", &format!("{crm}_own")]);
    site.ok(&["tenant", "unsubscribe", &slug, &crm, "--drop-data"]);
    assert_eq!(place.query_one(&there, &[]).await.unwrap().get::<_, i64>(0), 0);
    site.ok(&["tenant", "unsubscribe", &slug, &erp, "--drop-data"]);
    let gone = format!("SELECT count(*) FROM pg_database WHERE datname = '{erp}_{slug}'");
    assert_eq!(site.count(&gone).await, 0);
    assert!(site.fails(1, &["tenant", "unsubscribe", &slug, &erp]).contains("not subscribed"));
    login(&made["modules"][0], password).await.unwrap();
}

#[tokio::test]
async fn a_place_that_is_there_is_adopted_as_it_is() {
    let site = Site::new("adopt").await;
    let crm = site.module("crm", &["--isolation", "schema", "--database", &site.slug("crm")]);
    let (role, database) = (site.slug("legacy"), site.slug("old"));
    let admin = &site.registry.admin;
    admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let old = support::cluster().await.connect(&database).await.unwrap();
    let slug = site.slug("acme");
    site.ok(&["tenant", "create", &slug, "--name", "Acme"]);
    let adopt = |schema: &'static str| {
        ["tenant", "subscribe", &slug, &crm, "--database", &database, "--schema", schema, "--role", &role, "--existing"]
    };
    assert!(site.fails(1, &adopt("nowhere")).contains("no schema"));
    assert!(site.fails(1, &adopt("public")).contains("no role"));
    old.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'from before'; CREATE TABLE t (n int)"))
        .await
        .unwrap();
    let roles = format!("SELECT count(*) FROM pg_roles WHERE rolname LIKE '{}%'", site.name);
    let before = site.count(&roles).await;
    let adopted = site.json(&adopt("public"));
    assert_eq!(site.count(&roles).await, before, "nothing was made");
    assert_eq!((&adopted["password"], &adopted["login"]), (&Value::Null, &Value::from("app")));
    assert_eq!(
        (&adopted["modules"][0]["schema"], &adopted["modules"][0]["status"]),
        (&Value::from("public"), &Value::from("ready"))
    );
    let same = "SELECT count(*) FROM pgtenant.logins AS l JOIN pg_authid AS r ON r.rolname = l.role AND r.rolpassword = l.verifier";
    assert_eq!(site.count(same).await, 1);
    assert!(site.fails(1, &["tenant", "login", "password", &slug, "app"]).contains("adopted"));
    // What pgtenant has not made, it does not drop.
    site.ok(&["tenant", "delete", &slug, "--drop-data"]);
    old.batch_execute("SELECT * FROM t").await.unwrap();
    assert_eq!(site.count(&roles).await, before);
}

#[tokio::test]
async fn a_deleted_tenant_is_archived_or_leaves_nothing_and_others_keep_theirs() {
    let site = Site::new("delete").await;
    let (acme, made) = tenant(&site, "acme").await;
    let (_, other) = tenant(&site, "globex").await;
    let schema = made["modules"][1]["schema"].as_str().unwrap();
    for tenant in [&made, &other] {
        let client = login(&tenant["modules"][1], tenant["password"].as_str().unwrap()).await.unwrap();
        let rows = format!("INSERT INTO {schema}.items (id) VALUES (1); INSERT INTO {schema}.parts (item) VALUES (1)");
        client.batch_execute(&rows).await.unwrap();
    }
    assert_eq!(site.json(&["tenant", "delete", &acme])["status"], "archived");
    assert_eq!(site.json(&["tenant", "show", &acme])["status"], "archived");
    let deleted = site.json(&["tenant", "delete", &acme, "--drop-data"]);
    assert_eq!(deleted, serde_json::json!({"tenant": acme, "result": "deleted"}));
    site.fails(1, &["tenant", "show", &acme]);
    let roles = format!("SELECT count(*) FROM pg_roles WHERE rolname LIKE '{acme}%' OR rolname LIKE '%{acme}.owner'");
    assert_eq!(site.count(&roles).await, 0);
    let shop = support::cluster().await.connect(&site.slug("shop")).await.unwrap();
    let left = format!(
        "SELECT count(*) FROM (SELECT FROM {schema}.items UNION ALL SELECT FROM {schema}.parts UNION ALL SELECT FROM {schema}.audit) AS rows"
    );
    assert_eq!(shop.query_one(&left, &[]).await.unwrap().get::<_, i64>(0), 2, "the other tenant's rows");
    assert!(shop.query_one(WALLED, &[]).await.unwrap().get::<_, bool>(0), "the wall stands again");
    // The name is free, and means a new tenant that sees nothing of the old one.
    let (_, again) = tenant(&site, "acme").await;
    assert_ne!(again["tenant_id"], made["tenant_id"]);
    let client = login(&again["modules"][1], again["password"].as_str().unwrap()).await.unwrap();
    let seen = format!("SELECT count(*) FROM {schema}.items");
    assert_eq!(client.query_one(&seen, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_tenant_is_deleted_while_others_work_in_the_same_tables_and_no_policy_hides_its_rows() {
    let site = Site::new("busy").await;
    let (acme, made) = tenant(&site, "acme").await;
    let (globex, other) = tenant(&site, "globex").await;
    let schema = made["modules"][1]["schema"].as_str().unwrap();
    let insert = format!("INSERT INTO {schema}.items (id) VALUES (1)");
    let deleted = login(&made["modules"][1], made["password"].as_str().unwrap()).await.unwrap();
    deleted.batch_execute(&insert).await.unwrap();
    let client = login(&other["modules"][1], other["password"].as_str().unwrap()).await.unwrap();
    client.batch_execute(&format!("BEGIN; {insert}")).await.unwrap();
    // Would wait for the transaction if it locked more than rows.
    site.ok(&["tenant", "delete", &acme, "--drop-data"]);
    client.batch_execute(&format!("{}; COMMIT", insert.replace("(1)", "(2)"))).await.unwrap();
    let shop = support::cluster().await.connect(&site.slug("shop")).await.unwrap();
    let all = format!("SELECT count(*), count(DISTINCT tenant_id) FROM {schema}.items");
    let seen = shop.query_one(&all, &[]).await.unwrap();
    assert_eq!((seen.get::<_, i64>(0), seen.get::<_, i64>(1)), (2, 1), "the other tenant's rows");
    let voices = "SELECT count(*) FROM pgtenant.roles WHERE role = session_user";
    assert_eq!(shop.query_one(voices, &[]).await.unwrap().get::<_, i64>(0), 0, "the admin speaks for nobody again");
    // A policy of the users' own hides rows from whoever speaks for the tenant.
    let policy = format!("CREATE POLICY small ON {schema}.items AS RESTRICTIVE USING (id < 2)");
    shop.batch_execute(&policy).await.unwrap();
    site.ok(&["tenant", "delete", &globex, "--drop-data"]);
    assert_eq!(shop.query_one(&all, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert!(shop.query_one(WALLED, &[]).await.unwrap().get::<_, bool>(0), "the wall stands again");
}

#[tokio::test]
async fn what_a_tenant_writes_while_its_rows_are_deleted_goes_with_them() {
    let site = Site::new("late").await;
    let (acme, made) = tenant(&site, "acme").await;
    let (module, shop) = (&made["modules"][1], format!("{}_shop", site.name));
    let items = format!("{}.items", module["schema"].as_str().unwrap());
    let client = login(module, made["password"].as_str().unwrap()).await.unwrap();
    client.batch_execute(&format!("BEGIN; INSERT INTO {items} (id) VALUES (1)")).await.unwrap();
    let command = ["tenant", "unsubscribe", &acme, &shop, "--drop-data"];
    let running = site.command(&command).stdout(Stdio::null()).spawn().unwrap();
    support::until("the module is given up", async || {
        site.json(&["tenant", "show", &acme])["modules"][1]["status"] == "dropping"
    })
    .await;
    client.batch_execute(&format!("INSERT INTO {items} (id) VALUES (2); COMMIT")).await.unwrap();
    assert!(tokio::task::spawn_blocking(move || running.wait_with_output()).await.unwrap().unwrap().status.success());
    let rows = support::cluster().await.connect(&site.slug("shop")).await.unwrap();
    let all = format!("SELECT count(*) FROM {items}");
    assert_eq!(rows.query_one(&all, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_deleted_tenant_keeps_no_rights_on_what_an_earlier_unsubscription_kept() {
    let site = Site::new("kept").await;
    let (slug, made) = tenant(&site, "acme").await;
    let ops = format!("{}_ops", site.name);
    site.ok(&["tenant", "unsubscribe", &slug, &ops]);
    site.ok(&["tenant", "delete", &slug, "--drop-data"]);
    let roles = format!("SELECT count(*) FROM pg_roles WHERE rolname LIKE '{slug}%'");
    assert_eq!(site.count(&roles).await, 0);
    let schema = made["modules"][0]["schema"].as_str().unwrap();
    let kept = support::cluster().await.connect(&site.slug("ops")).await.unwrap();
    let acl = format!("SELECT array_length(nspacl, 1)::int8 FROM pg_namespace WHERE nspname = '{schema}'");
    assert_eq!(kept.query_one(&acl, &[]).await.unwrap().get::<_, i64>(0), 1, "only its owner's");
}
