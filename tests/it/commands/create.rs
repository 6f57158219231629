//! Making tenants: what is printed, what opens with it, and what is said when it cannot be.

use std::process::Stdio;

use serde_json::Value;

use super::site::{Site, keys, login};
use crate::support;

const MODULE_KEYS: [&str; 8] = ["database", "isolation", "module", "role", "schema", "server", "status", "url"];

#[tokio::test]
async fn create_prints_a_password_that_opens_every_place_and_prints_it_once() {
    let site = Site::new("create").await;
    let ops = site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops")]);
    let erp = site.module("erp", &["--isolation", "database"]);
    let shop = site.module("shop", &["--isolation", "shared", "--database", &site.slug("shop")]);
    let slug = site.slug("acme");
    let modules = format!("{ops},{erp},{shop}");
    let create = [
        "tenant",
        "create",
        &slug,
        "--name",
        "Acme Corp",
        "--alias",
        "krn:acme:client:prod-001",
        "--modules",
        &modules,
    ];
    let made = site.json(&create);
    assert_eq!(keys(&made), ["login", "modules", "password", "slug", "tenant_id"]);
    assert_eq!((made["slug"].as_str(), made["login"].as_str()), (Some(slug.as_str()), Some("app")));
    let password = made["password"].as_str().unwrap();
    assert!(password.len() >= 24);
    let places = made["modules"].as_array().unwrap();
    assert_eq!(places.len(), 3);
    for place in places {
        assert_eq!(keys(place), MODULE_KEYS);
        assert_eq!(place["status"], "ready");
        let module = place["module"].as_str().unwrap();
        assert_eq!(place["url"], format!("postgresql://app%40{slug}:{password}@127.0.0.1:6432/{module}"));
        login(place, password).await.unwrap();
    }
    let again = site.json(&create);
    assert_eq!(again["password"], Value::Null);
    assert_eq!(again["tenant_id"], made["tenant_id"]);
    assert!(!again.to_string().contains(password));
    login(&places[0], password).await.unwrap();
}

#[tokio::test]
async fn show_and_list_know_a_tenant_by_any_of_its_names_and_never_its_password() {
    let site = Site::new("show").await;
    let ops = site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops")]);
    let slug = site.slug("acme");
    let made = site.json(&["tenant", "create", &slug, "--name", "Acme", "--alias", "krn:a", "--modules", &ops]);
    let id = made["tenant_id"].as_str().unwrap();
    let shown = site.json(&["tenant", "show", &slug, "--proxy", "db.example.com:5432"]);
    assert_eq!(
        keys(&shown),
        [
            "aliases",
            "allow",
            "last_used",
            "limits",
            "login",
            "login_count",
            "modules",
            "name",
            "slug",
            "status",
            "tenant_id"
        ]
    );
    assert_eq!(shown["aliases"], serde_json::json!(["krn:a"]));
    assert_eq!((shown["status"].as_str(), shown["name"].as_str()), (Some("active"), Some("Acme")));
    let url = format!("postgresql://app%40{slug}@db.example.com:5432/{ops}");
    assert_eq!(shown["modules"][0]["url"], url);
    for name in ["krn:a", id, &id.to_uppercase()] {
        assert_eq!(site.json(&["tenant", "show", name])["slug"], slug);
    }
    assert_eq!(site.ok(&["tenant", "url", "krn:a", "--proxy", "db.example.com:5432"]).trim(), url);
    let listed = site.json(&["tenant", "list"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["slug"]), (1, &Value::from(slug)));
    assert_eq!(keys(&listed[0]), keys(&shown));
}

#[tokio::test]
async fn a_tenant_is_suspended_and_activated_by_command() {
    let site = Site::new("suspend").await;
    let ops = site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops")]);
    let slug = site.slug("acme");
    let create = ["tenant", "create", &slug, "--name", "Acme", "--modules", &ops];
    site.ok(&create);
    assert_eq!(site.json(&["tenant", "suspend", &slug, "--grace", "5s"])["status"], "suspended");
    let ends = "SELECT count(*) FROM pgtenant.tenants WHERE sessions_end_at BETWEEN now() AND now() + interval '5 s'";
    assert_eq!(site.count(ends).await, 1);
    assert!(site.fails(1, &create).contains("suspended"));
    assert_eq!(site.json(&["tenant", "activate", &slug])["status"], "active");
}

#[tokio::test]
async fn a_password_may_come_from_standard_input_and_is_not_printed() {
    let site = Site::new("stdin").await;
    let erp = site.module("erp", &["--isolation", "database"]);
    let slug = site.slug("acme");
    let create = ["tenant", "create", &slug, "--name", "A", "--modules", &erp, "--password-stdin", "--json"];
    let output = site.run_with_input(&create, "open sesame @/\n");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["password"], Value::Null);
    assert!(login(&made["modules"][0], "open sesame @/").await.is_ok());
    assert!(login(&made["modules"][0], "wrong").await.is_err());
    assert_eq!(site.run_with_input(&create, "\n").status.code(), Some(1));
}

#[tokio::test]
async fn what_cannot_be_done_is_said_in_one_line_and_by_exit_code() {
    let site = Site::new("fails").await;
    let ops = site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops")]);
    let slug = site.slug("acme");
    site.ok(&["tenant", "create", &slug, "--name", "Acme", "--alias", "other", "--modules", &ops]);
    for (expected, arguments) in [
        ("not found", &["tenant", "show", "nobody"][..]),
        ("not subscribed", &["tenant", "url", &slug, "--module", "finance"]),
        ("not found", &["tenant", "create", "x", "--name", "X", "--modules", "nothing"]),
        ("Acme", &["tenant", "create", &slug, "--name", "Another", "--modules", &ops]),
        ("isolation", &["tenant", "create", &slug, "--name", "Acme", "--modules", &ops, "--isolation", "database"]),
        ("alias", &["tenant", "create", "other", "--name", "Other", "--modules", &ops]),
        ("longer than 63", &["tenant", "create", &"x".repeat(60), "--name", "X", "--modules", &ops]),
        ("in use", &["server", "remove", "main"]),
        ("has tenants", &["module", "remove", &ops]),
        ("not found", &["server", "remove", "nothing"]),
        (
            "same name",
            &["module", "add", "m", "--isolation", "database", "--server", "main", "--database-pattern", "one"],
        ),
        (
            "{tenant}",
            &["module", "add", "m", "--isolation", "database", "--server", "main", "--role-pattern", "{tenant}"],
        ),
    ] {
        let said = site.fails(1, arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    for arguments in [
        &["tenant", "create", "Upper", "--name", "X", "--modules", &ops][..],
        &["tenant", "create", "x", "--modules", &ops],
        &["module", "add", "m", "--isolation", "schema", "--server", "main"],
        &["module", "add", "m", "--isolation", "sideways", "--server", "main"],
        &["tenant", "frobnicate"],
        &["server", "add", "s", "--host", "h", "--admin-secret", "hunter2"],
    ] {
        site.fails(2, arguments);
    }
    assert_eq!(site.count("SELECT count(*) FROM pgtenant.tenants").await, 1, "nothing was left by what failed");
}

#[tokio::test]
async fn a_tenant_that_could_not_be_made_whole_is_finished_by_the_next_run() {
    let site = Site::new("unfinished").await;
    let erp = site.module("erp", &["--isolation", "database"]);
    let port = support::cluster().await.port().to_string();
    let host = support::cluster().await.host();
    site.ok(&["server", "add", "away", "--host", host, "--port", &port, "--admin-secret", "env:PGTENANT_TEST_NOWHERE"]);
    let remote = site.module("remote", &["--isolation", "database"]);
    site.ok(&["module", "add", &remote, "--isolation", "database", "--server", "away"]);
    let slug = site.slug("acme");
    let modules = format!("{erp},{remote}");
    let create = ["tenant", "create", &slug, "--name", "Acme", "--modules", &modules, "--json"];
    let output = site.run(&create);
    assert_eq!(output.status.code(), Some(1));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let password = made["password"].as_str().expect("the password is shown, as nobody can be told it again");
    let status = |tenant: &Value| -> Vec<String> {
        tenant["modules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|module| module["status"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(status(&made), ["ready", "provisioning"]);
    assert_eq!(site.json(&["tenant", "show", &slug])["status"], "provisioning");
    assert_eq!(site.count("SELECT count(*) FROM tenant_module_log WHERE status = 'failed'").await, 1);
    assert!(site.fails(1, &["tenant", "activate", &slug]).contains("not provisioned"));
    let secret = site.secret("admin");
    site.ok(&["server", "add", "away", "--host", host, "--port", &port, "--admin-secret", &secret]);
    let done = site.json(&["tenant", "reconcile"]);
    assert_eq!(status(&done[0]), ["ready", "ready"]);
    assert_eq!(done[0]["status"], "active");
    for module in done[0]["modules"].as_array().unwrap() {
        login(module, password).await.unwrap();
    }
}

/// Everything a run waits for is an advisory lock that a test can hold: the run is killed at each of them in turn.
#[tokio::test]
async fn a_run_that_is_killed_anywhere_is_finished_by_the_next() {
    let site = Site::new("killed").await;
    let database = site.slug("ops");
    std::fs::write(site.files.path().join("1_t.sql"), "CREATE TABLE t (n int)").unwrap();
    let directory = site.files.path().to_str().unwrap();
    let ops = site.module("ops", &["--isolation", "schema", "--database", &database, "--migrations", directory]);
    let slug = site.slug("acme");
    let create = ["tenant", "create", &slug, "--name", "Acme", "--modules", &ops, "--json"];
    let schema = format!("{ops}_{slug}");
    for word in ["roles", &database, "bookkeeping", &format!("place:{schema}")] {
        // The last two are in the module's own database, which the steps before have made by then.
        let own = if word == "roles" || word == database { &site.registry.name } else { &database };
        if own == &database && !exists(&site, &database).await {
            site.registry.admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        }
        let holder = support::cluster().await.connect(own).await.unwrap();
        let lock = "SELECT pg_advisory_lock(hashtextextended('pgtenant:' || $1, 0))";
        holder.query(lock, &[&word]).await.unwrap();
        let mut run = site.command(&create).stdout(Stdio::null()).spawn().unwrap();
        let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        while holder.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            assert!(run.try_wait().unwrap().is_none(), "the run ended before it came to \"{word}\"");
            tokio::task::yield_now().await;
        }
        run.kill().unwrap();
        run.wait().unwrap();
        holder.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    }
    assert_eq!(site.json(&["tenant", "show", &slug])["status"], "provisioning");
    let done = site.json(&create[..create.len() - 1]);
    assert_eq!(done["modules"][0]["status"], "ready");
    assert_eq!(site.json(&["tenant", "show", &slug])["status"], "active");
    assert_eq!(site.count("SELECT count(*) FROM pgtenant.tenants").await, 1);
    assert_eq!(site.count("SELECT count(*) FROM pgtenant.logins").await, 1);
    assert_eq!(site.count("SELECT count(*) FROM tenant_module_log WHERE status = 'provisioned'").await, 1);
}

async fn exists(site: &Site, database: &str) -> bool {
    let found = "SELECT count(*) > 0 FROM pg_database WHERE datname = $1";
    site.registry.admin.query_one(found, &[&database]).await.unwrap().get(0)
}

#[tokio::test]
async fn check_names_each_thing_that_is_wrong() {
    let site = Site::new("check").await;
    let ops = site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops")]);
    let shop = site.module("shop", &["--isolation", "shared", "--pooling", "shared", "--database", &site.slug("shop")]);
    let slug = site.slug("acme");
    site.ok(&["tenant", "create", &slug, "--name", "Acme", "--modules", &format!("{ops},{shop}")]);
    assert_eq!(site.json(&["check"]), serde_json::json!([]));
    let place = support::cluster().await.connect(&site.slug("ops")).await.unwrap();
    place.batch_execute(&format!("DROP SCHEMA {ops}_{slug}")).await.unwrap();
    site.write_secret("app", &format!("postgres://{}_service:wrong@localhost", site.name));
    site.ok(&["server", "add", "away", "--host", "127.0.0.1", "--port", "1", "--admin-secret", &site.secret("admin")]);
    let output = site.run(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[0].starts_with("server away: "), "{said}");
    assert!(said.contains(&format!("tenant {slug} module {ops}: schema")), "{said}");
    assert!(said.contains("password"), "{said}");
    assert!(!said.contains("wrong"), "{said}");
}

#[tokio::test]
async fn check_reads_the_whole_configuration_and_a_registry_file() {
    let site = Site::new("file").await;
    let port = support::cluster().await.port();
    let secret = site.secret("admin");
    let file = site.files.path().join("tenants.toml");
    let database = &site.registry.name;
    let tenants = format!(
        r#"
        [[server]]
        name = "main"
        host = "127.0.0.1"
        port = {port}
        admin_secret = "{secret}"
        [[module]]
        name = "crm"
        isolation = "schema"
        server = "main"
        database = "{database}"
        [[tenant]]
        id = "0190b5a0-0000-7000-8000-00000000000a"
        slug = "acme"
        name = "Acme"
        aliases = ["krn:x"]
        [[tenant.placement]]
        module = "crm"
        schema = "crm_acme"
        role = "{database}_r"
        "#
    );
    std::fs::write(&file, tenants).unwrap();
    let registry = file.to_str().unwrap();
    let read = |arguments: &[&str]| site.json(&[arguments, &["--registry", registry]].concat());
    assert_eq!(read(&["tenant", "show", "krn:x"])["slug"], "acme");
    assert_eq!(read(&["tenant", "list"])[0]["modules"][0]["schema"], "crm_acme");
    assert_eq!(read(&["module", "list"])[0]["name"], "crm");
    assert!(site.fails(1, &["tenant", "suspend", "acme", "--registry", registry]).contains("editor"));
    // The schema is not there; then it is, and what is wrong is the configuration.
    let config = site.files.path().join("pgtenant.toml");
    let with = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let mut check = site.command(&["check", "--json", "--config", config.to_str().unwrap()]);
        let output = check.env_remove("PGTENANT_REGISTRY").output().unwrap();
        let problems: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(i32::from(problems != serde_json::json!([]))));
        problems
    };
    let problems = with("[registry]\nfile = 'tenants.toml'");
    assert_eq!((problems.as_array().unwrap().len(), &problems[0]["what"]), (1, &Value::from("tenant acme module crm")));
    site.registry.admin.batch_execute("CREATE SCHEMA crm_acme").await.unwrap();
    assert_eq!(with("[registry]\nfile = 'tenants.toml'"), serde_json::json!([]));
    let problems =
        with("[registry]\nfile = 'tenants.toml'\n[listen]\ntls_certificate = 'none.crt'\ntls_key = 'none.key'");
    assert_eq!(problems[0]["what"], "configuration");
    assert!(problems[0]["problem"].as_str().unwrap().starts_with("listen.tls_certificate"), "{problems}");
    let problems = with("[registry]\nfiel = 'tenants.toml'");
    assert!(problems[0]["problem"].as_str().unwrap().contains("registry.file"), "{problems}");
}

#[tokio::test]
async fn the_flag_names_the_registry_before_the_variable_and_the_variable_before_the_file() {
    let site = Site::new("precedence").await;
    let config = site.files.path().join("pgtenant.toml");
    std::fs::write(&config, "[registry]\nfile = 'nowhere.toml'").unwrap();
    let config = config.to_str().unwrap();
    let (url, elsewhere) = (site.registry.url.as_str(), "elsewhere.toml");
    // What `check` says of the configuration and of the registry, and so what `serve` starts from.
    let problems = |flag: Option<&str>, variables: &[(&str, &str)]| -> String {
        let mut check = site.command(&["check", "--json", "--config", config]);
        check.env_remove("PGTENANT_REGISTRY").envs(variables.iter().copied());
        let output = check.args(flag.iter().flat_map(|flag| ["--registry", *flag])).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(problems(Some(url), &[("PGTENANT_REGISTRY", elsewhere)]), "[]");
    assert_eq!(problems(None, &[("PGTENANT_REGISTRY", url)]), "[]");
    assert_eq!(problems(None, &[("PGTENANT_REGISTRY", url), ("PGTENANT_REGISTRY_FILE", elsewhere)]), "[]");
    assert_eq!(problems(None, &[("PGTENANT_REGISTRY_URL", url)]), "[]");
    assert!(problems(Some(elsewhere), &[("PGTENANT_REGISTRY", url)]).contains("elsewhere.toml"));
    assert!(problems(None, &[("PGTENANT_REGISTRY", elsewhere)]).contains("elsewhere.toml"));
    assert!(problems(None, &[("PGTENANT_REGISTRY", "")]).contains("nowhere.toml"), "empty counts as absent");
    // Words as libpq knows them are no file's name.
    let cluster = support::cluster().await;
    let words = format!(
        "host={} port={} dbname={} user={} password={}",
        cluster.host(),
        cluster.port(),
        site.registry.name,
        cluster.superuser(),
        cluster.password()
    );
    assert_eq!(problems(None, &[("PGTENANT_REGISTRY", &words)]), "[]");
}
