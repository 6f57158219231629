//! Several old registries become one, whose tenants are served.

use serde_json::{Value, json};

use super::old::{Old, command, id, imports, refused};
use crate::commands::site::{Site, login};
use crate::support::{Running, connect, one, proxy_over, refusal, until};

/// A proxy's client settings for a tenant's module.
fn settings(proxy: &Running, user: &str, password: &str, module: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(proxy.address.ip().to_string()).port(proxy.address.port());
    config.user(user).password(password).dbname(module);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_two_old_registries_are_served_once_they_have_a_login() {
    let site = Site::new("merge").await;
    let (ops, fin) = (Old::new(&site, "ops").await, Old::new(&site, "fin").await);
    let (acme, beta) = (site.slug("acme"), site.slug("beta"));
    ops.tenant(&id(1), &acme, "Acme Corp", "tenant_acme").await;
    ops.tenant(&id(2), &beta, "Beta", "tenant_beta").await;
    fin.tenant(&id(1), &acme, "Acme Corp", "finance_acme").await;
    let import = command("import", &[&ops, &fin], &[]);
    let imported = site.json(&import);
    assert_eq!(imported["created"]["tenants"], json!([acme, beta]));
    assert_eq!((&imported["refused"], &imported["conflicts"]), (&json!(false), &json!([])));
    let registry = "SELECT array_agg(tenant_slug || ' ' || array_to_string(modules_subscribed, '+') ORDER BY tenant_slug) FROM tenant_registry";
    let rows: Vec<String> = site.registry.admin.query_one(registry, &[]).await.unwrap().get(0);
    let modules = [fin.module.as_str(), ops.module.as_str()].join("+");
    assert_eq!(rows, [format!("{acme} {modules}"), format!("{beta} {}", ops.module)]);

    let proxy = proxy_over(&site.registry.url, |_| {}).await;
    let user = format!("app@{acme}");
    let nobody = connect(&settings(&proxy, &user, "x", &ops.module)).await.err().unwrap();
    assert_eq!(refusal(&nobody).0, "28P01");
    let made = site.json(&["tenant", "login", "add", &acme, "app"]);
    let password = made["password"].as_str().unwrap();
    let notes = [(&ops.module, "tenant_acme"), (&fin.module, "finance_acme")];
    // The proxy remembers for a moment that there was no such login.
    until("the login is known", async || connect(&settings(&proxy, &user, password, &ops.module)).await.is_ok()).await;
    for (module, schema) in notes {
        let client = connect(&settings(&proxy, &user, password, module)).await.unwrap();
        assert_eq!(one(&client, "SELECT note FROM notes").await, schema);
        client.batch_execute("INSERT INTO notes (note) VALUES ('new')").await.unwrap();
        let other = client.batch_execute("SELECT * FROM tenant_beta.notes").await.err().unwrap();
        assert!(["42501", "42P01"].contains(&refusal(&other).0.as_str()), "{other:?}");
        assert_eq!(refusal(&client.batch_execute("CREATE TABLE mine (n int)").await.err().unwrap()).0, "42501");
        assert_eq!(
            refusal(&client.batch_execute("SELECT * FROM public.tenant_registry").await.err().unwrap()).0,
            "42501"
        );
    }
    // What the old service makes later is the tenant's, too.
    ops.run("CREATE TABLE tenant_acme.later AS SELECT 1 AS n").await;
    let client = connect(&settings(&proxy, &user, password, &ops.module)).await.unwrap();
    assert_eq!(one(&client, "SELECT n FROM later").await, "1");
    let client = connect(&settings(&proxy, &user, password, &beta)).await;
    assert_eq!(refusal(&client.err().unwrap()).0, "3D000");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_tenants_logins_come_change_and_go_like_others() {
    let site = Site::new("implogin").await;
    let ops = Old::new(&site, "ops").await;
    let acme = site.slug("acme");
    ops.tenant(&id(1), &acme, "Acme", "tenant_acme").await;
    site.ok(&command("import", &[&ops], &[]));
    let place = |role: &str| json!({"database": ops.database, "role": role});
    let role = format!("{acme}_app");
    for (name, role) in [("app", role.clone()), ("reports", format!("{role}.reports"))] {
        let made = site.json(&["tenant", "login", "add", &acme, name]);
        assert_eq!(made["role"], json!(role));
        let client = login(&place(&role), made["password"].as_str().unwrap()).await.unwrap();
        assert_eq!(one(&client, "SELECT note FROM tenant_acme.notes").await, "tenant_acme");
        let changed = site.json(&["tenant", "login", "password", &acme, name]);
        assert!(login(&place(&role), made["password"].as_str().unwrap()).await.is_err());
        login(&place(&role), changed["password"].as_str().unwrap()).await.unwrap();
    }
    site.ok(&["tenant", "login", "remove", &acme, "reports"]);
    let roles = format!("SELECT count(*) FROM pg_roles WHERE rolname LIKE '{acme}%'");
    assert_eq!(site.count(&roles).await, 1);
    site.ok(&["tenant", "delete", &acme, "--drop-data"]);
    assert_eq!(site.count(&roles).await, 0, "what pgtenant made is gone");
    assert_eq!(
        one(&ops.client, "SELECT note FROM tenant_acme.notes").await,
        "tenant_acme",
        "what it did not make stays"
    );
}

#[tokio::test]
async fn an_import_that_changes_nothing_records_nothing() {
    let site = Site::new("again").await;
    let ops = Old::new(&site, "ops").await;
    ops.tenant(&id(1), &site.slug("acme"), "Acme", "tenant_acme").await;
    let import = command("import", &[&ops], &[]);
    let dry = site.json(&command("import", &[&ops], &["--dry-run"]));
    assert_eq!((&dry["import"], &dry["created"]["tenants"]), (&Value::Null, &json!([site.slug("acme")])));
    assert_eq!(imports(&site).await, 0);
    assert_eq!(site.json(&import)["import"], json!(1));
    let before = site.ok(&["registry", "export"]);
    let generations = "SELECT sum(generation)::int8 FROM pgtenant.tenants";
    let generation = site.count(generations).await;
    let again = site.json(&import);
    assert_eq!((&again["import"], &again["unchanged"]), (&Value::Null, &json!(1)));
    assert_eq!((imports(&site).await, site.count(generations).await), (1, generation));
    // Nor does it take back what was done since.
    site.ok(&["tenant", "suspend", &site.slug("acme")]);
    site.ok(&import);
    assert_eq!(site.json(&["tenant", "show", &site.slug("acme")])["status"], "suspended");
    site.ok(&["tenant", "activate", &site.slug("acme")]);
    assert_eq!(site.ok(&["registry", "export"]), before);
    // A new tenant of the source is all that a later import adds.
    ops.tenant(&id(2), &site.slug("beta"), "Beta", "tenant_beta").await;
    let later = site.json(&import);
    assert_eq!((&later["import"], &later["created"]["tenants"]), (&json!(2), &json!([site.slug("beta")])));
}

#[tokio::test]
async fn a_deleted_tenant_comes_again_only_when_its_names_are_free() {
    let site = Site::new("deleted").await;
    let ops = Old::new(&site, "ops").await;
    let acme = site.slug("acme");
    ops.tenant(&id(1), &acme, "Acme", "tenant_acme").await;
    let import = command("import", &[&ops], &[]);
    site.ok(&import);
    site.ok(&["tenant", "login", "add", &acme, "app"]);
    // Archived, it keeps its names, and an import leaves it so.
    site.ok(&["tenant", "delete", &acme]);
    let again = site.json(&import);
    assert_eq!((&again["import"], &again["unchanged"]), (&Value::Null, &json!(1)));
    assert!(again["remarks"][0].as_str().unwrap().contains("archived"), "{again}");
    assert_eq!(site.json(&["tenant", "show", &acme])["status"], "archived");
    // Deleted, it is a new tenant to the next import, with logins again.
    site.ok(&["tenant", "delete", &acme, "--drop-data"]);
    assert_eq!(site.json(&import)["created"]["tenants"], json!([acme]));
    let made = site.json(&["tenant", "login", "add", &acme, "app"]);
    let place = json!({"database": ops.database, "role": made["role"]});
    login(&place, made["password"].as_str().unwrap()).await.unwrap();
    // A tenant of another id that has taken the name meanwhile is not the same one.
    site.ok(&["tenant", "delete", &acme, "--drop-data"]);
    site.ok(&["tenant", "create", &acme, "--name", "Another"]);
    let conflicts = refused(&site, &import);
    assert_eq!(super::old::kinds(&conflicts), [(acme.clone(), "slug-taken".to_owned())]);
    assert_eq!(site.json(&["tenant", "show", &acme])["name"], "Another");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_tenant_of_a_shared_pool_is_served_by_the_service_login() {
    let site = Site::new("impool").await;
    let ops = Old::new(&site, "ops").await;
    site.ok(&[
        "module",
        "add",
        &ops.module,
        "--isolation",
        "schema",
        "--server",
        "main",
        "--database",
        &ops.database,
        "--pooling",
        "shared",
    ]);
    let slugs = [site.slug("acme"), site.slug("beta")];
    let proxy = proxy_over(&site.registry.url, |_| {}).await;
    for (n, slug) in (1..).zip(&slugs) {
        ops.tenant(&id(n), slug, slug, &format!("t_{slug}")).await;
    }
    site.ok(&command("import", &[&ops], &[]));
    for slug in &slugs {
        let made = site.json(&["tenant", "login", "add", slug, "app"]);
        let settings = settings(&proxy, &format!("app@{slug}"), made["password"].as_str().unwrap(), &ops.module);
        let client = connect(&settings).await.unwrap();
        assert_eq!(one(&client, "SELECT note FROM notes").await, format!("t_{slug}"));
        assert_eq!(one(&client, "SELECT session_user").await, format!("{}_service", site.name));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn of_two_imports_at_one_time_the_second_finds_nothing_to_do() {
    let site = Site::new("race").await;
    let ops = Old::new(&site, "ops").await;
    for n in 1..=20 {
        ops.tenant(&id(n), &site.slug(&format!("n{n}")), "N", &format!("t_{n}")).await;
    }
    let import = command("import", &[&ops], &["--json"]);
    let running: Vec<_> =
        (0..3).map(|_| site.command(&import).stdout(std::process::Stdio::piped()).spawn().unwrap()).collect();
    let outputs = running.into_iter().map(|child| child.wait_with_output().unwrap());
    let made: Vec<Value> =
        outputs.map(|output| serde_json::from_slice::<Value>(&output.stdout).unwrap()["import"].clone()).collect();
    assert_eq!(made.iter().filter(|import| !import.is_null()).count(), 1, "{made:?}");
    assert_eq!(imports(&site).await, 1);
}

#[tokio::test]
async fn a_registry_of_an_earlier_version_is_completed_and_imports_into() {
    let site = Site::new("older").await;
    let admin = &site.registry.admin;
    let earlier = "DROP TABLE pgtenant.import_items, pgtenant.imports; DELETE FROM pgtenant.schema_versions WHERE name = '0006_imports'";
    admin.batch_execute(earlier).await.unwrap();
    let ops = Old::new(&site, "ops").await;
    ops.tenant(&id(1), &site.slug("acme"), "Acme", "t_acme").await;
    let import = command("import", &[&ops], &[]);
    assert!(site.fails(1, &import).contains("pgtenant registry init"));
    assert_eq!(site.json(&["registry", "init"])["applied"], json!(["0006_imports"]));
    assert_eq!(site.json(&import)["import"], json!(1));
}
