//! What is compared: direct PostgreSQL, PgBouncer, pgtenant, and other proxies.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use crate::Options;
use crate::place::{DATABASE, PASSWORD, Place, ROLE};
use crate::supervised::Supervised;

pub(crate) const HOST: &str = "127.0.0.1";
const READY_TIMEOUT: Duration = Duration::from_secs(15);
const PGTENANT: &str = env!("CARGO_BIN_EXE_pgtenant");

/// Whom clients connect to.
pub(crate) struct Target {
    /// As in the report.
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) user: &'static str,
    /// Whether named statements work.
    pub(crate) carries_statements: bool,
    /// Whether unnamed statements are kept on server connections.
    pub(crate) keeps_statements: bool,
    /// Whether each client has a server process of its own, which ends with it.
    pub(crate) connects_each: bool,
    pub(crate) process: Option<Supervised>,
}

impl Target {
    /// A proxy that clients log in to as to the server.
    pub(crate) fn peer(name: &'static str, port: u16, process: Supervised) -> Self {
        Self {
            name,
            port,
            user: ROLE,
            carries_statements: true,
            keeps_statements: false,
            connects_each: false,
            process: Some(process),
        }
    }

    /// The proxy's CPU time so far; none without a proxy.
    pub(crate) fn cpu(&self) -> Result<Option<Duration>> {
        self.process.as_ref().map(Supervised::cpu).transpose()
    }

    /// Connects as pgbench does.
    pub(crate) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host(HOST).port(self.port).user(self.user).password(PASSWORD).dbname(DATABASE);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub(crate) async fn ready(self) -> Result<Self> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let error = match self.connect().await {
                Ok(client) => {
                    client.simple_query("SELECT 1").await.with_context(|| format!("query through {}", self.name))?;
                    return Ok(self);
                }
                Err(error) => error,
            };
            // Not listening yet is the only thing worth waiting for.
            if error.code().is_some() || Instant::now() > deadline {
                let said = self.process.as_ref().map(Supervised::said).unwrap_or_default();
                return Err(error).with_context(|| format!("connect to {}: {said}", self.name));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(crate) fn start_pgbouncer(place: &Place, options: &Options, carries_statements: bool) -> Result<Target> {
    let port = free_port()?;
    // The same verifier as the server's, so that PgBouncer too passes the client's keys through.
    place.write("users.txt", &format!("\"{ROLE}\" \"{}\"\n", place.verifier))?;
    let server_port = place.cluster.port();
    let statements = if carries_statements { "max_prepared_statements = 200\n" } else { "" };
    let config = format!(
        "[databases]\n{DATABASE} = host={HOST} port={server_port} dbname={DATABASE}\n\
         [pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = scram-sha-256\nauth_file = users.txt\npool_mode = transaction\n\
         default_pool_size = {size}\nmax_client_conn = 1000\n{statements}\
         log_connections = 0\nlog_disconnections = 0\n",
        size = options.pool_size,
    );
    place.write("pgbouncer.ini", &config)?;
    let process = Supervised::start(place, &options.pgbouncer, &["pgbouncer.ini"], "pgbouncer")?;
    Ok(Target { carries_statements, ..Target::peer("pgbouncer", port, process) })
}

pub(crate) fn start_pgtenant(place: &Place, options: &Options, name: &'static str, listen: &str) -> Result<Target> {
    let keeps_statements = name.ends_with("keeping");
    let keeping = if keeps_statements { "keep_unnamed_statements = ['*']\n" } else { "" };
    let port = free_port()?;
    let tenants = format!(
        "[[server]]\nname = 'one'\nhost = '{HOST}'\nport = {server_port}\nsslmode = 'disable'\n\
         [[module]]\nname = '{DATABASE}'\nisolation = 'database'\nserver = 'one'\n\
         [[tenant]]\nid = '0190b5a0-0000-7000-8000-000000000001'\nslug = 'acme'\nname = 'Acme'\nstatus = 'active'\n\
         default_module = '{DATABASE}'\n\
         [[tenant.placement]]\nmodule = '{DATABASE}'\nisolation = 'database'\nserver = 'one'\n\
         database = '{DATABASE}'\nrole = '{ROLE}'\n\
         [[tenant.login]]\nlogin = 'app'\nrole = '{ROLE}'\nverifier = '{verifier}'\n",
        server_port = place.cluster.port(),
        verifier = place.verifier,
    );
    place.write("tenants.toml", &tenants)?;
    let config = format!(
        "[listen]\naddress = '{HOST}:{port}'\n{listen}[registry]\nfile = 'tenants.toml'\n\
         [pool]\nmode = 'transaction'\nsize = {size}\n{keeping}[http]\naddress = '{HOST}:0'\n[log]\nlevel = 'info'\n",
        size = options.pool_size,
    );
    let file = format!("{}.toml", name.replace(", ", "-"));
    place.write(&file, &config)?;
    let process = Supervised::start(place, Path::new(PGTENANT), &["serve", "--config", &file], name)?;
    Ok(Target { user: "app@acme", keeps_statements, ..Target::peer(name, port, process) })
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((HOST, 0))?.local_addr()?.port())
}
