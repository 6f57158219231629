//! A registry with one module of each kind on the shared server, made by the program's own commands, and tenants in it.

use std::path::PathBuf;
use std::process::Stdio;

use pgtenant::cluster::Cluster;
use pgtenant::tenant::quote_ident;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::postgres::{cluster, database, unique};

/// Never dropped, like the server: its directory is in the system's temporary directory.
static WORLD: OnceCell<World> = OnceCell::const_new();

/// The modules of the world: name, isolation, pooling.
pub(crate) const MODULES: [(&str, &str, &str); 5] = [
    ("crm", "database", "per-tenant"),
    ("operations", "schema", "per-tenant"),
    ("shop", "schema", "shared"),
    ("ledger", "shared", "per-tenant"),
    ("stock", "shared", "shared"),
];

/// Every tenant's place has this table with one row: the tenant's slug.
const NOTES: &str = "CREATE TABLE notes (id serial PRIMARY KEY, note text NOT NULL)";
/// The same for rows in common tables.
const COMMON_NOTES: &str = "CREATE TABLE notes (id serial PRIMARY KEY, tenant_id uuid NOT NULL, note text NOT NULL)";

/// One registry, five modules.
pub(crate) struct World {
    /// The registry's URL.
    pub(crate) registry: String,
    /// Distinguishes this world's databases from those of other tests.
    prefix: String,
    cluster: &'static Cluster,
}

/// A tenant of the world, subscribed to all modules.
pub(crate) struct Tenant {
    pub(crate) slug: String,
    pub(crate) id: String,
    /// Of its login `app`.
    pub(crate) password: String,
    /// By module: what `create --json` printed.
    pub(crate) modules: Vec<Value>,
}

/// The world that all tests share.
pub(crate) async fn world() -> &'static World {
    WORLD.get_or_init(World::new).await
}

impl World {
    async fn new() -> Self {
        Self::on(cluster().await).await
    }

    /// One with its own registry, whose tenants live on this server.
    pub(crate) async fn on(cluster: &'static Cluster) -> Self {
        Self::made(cluster, database("registry").await.url).await
    }

    /// One over an empty registry of the test's own, which it may stop; its tenants live on the shared server.
    pub(crate) async fn over(registry: String) -> Self {
        Self::made(cluster().await, registry).await
    }

    async fn made(cluster: &'static Cluster, registry: String) -> Self {
        let prefix = unique("world");
        let directory: PathBuf = tempfile::tempdir().expect("a directory").keep();
        let secret = directory.join("secret.json");
        let json = serde_json::json!({
            "admin_username": "postgres", "admin_password": cluster.password(),
            "app_username": format!("{prefix}_service"), "app_password": "of the service",
        });
        std::fs::write(&secret, json.to_string()).expect("write the secret");
        let secret = format!("file:{}", secret.display());
        let world = Self { registry, prefix, cluster };
        world.run(&["registry", "init"]).await;
        let port = cluster.port().to_string();
        let server = ["server", "add", "main", "--host", cluster.host(), "--port", &port];
        world.run(&[&server[..], &["--admin-secret", &secret, "--app-secret", &secret]].concat()).await;
        for (module, isolation, pooling) in MODULES {
            let migrations = directory.join(module);
            std::fs::create_dir(&migrations).expect("a directory");
            let sql = if isolation == "shared" { COMMON_NOTES } else { NOTES };
            std::fs::write(migrations.join("0001_notes.sql"), sql).expect("write a migration");
            let database = format!("{}_{module}", world.prefix);
            let migrations = migrations.display().to_string();
            let mut arguments = vec!["module", "add", module, "--isolation", isolation, "--pooling", pooling];
            arguments.extend(["--server", "main", "--database", &database, "--migrations", &migrations]);
            let pattern = format!("{database}_{{slug}}");
            let alias = format!("old_{module}");
            arguments.extend(["--database-pattern", &pattern, "--alias", &alias]);
            world.run(&arguments).await;
        }
        world
    }

    /// Runs the program with this registry; its standard output. It must succeed.
    pub(crate) async fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().await.expect("run pgtenant");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pgtenant {arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The program with this registry.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgtenant"));
        command.args(arguments).env("PGTENANT_REGISTRY", &self.registry).stdin(Stdio::null());
        command
    }

    /// A new tenant in all modules, with its slug in each `notes`.
    pub(crate) async fn tenant(&self, prefix: &str) -> Tenant {
        self.tenant_with(&unique(prefix), &[]).await
    }

    /// The same with a slug of the caller's, which must be unique, and further arguments of `tenant create`.
    pub(crate) async fn tenant_with(&self, slug: &str, arguments: &[&str]) -> Tenant {
        self.tenant_in(slug, &MODULES.map(|(module, _, _)| module), arguments).await
    }

    /// A new tenant of some of the modules only, with a slug of its own.
    pub(crate) async fn tenant_of(&self, prefix: &str, modules: &[&str]) -> Tenant {
        self.tenant_in(&unique(prefix), modules, &[]).await
    }

    /// A new tenant in these modules only.
    pub(crate) async fn tenant_in(&self, slug: &str, modules: &[&str], arguments: &[&str]) -> Tenant {
        let modules = modules.join(",");
        let create = ["tenant", "create", slug, "--name", slug, "--modules", &modules, "--json"];
        let printed = self.run(&[&create, arguments].concat()).await;
        let made: Value = serde_json::from_str(&printed).expect("JSON");
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let tenant = Tenant {
            id: text(&made["tenant_id"]),
            password: text(&made["password"]),
            modules: made["modules"].as_array().expect("an array").clone(),
            slug: slug.to_owned(),
        };
        for module in &tenant.modules {
            let admin = self.cluster.connect(&text(&module["database"])).await.expect("connect");
            let schema = module["schema"].as_str().unwrap_or("public");
            let common = module["isolation"] == "shared";
            let (columns, id) =
                if common { ("tenant_id, note", format!("'{}', ", tenant.id)) } else { ("note", String::new()) };
            let insert = format!("INSERT INTO {}.notes ({columns}) VALUES ({id}$1)", quote_ident(schema));
            admin.execute(&insert, &[&tenant.slug]).await.expect("insert a note");
        }
        tenant
    }
}

impl Tenant {
    /// What `create --json` printed of a module.
    pub(crate) fn module(&self, module: &str) -> &Value {
        self.modules.iter().find(|found| found["module"] == module).expect("a module of the world")
    }

    /// A word of what `create --json` printed of a module: `database`, `schema`, `role`.
    pub(crate) fn place(&self, module: &str, what: &str) -> &str {
        self.module(module)[what].as_str().unwrap_or("public")
    }

    /// The user name that names the tenant.
    pub(crate) fn user(&self) -> String {
        format!("app@{}", self.slug)
    }
}
