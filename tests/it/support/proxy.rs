//! The proxy in this process, on a free port.

use std::net::SocketAddr;
use std::time::Duration;

use pgtenant::net::EngineChoice;
use pgtenant::proxy::{self, Proxy};
use pgtenant::registry::{self, Registry};
use pgtenant::{console, frontend, limits, pool, session};
use tokio_postgres::{Client, NoTls};

use super::world::{Tenant, World};

/// A proxy; dropping it leaves its threads to the end of the process, [`Running::stop`] drains it.
pub(crate) struct Running {
    pub(crate) proxy: Proxy,
    pub(crate) address: SocketAddr,
    pub(crate) registry: Registry,
}

/// The settings that tests start from: any free port, small pools, two relay threads.
pub(crate) fn settings() -> proxy::Config {
    proxy::Config {
        listen: frontend::ListenConfig {
            address: "127.0.0.1:0".to_owned(),
            threads: 2,
            engine: engine(),
            ..Default::default()
        },
        identify: frontend::IdentifyConfig::default(),
        pool: pool::Config { size: 4, ..Default::default() },
        limits: limits::Config::default(),
        timeouts: session::Config::default(),
        console: console::Config::default(),
    }
}

/// What the environment asks for, as of `pgtenant serve`: so that all tests can be run on either engine.
fn engine() -> EngineChoice {
    match std::env::var("PGTENANT_LISTEN_ENGINE").as_deref() {
        Ok("epoll") => EngineChoice::Epoll,
        Ok("io_uring") => EngineChoice::IoUring,
        Ok("auto" | "") | Err(_) => EngineChoice::Auto,
        Ok(other) => panic!("PGTENANT_LISTEN_ENGINE={other}"),
    }
}

/// Starts a proxy over the world's registry; `tweak` changes the settings first.
pub(crate) async fn proxy(world: &World, tweak: impl FnOnce(&mut proxy::Config)) -> Running {
    proxy_over(&world.registry, tweak).await
}

/// The same over the registry with this URL.
pub(crate) async fn proxy_over(registry: &str, tweak: impl FnOnce(&mut proxy::Config)) -> Running {
    let registry = registry::Config { url: Some(registry.to_owned()), ..Default::default() };
    let registry = Registry::open(&registry).await.expect("open the registry");
    let mut config = settings();
    tweak(&mut config);
    let proxy = Proxy::start(config, registry.clone()).await.expect("start the proxy");
    let address = proxy.tcp_address().expect("a TCP address");
    Running { proxy, address, registry }
}

impl Running {
    /// Connection settings for a tenant's module.
    pub(crate) fn config(&self, tenant: &Tenant, module: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(self.address.ip().to_string()).port(self.address.port());
        config.user(tenant.user()).password(&tenant.password).dbname(module);
        config
    }

    /// A session of a tenant's login.
    pub(crate) async fn connect(&self, tenant: &Tenant, module: &str) -> Client {
        connect(&self.config(tenant, module)).await.expect("connect through the proxy")
    }

    /// Drains it.
    pub(crate) async fn stop(self) {
        self.proxy.shutdown(Duration::from_secs(5)).await;
    }
}

/// Connects, and drives the connection in a task.
pub(crate) async fn connect(config: &tokio_postgres::Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The first column of the first row, as text.
pub(crate) async fn one(client: &Client, sql: &str) -> String {
    use tokio_postgres::SimpleQueryMessage::Row;
    let messages = client.simple_query(sql).await.expect("a statement that succeeds");
    let row = messages.into_iter().find_map(|message| if let Row(row) = message { Some(row) } else { None });
    row.expect("a row").get(0).expect("a value").to_owned()
}

/// The SQLSTATE and message of an error of the server.
pub(crate) fn refusal(error: &tokio_postgres::Error) -> (String, String) {
    let database = error.as_db_error().expect("an error of the server");
    (database.code().code().to_owned(), database.message().to_owned())
}
