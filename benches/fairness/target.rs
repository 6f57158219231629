//! What is compared: pgtenant, and PgBouncer in the two ways in which it can bound the connections of both tenants together.

use std::fmt::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;
use tokio_postgres::{Client, Config, NoTls};

use crate::Options;
use crate::place::{DATABASE, PASSWORD, Place, Tenant};
use crate::supervised::Supervised;

const HOST: &str = "127.0.0.1";
const READY_TIMEOUT: Duration = Duration::from_secs(15);
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";
const PGTENANT: &str = env!("CARGO_BIN_EXE_pgtenant");
/// Most clients of either proxy.
const CLIENTS_MAX: u32 = 5000;

/// Whom clients connect to.
pub(crate) struct Target {
    /// As in the report.
    pub(crate) name: String,
    pub(crate) is_pgtenant: bool,
    port: u16,
    process: Supervised,
}

impl Target {
    pub(crate) async fn start_all(place: &Place, options: &Options) -> Result<Vec<Self>> {
        let most = options.connections;
        let common = format!("max_db_connections = {most}");
        let halves = format!("max_user_connections = {}", most / 2);
        let targets = [
            pgtenant(place, most)?,
            pgbouncer(place, "common", most, &common)?,
            pgbouncer(place, "halves", most, &halves)?,
        ];
        for target in &targets {
            target.ready().await?;
        }
        Ok(targets.into())
    }

    /// The connection settings of one of the tenants.
    pub(crate) fn config(&self, tenant: Tenant) -> Config {
        let user = if self.is_pgtenant { format!("app@{}", tenant.name()) } else { tenant.name().to_owned() };
        let mut config = Config::new();
        config.host(HOST).port(self.port).user(user).password(PASSWORD).dbname(DATABASE);
        config
    }

    /// The proxy's CPU time so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }

    async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while let Err(error) = connect(self.config(Tenant::Quiet)).await {
            // Not listening yet is the only thing worth waiting for.
            if error.code().is_some() || Instant::now() > deadline {
                return Err(error).with_context(|| format!("connect to {}: {}", self.name, self.process.said()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

/// Connects, and drives the connection in a task.
pub(crate) async fn connect(config: Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub(crate) fn pgbouncer_version() -> Result<String> {
    let output = Command::new(PGBOUNCER).arg("--version").output();
    let output = output.with_context(|| format!("run {PGBOUNCER} (Debian: apt-get install pgbouncer)"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim_start_matches("PgBouncer ").to_owned())
}

fn pgbouncer(place: &Place, name: &str, most: u32, bound: &str) -> Result<Target> {
    let port = free_port()?;
    let mut users = String::new();
    for (tenant, verifier) in Tenant::ALL.into_iter().zip(&place.verifiers) {
        writeln!(users, "\"{}\" \"{verifier}\"", tenant.name())?;
    }
    place.write("users.txt", &users)?;
    let server_port = place.cluster.port();
    let config = format!(
        "[databases]\n{DATABASE} = host={HOST} port={server_port} dbname={DATABASE}\n\
         [pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = scram-sha-256\nauth_file = users.txt\npool_mode = transaction\n\
         default_pool_size = {most}\n{bound}\nmax_client_conn = {CLIENTS_MAX}\n\
         log_connections = 0\nlog_disconnections = 0\n"
    );
    let file = format!("pgbouncer_{name}.ini");
    place.write(&file, &config)?;
    let process = Supervised::start(place, Path::new(PGBOUNCER), &[&file], &format!("pgbouncer_{name}"))?;
    Ok(Target { name: format!("pgbouncer, {bound}"), is_pgtenant: false, port, process })
}

fn pgtenant(place: &Place, most: u32) -> Result<Target> {
    let port = free_port()?;
    let mut tenants = format!(
        "[[server]]\nname = 'one'\nhost = '{HOST}'\nport = {port}\nsslmode = 'disable'\nmax_connections = {most}\n\
         [[module]]\nname = '{DATABASE}'\nisolation = 'schema'\nserver = 'one'\ndatabase = '{DATABASE}'\n",
        port = place.cluster.port(),
    );
    for (number, (tenant, verifier)) in Tenant::ALL.into_iter().zip(&place.verifiers).enumerate() {
        let name = tenant.name();
        write!(
            tenants,
            "[[tenant]]\nid = '0190b5a0-0000-7000-8000-00000000000{number}'\nslug = '{name}'\n\
             [[tenant.placement]]\nmodule = '{DATABASE}'\nschema = '{name}'\nrole = '{name}'\n\
             [[tenant.login]]\nlogin = 'app'\nrole = '{name}'\nverifier = '{verifier}'\n",
        )?;
    }
    place.write("tenants.toml", &tenants)?;
    let config = format!(
        "[listen]\naddress = '{HOST}:{port}'\nmax_clients = {CLIENTS_MAX}\n[registry]\nfile = 'tenants.toml'\n\
         [pool]\nsize = {most}\n[http]\naddress = ''\n[log]\nlevel = 'warn'\n"
    );
    place.write("pgtenant.toml", &config)?;
    let process = Supervised::start(place, Path::new(PGTENANT), &["serve", "--config", "pgtenant.toml"], "pgtenant")?;
    Ok(Target { name: "pgtenant, server max_connections".to_owned(), is_pgtenant: true, port, process })
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((HOST, 0))?.local_addr()?.port())
}
