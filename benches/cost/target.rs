//! The proxies as processes of their own.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pgtenant::net::EngineChoice;

use crate::client::{HOST, Login};
use crate::place::{DATABASE, Place, ROLE};
use crate::supervised::Supervised;

pub(crate) const ENGINES: [EngineChoice; 2] = [EngineChoice::IoUring, EngineChoice::Epoll];
/// The server's name in registries.
pub(crate) const SERVER: &str = "one";
/// Connections of a pool, where nothing else is said.
const POOL_SIZE: u32 = 20;
const CLIENTS_MAX: usize = 19_000;
const READY_TIMEOUT: Duration = Duration::from_secs(15);
const PGTENANT: &str = env!("CARGO_BIN_EXE_pgtenant");

/// What a proxy's configuration has beside what they all have: lines of its sections.
#[derive(Default)]
pub(crate) struct Settings<'a> {
    pub(crate) listen: &'a str,
    /// In place of the registry of one tenant.
    pub(crate) registry: Option<&'a str>,
    pub(crate) pool: &'a str,
}

/// A proxy.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) login: Login,
    process: Supervised,
}

impl Target {
    /// pgtenant.
    pub(crate) fn pgtenant(place: &Place, name: &str, settings: &Settings<'_>) -> Result<Self> {
        place.write("tenants.toml", &one_tenant(place))?;
        let port = free_port()?;
        let config = format!(
            "[listen]\naddress = '{HOST}:{port}'\nmax_clients = {CLIENTS_MAX}\n{listen}[registry]\n{registry}\n\
             [pool]\nsize = {POOL_SIZE}\n{pool}[timeouts]\nlogin_backoff = '0s'\n[http]\naddress = ''\n[log]\nlevel = 'warn'\n",
            listen = settings.listen,
            registry = settings.registry.unwrap_or("file = 'tenants.toml'"),
            pool = settings.pool,
        );
        let file = format!("{}.toml", name.replace([',', ' '], "-"));
        place.write(&file, &config)?;
        let process = Supervised::start(place, Path::new(PGTENANT), &["serve", "--config", &file], name)?;
        let login = Login { port, user: "app@acme".to_owned(), database: DATABASE };
        Self { name: name.to_owned(), login, process }.ready()
    }

    /// pgtenant with one of the engines.
    pub(crate) fn with_engine(place: &Place, engine: EngineChoice) -> Result<Self> {
        let (name, listen) = (format!("pgtenant, {}", engine.name()), format!("engine = '{}'\n", engine.name()));
        Self::pgtenant(place, &name, &Settings { listen: &listen, ..Settings::default() })
    }

    /// PgBouncer, with further lines of its configuration.
    pub(crate) fn pgbouncer(place: &Place, program: &Path, more: &str) -> Result<Self> {
        // The same verifier as the server's, so that PgBouncer too passes the client's keys through.
        place.write("users.txt", &format!("\"{ROLE}\" \"{}\"\n", place.verifier))?;
        let port = free_port()?;
        let config = format!(
            "[databases]\n{DATABASE} = host={HOST} port={server_port} dbname={DATABASE}\n\
             [pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = users.txt\npool_mode = transaction\n\
             default_pool_size = {POOL_SIZE}\nmax_client_conn = {CLIENTS_MAX}\n{more}\
             log_connections = 0\nlog_disconnections = 0\n",
            server_port = place.cluster.port(),
        );
        place.write("pgbouncer.ini", &config)?;
        let process = Supervised::start(place, program, &["pgbouncer.ini"], "pgbouncer")?;
        let login = Login { port, user: ROLE.to_owned(), database: DATABASE };
        Self { name: "PgBouncer".to_owned(), login, process }.ready()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Its CPU time so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }

    /// Its memory.
    pub(crate) fn memory(&self) -> Result<Memory> {
        Memory::of(self.pid()).with_context(|| format!("the memory of {}: {}", self.name, self.process.said()))
    }

    /// Whom a user's clients connect to.
    pub(crate) fn login_of(&self, user: String) -> Login {
        Login { user, ..self.login.clone() }
    }

    /// Waits until it listens.
    fn ready(self) -> Result<Self> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while let Err(error) = std::net::TcpStream::connect((HOST, self.login.port)) {
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("connect to {}: {}", self.name, self.process.said()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(self)
    }

    /// What it said, where a client of it failed.
    pub(crate) fn said(&self) -> String {
        format!("through {}: {}", self.name, self.process.said())
    }
}

/// What a process has in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident, in KiB.
    pub(crate) resident: f64,
    /// The same less the parts of pages that others have, too.
    pub(crate) proportional: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let field = |name: &str| {
            let rest =
                text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name} in {path}"))?;
            Ok::<f64, anyhow::Error>(rest.trim().trim_end_matches(" kB").parse()?)
        };
        Ok(Self { resident: field("Rss:")?, proportional: field("Pss:")? })
    }

    /// What came since then, for each of so many.
    pub(crate) fn since(self, before: Self, count: usize) -> Self {
        let each = |now: f64, then: f64| (now - then) / count as f64;
        Self {
            resident: each(self.resident, before.resident),
            proportional: each(self.proportional, before.proportional),
        }
    }
}

/// A registry file with one tenant, which has the database.
pub(crate) fn one_tenant(place: &Place) -> String {
    format!(
        "[[server]]\nname = '{SERVER}'\nhost = '{HOST}'\nport = {server_port}\nsslmode = 'disable'\n\
         [[module]]\nname = '{DATABASE}'\nisolation = 'database'\nserver = '{SERVER}'\n\
         [[tenant]]\nid = '0190b5a0-0000-7000-8000-000000000001'\nslug = 'acme'\n\
         [[tenant.placement]]\nmodule = '{DATABASE}'\ndatabase = '{DATABASE}'\nrole = '{ROLE}'\n\
         [[tenant.login]]\nlogin = 'app'\nrole = '{ROLE}'\nverifier = '{verifier}'\n",
        server_port = place.cluster.port(),
        verifier = place.verifier,
    )
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((HOST, 0))?.local_addr()?.port())
}
