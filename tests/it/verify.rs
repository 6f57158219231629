//! `pgtenant verify isolation`: every isolation at every pooling holds what it promises; a set-up that was broken does not.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgtenant::cluster::Cluster;
use serde_json::Value;

use crate::commands::site::{Site, keys};
use crate::support::{cluster, until};

/// What a run says, with its exit code.
fn verify(site: &Site, arguments: &[&str]) -> (i32, Vec<Value>) {
    let output = site.run(&[&["verify", "isolation", "--json"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    let findings = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code().expect("an exit code"), findings)
}

fn text<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding[key].as_str().expect("a text")
}

fn is_documented(finding: &Value) -> bool {
    text(finding, "detail").contains("documented: ")
}

#[tokio::test]
async fn every_isolation_at_every_pooling_and_mode_holds_what_it_promises() {
    let site = Site::new("verify").await;
    let (code, findings) = verify(&site, &[]);
    let broken: Vec<_> = findings.iter().filter(|found| found["result"] == "leaks" && !is_documented(found)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(code, 0);
    let ground = |found| (text(found, "isolation"), text(found, "pooling"), text(found, "pool_mode"));
    let grounds: BTreeSet<_> = findings.iter().map(ground).collect();
    let kinds = [
        ("database", "per-tenant"),
        ("schema", "per-tenant"),
        ("schema", "shared"),
        ("shared", "per-tenant"),
        ("shared", "shared"),
    ];
    let all: BTreeSet<_> = kinds
        .iter()
        .flat_map(|(isolation, pooling)| ["session", "transaction"].map(|mode| (*isolation, *pooling, mode)))
        .collect();
    assert_eq!(grounds, all);
    let checks: BTreeSet<_> = findings.iter().map(|found| text(found, "check")).collect();
    assert_eq!(findings.len(), checks.len() * all.len(), "each check on each ground, once");
    for finding in &findings {
        assert_eq!(keys(finding), ["check", "detail", "isolation", "pool_mode", "pooling", "result"]);
        assert!(["holds", "leaks", "not applicable"].contains(&text(finding, "result")), "{finding}");
        // Of connections of their own nothing is documented but what PostgreSQL keeps by database.
        assert!(
            finding["result"] != "leaks" || finding["pooling"] == "shared" || finding["isolation"] != "database",
            "{finding}"
        );
    }
    // The registry has heard nothing of it.
    assert_eq!(site.count("SELECT count(*) FROM pgtenant.tenants").await, 0);
    assert_eq!(site.count("SELECT count(*) FROM pgtenant.modules").await, 0);
    let service = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{}_service'", site.name);
    assert_eq!(site.count(&service).await, 0, "a service login that was there for the probes alone");
}

/// The result and detail of the only finding of a check.
fn result<'a>(findings: &'a [Value], check: &str) -> (&'a str, &'a str) {
    let mut found = findings.iter().filter(|found| found["check"] == check);
    let one = found.next().unwrap_or_else(|| panic!("nothing of {check}"));
    assert!(found.next().is_none(), "{check} twice");
    (text(one, "result"), text(one, "detail"))
}

/// A module whose own files open its places to all.
#[tokio::test]
async fn tables_that_a_modules_own_files_open_to_everyone_are_read_by_the_probes() {
    let site = Site::new("opened").await;
    let directory = site.files.path().join("open");
    std::fs::create_dir(&directory).unwrap();
    let open = "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; GRANT USAGE ON SCHEMA {schema} TO PUBLIC";
    std::fs::write(directory.join("0001_open.sql"), open).unwrap();
    let (database, migrations) = (site.slug("ops"), directory.display().to_string());
    let module = site.module("ops", &["--isolation", "schema", "--database", &database, "--migrations", &migrations]);
    let (code, findings) = verify(&site, &["--module", &module, "--pool-mode", "session"]);
    assert_eq!(code, 1);
    let (leaks, detail) = result(&findings, "another's tables by their full names");
    assert!(leaks == "leaks" && detail.contains("SELECT * FROM ") && !detail.contains("documented"), "{detail}");
    assert_eq!(result(&findings, "search_path set to another's schema").0, "leaks");
    assert_eq!(result(&findings, "rights and roles given to oneself").0, "holds");
    assert_eq!(schemas_in(&database).await, ["public", "pgtenant"], "the probes' schemas are gone");
}

#[tokio::test]
async fn rights_across_tenants_given_by_hand_and_policies_dropped_are_leaks() {
    let site = Site::new("byhand").await;
    let directory = site.files.path().join("notes");
    std::fs::create_dir(&directory).unwrap();
    let schemas = site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops")]);
    std::fs::write(directory.join("0001_notes.sql"), "CREATE TABLE notes (tenant_id uuid NOT NULL, note text)")
        .unwrap();
    let migrations = directory.display().to_string();
    let rows = ["--isolation", "shared", "--database", &site.slug("shop"), "--migrations", &migrations];
    let rows = site.module("shop", &rows);
    let modules = format!("{schemas},{rows}");
    for slug in ["acme", "globex"] {
        site.ok(&["tenant", "create", &site.slug(slug), "--name", slug, "--modules", &modules]);
    }
    let arguments = ["--module", &schemas, "--module", &rows, "--pool-mode", "transaction"];
    let (code, findings) = verify(&site, &arguments);
    assert_eq!(
        (code, result(&findings, RIGHTS).0, result(&findings, POLICIES).0),
        (0, "holds", "holds"),
        "{findings:#?}"
    );
    const TABLES: &str = "the module's own tables, read by a tenant without rows";
    assert!(findings.iter().any(|found| found["check"] == TABLES && found["result"] == "holds"), "{findings:#?}");
    let ops = cluster().await.connect(&site.slug("ops")).await.unwrap();
    let (schema, other) = (format!("{schemas}_{}", site.slug("acme")), format!("{}_app", site.slug("globex")));
    ops.batch_execute(&format!("GRANT USAGE ON SCHEMA {schema} TO {other}")).await.unwrap();
    let shop = cluster().await.connect(&site.slug("shop")).await.unwrap();
    // The policy is put back when the probes are made, by the name that it had; this view of the superuser's goes on to look past it.
    shop.batch_execute(&format!(
        "DROP POLICY pgtenant_tenant ON {rows}.notes; \
         INSERT INTO {rows}.notes SELECT gen_random_uuid(), 'somebody''s'; \
         CREATE VIEW {rows}.past AS SELECT * FROM {rows}.notes; GRANT SELECT ON {rows}.past TO PUBLIC"
    ))
    .await
    .unwrap();
    let (code, findings) = verify(&site, &arguments);
    assert_eq!(code, 1);
    let (leaks, detail) = result(&findings, RIGHTS);
    assert!(leaks == "leaks" && detail.contains(&format!("{other} has USAGE on schema {schema}")), "{detail}");
    let (leaks, detail) = result(&findings, POLICIES);
    assert!(leaks == "leaks" && detail.contains("table notes has no row policy"), "{detail}");
    assert!(detail.contains("view past is read as postgres"), "{detail}");
    let seen = |found: &&Value| found["check"] == TABLES && found["result"] == "leaks";
    assert!(text(findings.iter().find(seen).expect("a leak"), "detail").contains(".past"));
}

const RIGHTS: &str = "rights between the tenants that are there";
const POLICIES: &str = "row policies of the tables that are there";

/// The schemas of a database that are not PostgreSQL's own.
async fn schemas_in(database: &str) -> Vec<String> {
    let client = cluster().await.connect(database).await.unwrap();
    let sql = "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY oid";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_common_pool_that_switches_roles_holds_what_it_promises() {
    let site = Site::new("switch").await;
    let kinds = ["schema", "shared"].map(|isolation| {
        let database = site.slug(isolation);
        let flags = ["--isolation", isolation, "--database", &database, "--pooling", "shared", "--set-role"];
        site.module(isolation, &flags)
    });
    let (code, findings) = verify(&site, &["--module", &kinds[0], "--module", &kinds[1]]);
    let broken: Vec<_> = findings.iter().filter(|found| found["result"] == "leaks" && !is_documented(found)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(code, 0);
}

#[tokio::test]
async fn what_cannot_be_verified_is_said_in_one_line() {
    let site = Site::new("cannot").await;
    assert!(site.fails(1, &["verify", "isolation", "--server", "nowhere"]).contains("\"nowhere\""));
    assert!(site.fails(1, &["verify", "isolation", "--module", "nothing"]).contains("\"nothing\""));
    site.ok(&["server", "add", "bare", "--host", "127.0.0.1", "--port", "1"]);
    assert!(site.fails(1, &["verify", "isolation", "--server", "bare"]).contains("no admin secret"));
    site.fails(2, &["verify", "isolation", "--server"]);
    site.fails(2, &["verify", "isolation", "--pool-mode", "statement"]);
}

/// A server of the test's own, where nobody else's runs are, and a registry file that knows it.
struct Own {
    cluster: Cluster,
    admin: tokio_postgres::Client,
    files: tempfile::TempDir,
}

impl Own {
    async fn start() -> Self {
        let cluster = Cluster::builder().start().await.unwrap();
        let admin = cluster.connect("postgres").await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let secret = files.path().join("secret.json");
        let json = serde_json::json!({
            "admin_username": "postgres", "admin_password": cluster.password(),
            "app_username": "service", "app_password": "of the service",
        });
        std::fs::write(&secret, json.to_string()).unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let registry = format!(
            "[[server]]\nname = 'main'\nhost = '{}'\nport = {}\nadmin_secret = 'file:{secret}'\napp_secret = 'file:{secret}'\n",
            cluster.host(),
            cluster.port(),
            secret = secret.display(),
        );
        std::fs::write(files.path().join("registry.toml"), registry).unwrap();
        Self { cluster, admin, files }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgtenant"));
        command
            .args(["verify", "isolation", "--pool-mode", "transaction"])
            .env("PGTENANT_REGISTRY", self.files.path().join("registry.toml"));
        command.env_remove("PGTENANT_CONFIG").stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// How many databases and roles of probes there are.
    async fn probes(&self) -> i64 {
        let sql = "SELECT (SELECT count(*) FROM pg_database WHERE datname LIKE 'pgtenant\\_verify\\_%') \
                        + (SELECT count(*) FROM pg_roles WHERE rolname LIKE '%pgtenant\\_verify\\_%')";
        self.admin.query_one(sql, &[]).await.unwrap().get(0)
    }
}

#[tokio::test]
async fn a_run_that_is_interrupted_leaves_nothing_and_one_that_is_killed_is_cleaned_up_after_by_the_next() {
    let own = Own::start().await;
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut run = own.command().spawn().unwrap();
        until("a probe", async || own.probes().await > 0).await;
        kill(Pid::from_raw(run.id().cast_signed()), signal).unwrap();
        let status = run.wait().unwrap();
        if signal == Signal::SIGINT {
            assert_eq!(status.code(), Some(1));
            assert_eq!(own.probes().await, 0, "after an interrupt");
        }
    }
    assert!(own.probes().await > 0, "nothing can be done about SIGKILL");
    let next = own.command().stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&next.stderr);
    assert!(next.status.success() && said.contains("left by a run that was killed"), "{said}");
    assert_eq!(own.probes().await, 0, "after the next run");
    own.cluster.stop().await.unwrap();
}
