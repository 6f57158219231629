//! Clients of the demo's proxy: tokio-postgres, as any application would use it, naming its tenant in every way there is.

use tokio_postgres::config::SslMode as Ssl;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::site::{DemoTenant, MODULE, SNI_SUFFIX, Site};
use crate::net::tls;
use crate::tenant::SslMode;

/// A way of naming a tenant in a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// `options=-c tenant=acme`
    Options,
    /// `user=app@acme`
    UserAt,
    /// `user=app.acme`
    UserDot,
    /// `user=acme`
    User,
    /// `user=app@<tenant id>`
    Id,
    /// `user=app@krn:…`
    Alias,
    /// `dbname=acme/shop`
    Database,
    /// `host=acme.db.localhost`, over TLS
    ServerName,
    /// nothing at all: the default tenant
    Nothing,
}

impl Naming {
    /// All of them, with what a person would write.
    pub(super) const ALL: [(Self, &'static str); 9] = [
        (Self::Options, "options='-c tenant=acme'"),
        (Self::UserAt, "user=app@acme"),
        (Self::UserDot, "user=app.acme"),
        (Self::User, "user=acme"),
        (Self::Id, "user=app@<tenant id>"),
        (Self::Alias, "user=app@krn:acme:client:prod-001"),
        (Self::Database, "dbname=acme/shop"),
        (Self::ServerName, "host=acme.db.localhost, TLS"),
        (Self::Nothing, "no tenant named (the default)"),
    ];
}

/// Connects to the proxy as a tenant's login.
pub(super) async fn connect(site: &Site, tenant: &DemoTenant, naming: Naming) -> anyhow::Result<Client> {
    connect_with(site, tenant, naming, tenant.password.expose()).await
}

/// As [`connect`], with any password.
pub(super) async fn connect_with(
    site: &Site,
    tenant: &DemoTenant,
    naming: Naming,
    password: &str,
) -> anyhow::Result<Client> {
    let slug = tenant.slug();
    let mut config = Config::new();
    config.host("127.0.0.1").port(site.port).user("app").password(password).dbname(MODULE).ssl_mode(Ssl::Disable);
    match naming {
        Naming::Options => drop(config.options(format!("-c tenant={slug}"))),
        Naming::UserAt => drop(config.user(format!("app@{slug}"))),
        Naming::UserDot => drop(config.user(format!("app.{slug}"))),
        Naming::User => drop(config.user(slug)),
        Naming::Id => drop(config.user(format!("app@{}", tenant.details.tenant.id))),
        Naming::Alias => drop(config.user(format!("app@{}", tenant.details.aliases[0]))),
        Naming::Database => drop(config.dbname(format!("{slug}/{MODULE}"))),
        Naming::ServerName => return over_tls(site, config, slug).await,
        Naming::Nothing => {}
    }
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn over_tls(site: &Site, from: Config, slug: &str) -> anyhow::Result<Client> {
    let mut config = Config::new();
    config.host(format!("{slug}.{SNI_SUFFIX}")).hostaddr(std::net::Ipv4Addr::LOCALHOST.into()).port(site.port);
    config.user("app").dbname(MODULE).ssl_mode(Ssl::Require);
    config.password(from.get_password().unwrap_or_default());
    let tls = tls::client_config(SslMode::Require, None)?.map(|tls| MakeRustlsConnect::new((*tls).clone()));
    let Some(tls) = tls else { anyhow::bail!("no TLS to connect with") };
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(connection);
    Ok(client)
}
