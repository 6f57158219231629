//! A module of a test's own with its migrations, and tenants that have it.

use std::process::{Child, Stdio};

use serde_json::Value;
use tokio_postgres::Client;

use crate::commands::site::Site;
use crate::support::{self, until};

/// A registry with one module, and a directory of migrations for it.
pub(super) struct Fleet {
    pub(super) site: Site,
    pub(super) module: String,
    pub(super) tenants: Vec<Value>,
}

impl Fleet {
    /// Tenants with schemas of their own in one database, made before there is any migration.
    pub(super) async fn new(prefix: &str, slugs: &[&str]) -> Self {
        Self::with(prefix, &["--isolation", "schema"], slugs).await
    }

    /// The same, of another kind.
    pub(super) async fn with(prefix: &str, flags: &[&str], slugs: &[&str]) -> Self {
        let site = Site::new(prefix).await;
        let directory = site.files.path().join("migrations");
        std::fs::create_dir(&directory).unwrap();
        let database = site.slug("ops");
        let common = ["--migrations", directory.to_str().unwrap()];
        let own = if flags.contains(&"database") { vec![] } else { vec!["--database", &database] };
        let module = site.module("ops", &[flags, &common, &own].concat());
        let mut fleet = Self { site, module, tenants: Vec::new() };
        for slug in slugs {
            fleet.add(slug);
        }
        fleet
    }

    /// One tenant more, with what migrations there are.
    pub(super) fn add(&mut self, slug: &str) {
        let slug = self.site.slug(slug);
        let made = self.site.json(&["tenant", "create", &slug, "--name", &slug, "--modules", &self.module]);
        self.tenants.push(made);
    }

    /// Writes a migration.
    pub(super) fn file(&self, name: &str, sql: &str) {
        std::fs::write(self.site.files.path().join("migrations").join(name), sql).unwrap();
    }

    pub(super) fn remove(&self, name: &str) {
        std::fs::remove_file(self.site.files.path().join("migrations").join(name)).unwrap();
    }

    /// Runs `migrate` with these arguments; its exit code and its JSON.
    pub(super) fn migrate(&self, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
        let output = self.site.run(&[&["migrate"], arguments, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        let result = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {said}"));
        (output.status.code(), result)
    }

    /// Runs `migrate`, which must succeed; what it says of each tenant: result, files applied, version.
    pub(super) fn migrated(&self, arguments: &[&str]) -> Vec<(String, i64, Option<i64>)> {
        let (code, result) = self.migrate(arguments);
        assert_eq!(code, Some(0), "{result:?}");
        results(&result)
    }

    /// Begins a run, to be looked at or killed.
    pub(super) fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.site.command(&[&["migrate"], arguments, &["--json"]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A superuser in the database of a tenant.
    pub(super) async fn database(&self, tenant: usize) -> Client {
        let database = self.tenants[tenant]["modules"][0]["database"].as_str().unwrap();
        support::cluster().await.connect(database).await.unwrap()
    }

    /// The schema of a tenant.
    pub(super) fn schema(&self, tenant: usize) -> &str {
        self.tenants[tenant]["modules"][0]["schema"].as_str().unwrap_or("public")
    }

    /// The one number that a query gives, with `{}` for the tenant's schema.
    pub(super) async fn number(&self, tenant: usize, sql: &str) -> i64 {
        let sql = sql.replace("{}", self.schema(tenant));
        self.database(tenant).await.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// Does something in a tenant's place as its owner.
    pub(super) async fn as_owner(&self, tenant: usize, sql: &str) {
        let (client, schema) = (self.database(tenant).await, self.schema(tenant));
        let owner = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = $1";
        let owner: String = client.query_one(owner, &[&schema]).await.unwrap().get(0);
        client.batch_execute(&format!("SET ROLE {owner}; SET search_path = {schema}; {sql}")).await.unwrap();
    }
}

/// What a run said of each tenant.
pub(super) fn results(result: &[Value]) -> Vec<(String, i64, Option<i64>)> {
    let read = |place: &Value| {
        (place["status"].as_str().unwrap().to_owned(), place["applied"].as_i64().unwrap(), place["version"].as_i64())
    };
    result.iter().map(read).collect()
}

/// The same of one tenant, as it is expected.
pub(super) fn result(status: &str, applied: i64, version: impl Into<Option<i64>>) -> (String, i64, Option<i64>) {
    (status.to_owned(), applied, version.into())
}

/// Waits until this many sessions of a database wait for a lock.
pub(super) async fn until_waiting(client: &Client, sessions: i64) {
    until("sessions wait", async || {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) >= sessions
    })
    .await;
}
