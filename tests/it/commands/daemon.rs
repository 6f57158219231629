//! The control plane inside `pgtenant serve`: rows written by plain SQL become places without any command.

use super::site::{Site, login};
use crate::support::{Child, cluster, connect, refusal, until};

const OFTEN: &str = "reconcile_interval = \"50ms\"\n";

/// A tenant with one module, and another module that it has not.
async fn tenant(site: &Site, slug: &str) -> (String, serde_json::Value, String) {
    let database = site.slug("ops");
    let [ops, crm] = ["ops", "crm"].map(|kind| site.module(kind, &["--isolation", "schema", "--database", &database]));
    let slug = site.slug(slug);
    let made = site.json(&["tenant", "create", &slug, "--name", &slug, "--modules", &ops]);
    (slug, made, crm)
}

fn call(tenant: &serde_json::Value, module: &str) -> String {
    format!("CALL subscribe_tenant_to_module('{}', '{module}')", tenant["tenant_id"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_by_sql_is_made_by_the_serving_process_and_served() {
    let site = Site::new("daemon").await;
    let (slug, made, crm) = tenant(&site, "acme").await;
    let children = [
        Child::serve_registry(&site.registry.url, OFTEN).await,
        Child::serve_registry(&site.registry.url, OFTEN).await,
    ];
    let mut config = tokio_postgres::Config::new();
    config.user(format!("app@{slug}")).password(made["password"].as_str().unwrap()).dbname(&crm);
    config.host("127.0.0.1").port(children[0].address.port());
    assert_eq!(refusal(&connect(&config).await.err().unwrap()).0, "3D000");
    site.registry.admin.batch_execute(&call(&made, &crm)).await.unwrap();
    until("the new module is served", async || connect(&config).await.is_ok()).await;
    let provisioned =
        format!("SELECT count(*) FROM tenant_module_log WHERE status = 'provisioned' AND module_name = '{crm}'");
    assert_eq!(site.count(&provisioned).await, 1, "by one of the two");
    // Interrupted after the last place, before it was called active.
    site.registry.admin.batch_execute("UPDATE pgtenant.tenants SET status = 'provisioning'").await.unwrap();
    until("it is active", async || site.json(&["tenant", "show", &slug])["status"] == "active").await;
    for child in children {
        assert!(child.stop().await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_cannot_be_made_holds_up_no_other_and_is_made_when_it_can_be() {
    let site = Site::new("stuck").await;
    let (_, made, crm) = tenant(&site, "acme").await;
    let (host, port) = (cluster().await.host(), cluster().await.port().to_string());
    let away = |secret: &str| {
        site.ok(&["server", "add", "away", "--host", host, "--port", &port, "--admin-secret", secret]);
    };
    away("env:PGTENANT_TEST_NOWHERE");
    let remote = format!("{}_remote", site.name);
    site.ok(&["module", "add", &remote, "--isolation", "database", "--server", "away"]);
    let mut child = Child::serve_registry(&site.registry.url, OFTEN).await;
    let stuck = site.slug("stuck");
    // In one transaction, or it would be called active before it has anything.
    let id = uuid::Uuid::new_v4();
    let rows = format!(
        "BEGIN; INSERT INTO pgtenant.tenants (id, slug, name) VALUES ('{id}', '{stuck}', 'S'); \
         CALL subscribe_tenant_to_module('{id}', '{remote}'); COMMIT"
    );
    site.registry.admin.batch_execute(&rows).await.unwrap();
    let line = child.logged("tenant not provisioned").await;
    assert!(line.contains("admin secret of server away") && line.contains("PGTENANT_TEST_NOWHERE"), "{line}");
    site.registry.admin.batch_execute(&call(&made, &crm)).await.unwrap();
    let ready = format!("SELECT count(*) FROM pgtenant.placements WHERE module = '{crm}' AND status = 'ready'");
    until("the other tenant is made", async || site.count(&ready).await == 1).await;
    away(&site.secret("admin"));
    until("it is made after all", async || site.json(&["tenant", "show", &stuck])["status"] == "active").await;
    // What nobody had a password for opens nothing, until somebody is given one.
    let added = site.json(&["tenant", "login", "add", &stuck, "app"]);
    login(&site.json(&["tenant", "show", &stuck])["modules"][0], added["password"].as_str().unwrap()).await.unwrap();
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_it_the_proxy_provisions_nothing_and_with_a_file_it_is_refused() {
    let site = Site::new("data_plane").await;
    let (slug, made, crm) = tenant(&site, "acme").await;
    let child = Child::serve_registry(&site.registry.url, "").await;
    site.registry.admin.batch_execute(&call(&made, &crm)).await.unwrap();
    let mut config = tokio_postgres::Config::new();
    config.user(format!("app@{slug}")).password(made["password"].as_str().unwrap()).dbname(&crm);
    config.host("127.0.0.1").port(child.address.port());
    let refused = async || refusal(&connect(&config).await.err().unwrap()).0;
    until("the proxy has heard of it, and waits for somebody to make it", async || refused().await == "57P03").await;
    assert_eq!(site.json(&["tenant", "show", &slug])["modules"][0]["status"], "provisioning");
    assert!(child.stop().await.success());
    let file = site.files.path().join("tenants.toml");
    std::fs::write(&file, "").unwrap();
    let mut serve = site.command(&["serve", "--registry", file.to_str().unwrap()]);
    let output = serve.env("PGTENANT_REGISTRY_RECONCILE_INTERVAL", "5s").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("registry.reconcile_interval needs registry.url"));
}
