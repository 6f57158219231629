//! The demo's site: what is started, and taken down again.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use super::visit::{Naming, connect};
use crate::auth::Secret;
use crate::cluster::Cluster;
use crate::control::{Control, NewTenant, Overrides, check_module};
use crate::frontend::{ClientTls, IdentifyConfig, ListenConfig};
use crate::proxy::{self, Proxy};
use crate::registry::{self, Admin, ModuleRow, Registry, TenantDetails};
use crate::tenant::{Isolation, Server, ServerName, SslMode};

/// Host names of tenants end in this: `acme.db.localhost`.
pub(super) const SNI_SUFFIX: &str = "db.localhost";
/// Who a client is that names nobody.
pub(super) const DEFAULT_TENANT: &str = "globex";
/// The module that all tenants have.
pub(super) const MODULE: &str = "shop";
const PORT: u16 = 6432;
/// How long running transactions may go on when the demo ends.
const DRAIN: Duration = Duration::from_secs(2);
const SHOP: &str = include_str!("../../../migrations/demo/0001_shop.sql");

/// One tenant of the demo.
pub(super) struct DemoTenant {
    pub(super) details: TenantDetails,
    pub(super) password: Secret,
    /// The names of its products.
    pub(super) products: [&'static str; 3],
}

impl DemoTenant {
    pub(super) fn slug(&self) -> &str {
        self.details.tenant.slug.as_str()
    }
}

/// Everything that runs.
pub(super) struct Site {
    pub(super) tenants: Vec<DemoTenant>,
    pub(super) port: u16,
    pub(super) registry_url: String,
    proxy: Proxy,
    /// Dropped after the proxy: their servers stop and their directories go.
    pub(super) clusters: [Cluster; 2],
    _files: TempDir,
}

/// Slug, name, alias, isolation, server, products.
type Plan = (&'static str, &'static str, &'static str, Isolation, &'static str, [&'static str; 3]);
const PLANS: [Plan; 3] = [
    (
        "acme",
        "Acme Corp",
        "krn:acme:client:prod-001",
        Isolation::Database,
        "east",
        ["anvil", "rocket skates", "giant magnet"],
    ),
    (
        "globex",
        "Globex Corporation",
        "krn:globex:client:prod-001",
        Isolation::Schema,
        "west",
        ["hammock", "sugar", "weather machine"],
    ),
    (
        "initech",
        "Initech",
        "krn:initech:client:prod-001",
        Isolation::Shared,
        "west",
        ["red stapler", "TPS report", "fax machine"],
    ),
];

impl Site {
    /// Starts everything; on `port`, or where none is given on 6432 or any that is free.
    pub(super) async fn start(port: Option<u16>) -> anyhow::Result<Self> {
        let (west, east) = tokio::try_join!(Cluster::builder().start(), Cluster::builder().start())?;
        let clusters = [west, east];
        let files =
            tempfile::Builder::new().prefix("pgtenant-demo-").tempdir().context("make a temporary directory")?;
        let postgres = clusters[0].connect("postgres").await?;
        postgres.batch_execute("CREATE DATABASE registry").await.context("create the registry's database")?;
        let registry_url = clusters[0].superuser_url("registry");
        let control = furnish(&registry_url, &clusters, files.path()).await?;
        let mut tenants = Vec::with_capacity(PLANS.len());
        for plan in PLANS {
            tenants.push(make_tenant(&control, plan).await?);
        }
        let (proxy, port) = serve(&registry_url, port, files.path()).await?;
        let site = Self { tenants, port, registry_url, proxy, clusters, _files: files };
        for tenant in &site.tenants {
            stock(&site, tenant).await.with_context(|| format!("put data in as {}", tenant.slug()))?;
        }
        neighbour(&site).await?;
        Ok(site)
    }

    /// A tenant's connection string.
    pub(super) fn url(&self, tenant: &DemoTenant) -> String {
        super::super::view::url(&tenant.details, MODULE, Some(&tenant.password), &format!("127.0.0.1:{}", self.port))
    }

    /// Lets running transactions end, then takes everything down.
    pub(super) async fn stop(self) {
        self.proxy.shutdown(DRAIN).await;
        for cluster in &self.clusters {
            if let Err(error) = cluster.stop().await {
                tracing::warn!(%error, "a server did not stop in order");
            }
        }
    }
}

/// The registry with its servers and the module.
async fn furnish(registry_url: &str, clusters: &[Cluster; 2], files: &Path) -> anyhow::Result<Control> {
    let admin = Admin::connect(registry_url).await?;
    admin.init().await?;
    let migrations = files.join("migrations");
    std::fs::create_dir(&migrations).context("make a directory for migrations")?;
    std::fs::write(migrations.join("0001_shop.sql"), SHOP).context("write a migration")?;
    let transaction = admin.begin().await?;
    for (name, cluster) in ["west", "east"].into_iter().zip(clusters) {
        let secret = write_private(files, name, &cluster.superuser_url("postgres"))?;
        let server = Server {
            name: ServerName::parse(name)?,
            host: cluster.host().to_owned(),
            port: cluster.port(),
            sslmode: SslMode::Prefer,
            ca_file: None,
            max_connections: None,
            admin_secret: Some(format!("file:{}", secret.display())),
            app_secret: None,
        };
        transaction.put_server(&server).await?;
    }
    let mut module = ModuleRow {
        server: Some(ServerName::parse("west")?),
        database: Some(MODULE.parse()?),
        migrations: Some(migrations.display().to_string()),
        ..ModuleRow::new(MODULE.parse()?, Isolation::Schema)
    };
    check_module(&mut module)?;
    transaction.put_module(&module).await?;
    transaction.commit().await?;
    Ok(Control::new(admin))
}

async fn make_tenant(control: &Control, plan: Plan) -> anyhow::Result<DemoTenant> {
    let (slug, name, alias, isolation, server, products) = plan;
    let overrides =
        Overrides { isolation: Some(isolation), server: Some(ServerName::parse(server)?), ..Overrides::default() };
    let new = NewTenant {
        id: None,
        slug: slug.parse()?,
        name: name.to_owned(),
        contact: None,
        aliases: vec![alias.parse()?],
        modules: vec![MODULE.parse()?],
        overrides,
        login: crate::control::DEFAULT_LOGIN.to_owned(),
        password: None,
    };
    let created = control.create(new).await.with_context(|| format!("make tenant {slug}"))?;
    let password = created.password.context("a tenant of that name is there already")?;
    Ok(DemoTenant { details: created.tenant, password, products })
}

/// Puts a tenant's data in, through the proxy, as its application would: nothing in it says whose data it is.
async fn stock(site: &Site, tenant: &DemoTenant) -> anyhow::Result<()> {
    let client = connect(site, tenant, Naming::UserAt).await?;
    for (name, price) in tenant.products.iter().zip(["19.90", "249.00", "4.50"]) {
        let insert = "INSERT INTO products (name, price) VALUES ($1, $2::text::numeric) RETURNING id";
        let product: i64 = client.query_one(insert, &[name, &price]).await?.try_get(0)?;
        let order = "INSERT INTO orders (product_id, quantity) VALUES ($1, 2), ($1, 5)";
        client.execute(order, &[&product]).await?;
    }
    Ok(())
}

/// Rows of someone else in the common tables, past all walls: what initech must not see.
async fn neighbour(site: &Site) -> anyhow::Result<()> {
    let west = site.clusters[0].connect(MODULE).await?;
    let insert =
        "INSERT INTO shop.products (tenant_id, name, price) VALUES (gen_random_uuid(), 'a neighbour''s secret', 1)";
    west.batch_execute(insert).await.context("put a neighbour's rows in")
}

/// Starts the proxy with every way of naming a tenant switched on.
async fn serve(registry_url: &str, port: Option<u16>, files: &Path) -> anyhow::Result<(Proxy, u16)> {
    let (certificate, key) = certificate(files)?;
    let config = registry::Config { url: Some(registry_url.to_owned()), ..registry::Config::default() };
    let registry = Registry::open(&config).await?;
    let config = |port: u16| proxy::Config {
        listen: ListenConfig {
            address: format!("127.0.0.1:{port}"),
            tls: ClientTls::Prefer,
            tls_certificate: Some(certificate.clone()),
            tls_key: Some(key.clone()),
            ..ListenConfig::default()
        },
        identify: IdentifyConfig {
            sni_suffix: Some(SNI_SUFFIX.to_owned()),
            database_separator: Some("/".to_owned()),
            default_tenant: Some(DEFAULT_TENANT.to_owned()),
            ..IdentifyConfig::default()
        },
        pool: crate::pool::Config::default(),
        limits: crate::limits::Config::default(),
        timeouts: crate::session::Config::default(),
        console: crate::console::Config::default(),
    };
    let proxy = match Proxy::start(config(port.unwrap_or(PORT)), registry.clone()).await {
        Err(proxy::Error::Listen { .. }) if port.is_none() => Proxy::start(config(0), registry).await?,
        proxy => proxy?,
    };
    let port = proxy.tcp_address().context("the proxy does not listen for TCP")?.port();
    Ok((proxy, port))
}

/// A certificate of our own for the proxy, with its key.
fn certificate(files: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let names = vec!["localhost".to_owned(), format!("*.{SNI_SUFFIX}")];
    let made = rcgen::generate_simple_self_signed(names).context("make a certificate")?;
    let certificate = write_private(files, "proxy.crt", &made.cert.pem())?;
    let key = write_private(files, "proxy.key", &made.signing_key.serialize_pem())?;
    Ok((certificate, key))
}

/// Writes a file that nobody else may read.
fn write_private(files: &Path, name: &str, content: &str) -> anyhow::Result<PathBuf> {
    let path = files.join(name);
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| file.write_all(content.as_bytes()));
    written.with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
