//! Service databases with old registries in them.

use pgtenant::tenant::quote_literal;
use serde_json::Value;
use tokio_postgres::Client;

use crate::commands::site::Site;
use crate::support;

/// A service's database, with its own table of tenants and their schemas.
pub(super) struct Old {
    pub(super) module: String,
    pub(super) database: String,
    pub(super) url: String,
    pub(super) client: Client,
}

/// The table as the systems of SYSTEMS.md have it; `%` is the module's name.
const TABLE: &str = r#"CREATE TABLE public.tenant_registry (tenant_id uuid PRIMARY KEY, tenant_slug text, tenant_name text,
    modules_subscribed text[], "%_schema" text, is_active boolean DEFAULT true)"#;

impl Old {
    /// A database and a module for it, without a table.
    pub(super) async fn bare(site: &Site, kind: &str) -> Self {
        let database = site.slug(kind);
        site.registry.admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        let module = site.module(kind, &["--isolation", "schema", "--database", &database]);
        let cluster = support::cluster().await;
        let (url, client) = (cluster.superuser_url(&database), cluster.connect(&database).await.unwrap());
        Self { module, database, url, client }
    }

    /// The same with an empty table.
    pub(super) async fn new(site: &Site, kind: &str) -> Self {
        let old = Self::bare(site, kind).await;
        old.run(&TABLE.replace('%', &old.module)).await;
        old
    }

    pub(super) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// A schema with a table `notes` in which its name is the only row.
    pub(super) async fn schema(&self, schema: &str) {
        let note = quote_literal(schema);
        self.run(&format!(
            "CREATE SCHEMA \"{schema}\"; CREATE TABLE \"{schema}\".notes (id serial, note text NOT NULL); \
             INSERT INTO \"{schema}\".notes (note) VALUES ({note})"
        ))
        .await;
    }

    /// A tenant that subscribes to this module, with its schema.
    pub(super) async fn tenant(&self, id: &str, slug: &str, name: &str, schema: &str) {
        self.schema(schema).await;
        self.row(id, slug, name, schema).await;
    }

    /// The same without making the schema.
    pub(super) async fn row(&self, id: &str, slug: &str, name: &str, schema: &str) {
        let sql = format!(
            "INSERT INTO public.tenant_registry VALUES ({}, {}, {}, ARRAY[{}], {})",
            quote_literal(id),
            quote_literal(slug),
            quote_literal(name),
            quote_literal(&self.module),
            quote_literal(schema)
        );
        self.run(&sql).await;
    }

    /// The flags that name it.
    pub(super) fn flags(&self) -> [&str; 4] {
        ["--source", &self.url, "--module", &self.module]
    }
}

/// Ids that are told apart by their last digits.
pub(super) fn id(n: u32) -> String {
    format!("11111111-2222-4333-8444-{n:012}")
}

/// `registry COMMAND` with these sources and further flags.
pub(super) fn command<'a>(command: &'a str, sources: &[&'a Old], flags: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["registry", command];
    arguments.extend(sources.iter().flat_map(|old| old.flags()));
    arguments.extend(flags);
    arguments
}

/// Runs a command that must fail with code 1; what it printed as JSON.
pub(super) fn refused(site: &Site, arguments: &[&str]) -> Value {
    let output = site.run(&[arguments, &["--json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Kinds and tenants of conflicts, sorted.
pub(super) fn kinds(refused: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let conflicts = refused["conflicts"].as_array().unwrap();
    let mut kinds: Vec<_> = conflicts.iter().map(|found| (text(&found["tenant"]), text(&found["kind"]))).collect();
    kinds.sort();
    kinds
}

/// How many imports are recorded.
pub(super) async fn imports(site: &Site) -> i64 {
    site.count("SELECT count(*) FROM pgtenant.imports").await
}
