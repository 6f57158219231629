//! F: operations and finance services, each with its own database on its own server, that share one registry of tenants.

use pgtenant::cluster::Cluster;
use serde_json::Value;

use super::{add_server, ask, client, empty_machine, migrations, psql, refused, url};
use crate::commands::site::Site;
use crate::support::{Child, one};

const JOBS: &str = "CREATE TABLE jobs (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL)";
const INVOICES: &str =
    "CREATE TABLE invoices (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, total numeric NOT NULL)";

struct Play {
    site: Site,
    operations: Cluster,
    finance: Cluster,
    proxy: Child,
    /// What tells commands where the proxy is, for the strings they print.
    address: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn services_with_one_registry_keep_nothing_but_a_connection_string() {
    let mut play = Play::open().await;
    let acme = play.create("acme", "Acme Corp", "operations,finance");
    the_registry_is_read_with_plain_sql(&play, &acme).await;
    each_service_needs_its_string_only(&play, &acme).await;
    let globex = play.create("globex", "Globex", "operations");
    let globex = subscribed_by_sql(&play, &globex).await;
    a_new_module_needs_no_code(&play, &acme).await;
    the_three_outcomes_are_distinct(&mut play, &acme, &globex).await;
    assert!(play.proxy.stop().await.success());
}

impl Play {
    async fn open() -> Self {
        let (operations, site) = empty_machine().await;
        let finance = Cluster::builder().start().await.unwrap();
        site.ok(&["registry", "init"]);
        for (module, cluster, pattern, sql) in
            [("operations", &operations, "tenant_{slug}", JOBS), ("finance", &finance, "finance_{slug}", INVOICES)]
        {
            add_server(&site, module, cluster);
            let files = migrations(&site, module, &[("0001_first.sql", sql)]);
            let place =
                ["--isolation", "schema", "--server", module, "--database", module, "--schema-pattern", pattern];
            let old = format!("frego_{module}_db");
            let others = ["--migrations", &files, "--alias", &old];
            site.ok(&[&["module", "add", module], &place[..], &others].concat());
        }
        let proxy = Child::serve_registry(&site.registry.url, "").await;
        let address = proxy.address.to_string();
        Self { site, operations, finance, proxy, address }
    }

    /// One command provisions a tenant over several modules and servers.
    fn create(&self, slug: &str, name: &str, modules: &str) -> Value {
        let contact = format!("admin@{slug}.com");
        let create = ["tenant", "create", slug, "--name", name, "--contact", &contact, "--modules", modules];
        self.site.json(&[&create[..], &["--proxy", &self.address]].concat())
    }

    /// A connection string for a module by another user name.
    fn url_as(&self, tenant: &Value, user: &str, module: &str) -> String {
        let password = tenant["password"].as_str().unwrap();
        format!("postgresql://{}:{password}@{}/{module}", user.replace('@', "%40"), self.address)
    }

    fn registry_url(&self, user: &str) -> String {
        let cluster = &self.operations;
        format!("postgresql://{user}:of-the-desk@{}:{}/registry", cluster.host(), cluster.port())
    }
}

/// F1, F2: by a role that may read two views and call two procedures.
async fn the_registry_is_read_with_plain_sql(play: &Play, acme: &Value) {
    let desk =
        "CREATE ROLE desk LOGIN PASSWORD 'of-the-desk'; GRANT SELECT ON tenant_registry, tenant_module_log TO desk;
        GRANT EXECUTE ON PROCEDURE subscribe_tenant_to_module, unsubscribe_tenant_from_module TO desk";
    psql(&play.site.registry.url, desk).await.unwrap();
    let sql =
        "SELECT tenant_slug, tenant_name, array_to_string(modules_subscribed, ', '), operations_schema, finance_schema,
        is_active, contact FROM tenant_registry WHERE tenant_id = '%id'";
    let id = acme["tenant_id"].as_str().unwrap();
    assert_eq!(
        psql(&play.registry_url("desk"), &sql.replace("%id", id)).await.unwrap(),
        "acme|Acme Corp|finance, operations|tenant_acme|finance_acme|t|admin@acme.com"
    );
    let log = "SELECT t.tenant_name, l.module_name, l.schema_name, l.status, l.provisioned_at <= now()
        FROM tenant_module_log l JOIN tenant_registry t ON l.tenant_id = t.tenant_id
        WHERE l.provisioned_at IS NOT NULL ORDER BY l.module_name";
    assert_eq!(
        psql(&play.registry_url("desk"), log).await.unwrap(),
        "Acme Corp|finance|finance_acme|provisioned|t\nAcme Corp|operations|tenant_acme|provisioned|t"
    );
}

/// F6: as `create` printed it, by slug or id, by the old name of the database.
async fn each_service_needs_its_string_only(play: &Play, acme: &Value) {
    let (operations, finance) = (url(acme, "operations"), url(acme, "finance"));
    psql(operations, "INSERT INTO jobs (title) VALUES ('mend the roof')").await.unwrap();
    psql(finance, "INSERT INTO invoices (total) VALUES (99.5)").await.unwrap();
    let id = acme["tenant_id"].as_str().unwrap();
    for user in ["app@acme", "app.acme", "acme", &format!("app@{id}"), id] {
        let jobs = ask(&play.url_as(acme, user, "operations"), "SELECT title FROM jobs").await;
        assert_eq!(jobs, "mend the roof", "{user}");
        let total = ask(&play.url_as(acme, user, "frego_finance_db"), "SELECT total FROM invoices").await;
        assert_eq!(total, "99.5", "{user}");
    }
    for name in ["acme", id] {
        let option = format!("{}?options=-c%20tenant%3D{name}", play.url_as(acme, "app", "operations"));
        assert_eq!(psql(&option, "SELECT current_schema()").await.unwrap(), "tenant_acme");
    }
    // The data really is in two servers' schemas.
    let there = play.operations.connect("operations").await.unwrap();
    assert_eq!(one(&there, "SELECT count(*) FROM tenant_acme.jobs").await, "1");
    let there = play.finance.connect("finance").await.unwrap();
    assert_eq!(one(&there, "SELECT count(*) FROM finance_acme.invoices").await, "1");
}

/// F3: asked for by SQL, made by the next reconciliation; the tenant as it is then.
async fn subscribed_by_sql(play: &Play, globex: &Value) -> Value {
    let id = globex["tenant_id"].as_str().unwrap();
    let finance = play.url_as(globex, "app@globex", "finance");
    assert_eq!(refused(&finance).await.0, "3D000");
    let call = format!("CALL subscribe_tenant_to_module('{id}'::uuid, 'finance', 'finance_globex')");
    psql(&play.registry_url("desk"), &call).await.unwrap();
    psql(&play.registry_url("desk"), &call).await.expect("asking again changes nothing");
    let taken = call.replace("finance_globex", "finance_acme");
    let error = psql(&play.registry_url("desk"), &taken).await.unwrap_err();
    assert!(error.contains("already, at schema \"finance_globex\""), "{error}");
    let again = "SELECT finance_schema, is_active FROM tenant_registry WHERE tenant_slug = 'globex'";
    assert_eq!(psql(&play.registry_url("desk"), again).await.unwrap(), "finance_globex|t");
    let done = play.site.json(&["tenant", "reconcile"]);
    assert_eq!((done[0]["slug"].as_str(), done[0]["status"].as_str()), (Some("globex"), Some("active")));
    crate::support::until("the new module is served", async || client(&finance).await.is_ok()).await;
    assert_eq!(ask(&finance, "SELECT count(*) FROM invoices").await, "0", "and none of another tenant's");
    assert_eq!(play.site.json(&["tenant", "reconcile"]), Value::Array(Vec::new()), "nothing is left to do");
    play.site.json(&["tenant", "show", "globex"])
}

/// F1: a module is a command, and its column is there.
async fn a_new_module_needs_no_code(play: &Play, acme: &Value) {
    let place = ["--isolation", "schema", "--server", "operations", "--database", "operations"];
    play.site.ok(&[&["module", "add", "inventory"], &place[..]].concat());
    let column = "SELECT coalesce(inventory_schema, 'none') FROM tenant_registry WHERE tenant_slug = 'acme'";
    assert_eq!(psql(&play.registry_url("desk"), column).await.unwrap(), "none");
    play.site.ok(&["tenant", "subscribe", "acme", "inventory"]);
    assert_eq!(psql(&play.registry_url("desk"), column).await.unwrap(), "inventory_acme");
    let inventory = play.url_as(acme, "app@acme", "inventory");
    crate::support::until("the new module is served", async || client(&inventory).await.is_ok()).await;
    assert_eq!(ask(&inventory, "SELECT current_schema()").await, "inventory_acme");
}

/// F6: not found, not subscribed and inactive are three things to the client, in the log, by command and in SQL. (That a tenant is not
/// found, the client itself is not told.)
async fn the_three_outcomes_are_distinct(play: &mut Play, acme: &Value, globex: &Value) {
    let fails = |arguments: &[&str]| play.site.fails(1, arguments);
    assert!(fails(&["tenant", "show", "nobody"]).contains("tenant \"nobody\" not found"));
    let said = fails(&["tenant", "url", "globex", "--module", "inventory"]);
    assert!(said.contains("tenant \"globex\" is not subscribed to module \"inventory\""), "{said}");
    play.site.ok(&["tenant", "suspend", "acme"]);
    assert!(fails(&["tenant", "subscribe", "acme", "inventory"]).contains("tenant \"acme\" is inactive (suspended)"));
    let is_active = "SELECT is_active, status FROM tenant_registry WHERE tenant_slug = 'acme'";
    assert_eq!(psql(&play.registry_url("desk"), is_active).await.unwrap(), "f|suspended");

    let (id, other) = (acme["tenant_id"].as_str().unwrap(), globex["tenant_id"].as_str().unwrap());
    let nobody = uuid::Uuid::new_v4().to_string();
    for (call, outcome) in [
        (format!("subscribe_tenant_to_module('{nobody}', 'finance')"), format!("tenant {nobody} not found")),
        (
            format!("subscribe_tenant_to_module('{id}', 'inventory')"),
            "tenant \"acme\" is inactive (suspended)".to_owned(),
        ),
        (
            format!("unsubscribe_tenant_from_module('{other}', 'inventory')"),
            "tenant \"globex\" is not subscribed to module \"inventory\"".to_owned(),
        ),
    ] {
        let error = psql(&play.registry_url("desk"), &format!("CALL {call}")).await.unwrap_err();
        assert!(error.contains(&outcome), "{error}");
    }

    let unknown = play.url_as(acme, "app@nobody", "operations");
    assert_eq!(refused(&unknown).await.1, "password authentication failed for user \"app@nobody\"");
    play.proxy.logged("unknown_tenant").await;
    let (code, text) = refused(&play.url_as(acme, "app@acme", "operations")).await;
    assert_eq!((code.as_str(), text.as_str()), ("28000", "(PT-SUSPENDED) tenant \"acme\" is suspended"));
    play.proxy.logged("(PT-SUSPENDED) tenant \"acme\"").await;
    play.site.ok(&["tenant", "activate", "acme"]);
    let operations = play.url_as(acme, "app@acme", "operations");
    crate::support::until("it is served again", async || client(&operations).await.is_ok()).await;
    let (code, text) = refused(&play.url_as(acme, "app@acme", "payroll")).await;
    assert_eq!((code.as_str(), text.as_str()), ("3D000", "(PT-NOMODULE) tenant \"acme\" has no database \"payroll\""));
    play.proxy.logged("(PT-NOMODULE) tenant \"acme\" has no database \"payroll\"").await;
}
