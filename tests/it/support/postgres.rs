//! The server that the tests of one process share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use pgtenant::cluster::Cluster;
use pgtenant::tenant::{quote_ident, quote_literal};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

/// Never dropped: when the test process ends, the server's supervisor stops it and removes its directory.
static SHARED: OnceCell<Cluster> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The shared server (with TLS). A test that stops or breaks a server starts one of its own.
pub(crate) async fn cluster() -> &'static Cluster {
    let start = || Cluster::builder().setting("max_connections", "400").tls(true).start();
    SHARED.get_or_try_init(start).await.expect("start the shared server")
}

/// One of PostgreSQL's client programs: the server's own, or the one in `PATH` where the server came without.
pub(crate) async fn client_program(name: &str) -> PathBuf {
    let program = cluster().await.install().program(name);
    if program.is_file() { program } else { PathBuf::from(name) }
}

/// A name that no other test uses: a slug, and an identifier that needs no quotes.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A database of the test's own on the shared server.
pub(crate) struct Database {
    /// Its name.
    pub(crate) name: String,
    /// The superuser's connection URL for it.
    pub(crate) url: String,
    /// A superuser's connection to it.
    pub(crate) admin: Client,
}

/// Makes an empty database on the shared server.
pub(crate) async fn database(prefix: &str) -> Database {
    let cluster = cluster().await;
    let name = unique(prefix);
    let postgres = cluster.connect("postgres").await.expect("connect to the shared server");
    postgres.batch_execute(&format!("CREATE DATABASE {}", quote_ident(&name))).await.expect("create a database");
    let admin = cluster.connect(&name).await.expect("connect to the new database");
    Database { url: cluster.superuser_url(&name), name, admin }
}

/// A login role of the test's own on the shared server.
pub(crate) struct Role {
    /// Its name.
    pub(crate) name: String,
    /// Its password.
    pub(crate) password: String,
    /// What the server stores of the password: `SCRAM-SHA-256$…`.
    pub(crate) verifier: String,
}

impl Role {
    /// Connects directly, not through the proxy.
    pub(crate) async fn connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let cluster = cluster().await;
        let mut config = tokio_postgres::Config::new();
        config.host(cluster.host()).port(cluster.port()).dbname(database);
        let (client, connection) = config.user(&self.name).password(&self.password).connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// Makes a role that may log in and owns nothing.
pub(crate) async fn role(prefix: &str) -> Role {
    let admin = cluster().await.connect("postgres").await.expect("connect to the shared server");
    let name = unique(prefix);
    let password = format!("secret of {name}");
    let create = format!("CREATE ROLE {} LOGIN PASSWORD {}", quote_ident(&name), quote_literal(&password));
    admin.batch_execute(&create).await.expect("create a role");
    let stored = "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1";
    let verifier = admin.query_one(stored, &[&name]).await.expect("read the verifier").get(0);
    Role { name, password, verifier }
}
