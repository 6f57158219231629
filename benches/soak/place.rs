//! Three servers (the registry's and two for tenants), modules of every kind, their tenants, and what the program's commands do to them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pgtenant::cluster::Cluster;
use pgtenant::net::tls::client_config;
use pgtenant::tenant::{SslMode, quote_ident};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::owner::{self, Owner};

/// Most sessions of each tenants' server: fewer than all pools may have, so that they share.
const CONNECTIONS_MAX: &str = "48";
/// Connections of a pool whose clients keep theirs for a session: all tenants' of one kind may be there at a time.
const SESSION_POOL_SIZE: &str = "16";
/// Files of the proxies' certificate.
pub(crate) const CERTIFICATE: &str = "certificate.pem";
pub(crate) const KEY: &str = "key.pem";
/// Longest time for a command, or for a query of our own.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Every tenant's place has this table; each row has the tenant's slug.
const NOTES: &str = "CREATE TABLE notes (id bigserial PRIMARY KEY, note text NOT NULL)";
/// The same for rows in common tables.
const COMMON_NOTES: &str = "CREATE TABLE notes (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL, note text NOT NULL)";

/// A module: an isolation, a kind of pools, and where its places are.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: &'static str,
    pub(crate) isolation: &'static str,
    pooling: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) server: &'static str,
}

impl Module {
    const fn new(
        name: &'static str,
        isolation: &'static str,
        pooling: &'static str,
        mode: &'static str,
        server: &'static str,
    ) -> Self {
        Self { name, isolation, pooling, mode, server }
    }
}

pub(crate) const MODULES: [Module; 6] = [
    Module::new("crm", "database", "per-tenant", "transaction", "one"),
    Module::new("operations", "schema", "per-tenant", "session", "two"),
    Module::new("shop", "schema", "shared", "transaction", "one"),
    Module::new("desk", "schema", "shared", "session", "two"),
    Module::new("ledger", "shared", "per-tenant", "transaction", "two"),
    Module::new("stock", "shared", "shared", "transaction", "one"),
];

/// The tenant that is suspended and activated.
pub(crate) const SUSPENDED: &str = "ebb";
/// The tenant that is deleted and made again.
pub(crate) const REMADE: &str = "flux";
/// The tenant whose sessions are killed, held and let go.
pub(crate) const HELD: &str = "dune";
const SLUGS: [&str; 6] = ["acme", "bolt", "cube", HELD, SUSPENDED, REMADE];

/// A tenant of all modules.
pub(crate) struct Tenant {
    pub(crate) slug: &'static str,
    /// Of its login `app`: another one after the tenant was made again.
    password: Mutex<String>,
}

impl Tenant {
    pub(crate) fn password(&self) -> String {
        self.password.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where everything happens.
pub(crate) struct Place {
    /// The program.
    pub(crate) pgtenant: PathBuf,
    pub(crate) registry: Cluster,
    one: Cluster,
    two: Cluster,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) dir: PathBuf,
    /// With which clients talk TLS.
    pub(crate) tls: Arc<ClientConfig>,
    /// User and group that the proxy runs as, where we are root.
    pub(crate) owner: Owner,
}

impl Place {
    pub(crate) async fn make(pgtenant: &Path) -> Result<Self> {
        let pgtenant = pgtenant.canonicalize().with_context(|| format!("find {}", pgtenant.display()))?;
        let start = || Cluster::builder().setting("max_connections", "120").start();
        let (registry, one, two) = tokio::try_join!(start(), start(), start())?;
        registry.connect("postgres").await?.batch_execute("CREATE DATABASE registry").await?;
        let owner = owner::owner()?;
        let dir = owner::directory(&registry, owner)?;
        let tls = client_config(SslMode::Require, None)?.context("TLS for clients")?;
        let mut place = Self { pgtenant, registry, one, two, tenants: Vec::new(), dir, tls, owner };
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).context("make a certificate")?;
        place.write(CERTIFICATE, &made.cert.pem())?;
        place.write(KEY, &made.signing_key.serialize_pem())?;
        place.run(&["registry", "init"]).await?;
        for server in ["one", "two"] {
            place.add_server(server).await?;
        }
        for module in &MODULES {
            place.add_module(module).await?;
        }
        for slug in SLUGS {
            let password = Mutex::new(place.create(slug).await?);
            place.tenants.push(Tenant { slug, password });
        }
        Ok(place)
    }

    async fn add_server(&self, name: &'static str) -> Result<()> {
        let cluster = self.server(name);
        let secret = serde_json::json!({
            "admin_username": "postgres", "admin_password": cluster.password(),
            "app_username": "service", "app_password": "of the service",
        });
        let file = format!("{name}.json");
        self.write(&file, &secret.to_string())?;
        let (secret, port) = (format!("file:{}", self.dir.join(file).display()), cluster.port().to_string());
        let server = ["server", "add", name, "--host", cluster.host(), "--port", &port, "--sslmode", "disable"];
        let more = ["--admin-secret", &secret, "--app-secret", &secret, "--max-connections", CONNECTIONS_MAX];
        self.run(&[&server[..], &more].concat()).await.map(drop)
    }

    async fn add_module(&self, module: &Module) -> Result<()> {
        let migrations = self.dir.join(module.name);
        fs::create_dir(&migrations)?;
        let sql = if module.isolation == "shared" { COMMON_NOTES } else { NOTES };
        fs::write(migrations.join("0001_notes.sql"), sql)?;
        let migrations = migrations.display().to_string();
        let mut arguments = vec!["module", "add", module.name, "--isolation", module.isolation];
        arguments.extend(["--pooling", module.pooling, "--pool-mode", module.mode, "--server", module.server]);
        if module.isolation != "database" {
            arguments.extend(["--database", module.name]);
        }
        arguments.extend(["--migrations", &migrations]);
        if module.mode == "session" {
            arguments.extend(["--pool-size", SESSION_POOL_SIZE]);
        }
        self.run(&arguments).await.map(drop)
    }

    /// Makes a tenant with its slug in each `notes`; its password.
    async fn create(&self, slug: &str) -> Result<String> {
        let modules = MODULES.each_ref().map(|module| module.name).join(",");
        let printed = self.run(&["tenant", "create", slug, "--name", slug, "--modules", &modules, "--json"]).await?;
        let made: Value = serde_json::from_str(&printed).context("what `tenant create` printed")?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a text of what `tenant create` printed");
        let id = text(&made["tenant_id"])?;
        for placed in made["modules"].as_array().context("the modules of what `tenant create` printed")? {
            let name = text(&placed["module"])?;
            let module = MODULES.iter().find(|module| module.name == name).context("an unknown module")?;
            let schema = placed["schema"].as_str().unwrap_or("public");
            let common = module.isolation == "shared";
            let (columns, id) = if common { ("tenant_id, note", format!("'{id}', ")) } else { ("note", String::new()) };
            let insert = format!("INSERT INTO {}.notes ({columns}) VALUES ({id}'{slug}')", quote_ident(schema));
            let database = text(&placed["database"])?;
            let inserted = async {
                self.server(module.server).connect(&database).await?.batch_execute(&insert).await?;
                anyhow::Ok(())
            };
            timeout(COMMAND_TIMEOUT, inserted).await?.with_context(|| format!("fill {name} of {slug}"))?;
        }
        text(&made["password"])
    }

    /// Deletes a tenant with its data, and makes it again.
    pub(crate) async fn remake(&self, slug: &str) -> Result<()> {
        self.run(&["tenant", "delete", slug, "--drop-data"]).await?;
        let password = self.create(slug).await?;
        let tenant = self.tenants.iter().find(|tenant| tenant.slug == slug).context("an unknown tenant")?;
        *tenant.password.lock().unwrap_or_else(PoisonError::into_inner) = password;
        Ok(())
    }

    /// Runs a command of the program; its standard output. It must succeed.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.pgtenant);
        command.args(arguments).env("PGTENANT_REGISTRY", self.registry.superuser_url("registry"));
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(COMMAND_TIMEOUT, output).await.with_context(|| format!("pgtenant {arguments:?} hangs"))?;
        let output = output.with_context(|| format!("run {}", self.pgtenant.display()))?;
        if !output.status.success() {
            bail!("pgtenant {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).context("what a command printed")
    }

    pub(crate) fn server(&self, name: &str) -> &Cluster {
        if name == "one" { &self.one } else { &self.two }
    }

    /// A number that a server's superuser asks for.
    pub(crate) async fn number(&self, cluster: &Cluster, sql: &str) -> Result<Option<i32>> {
        let asked = async {
            let client = cluster.connect("postgres").await?;
            let row = client.query_opt(sql, &[]).await?;
            anyhow::Ok(row.map(|row| row.get(0)))
        };
        timeout(COMMAND_TIMEOUT, asked).await.with_context(|| format!("{sql:?} hangs"))?
    }

    /// Writes a file that only the proxy may read.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<()> {
        owner::write(&self.dir, self.owner, name, content).map(drop)
    }
}
