//! The proxies' processes, their consoles, and what they have at rest.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgtenant::auth::Verifier;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::place::{CERTIFICATE, KEY, Place};
use crate::supervised::Supervised;
use crate::wire::{Door, Trouble, Wire};

const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long running transactions may go on after SIGTERM, and when the process must have ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const END_TIMEOUT: Duration = Duration::from_secs(30);
const HTTP_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the last client may have left before everything must be at rest.
const REST_TIMEOUT: Duration = Duration::from_secs(90);
const CONSOLE_USER: &str = "ops";
const CONSOLE_PASSWORD: &str = "of the console";
/// Time-outs of the proxy that clients wait for.
pub(crate) const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(4);

/// What must be gone when no client is there: metrics by the beginning of their series' names.
const TO_ZERO: [(&str, &str); 6] = [
    ("clients", "pgtenant_clients "),
    ("sessions", "pgtenant_sessions{"),
    ("waiting clients", "pgtenant_waiting_clients{"),
    ("server connections", "pgtenant_pool_connections{"),
    ("permits", "pgtenant_server_connections_used{"),
    ("wanted permits", "pgtenant_server_connections_wanted{"),
];

/// What the process has, as the kernel counts it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holdings {
    pub(crate) rss_kib: u64,
    /// File descriptors, those of connections to the registry left out: their number is that of a pool.
    pub(crate) fds: usize,
    pub(crate) registry_connections: usize,
    pub(crate) threads: u64,
}

/// A running proxy, one of several with a registry in common.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    address: SocketAddr,
    http: SocketAddr,
    /// Another one after it was started again.
    process: Mutex<Supervised>,
}

impl Proxy {
    pub(crate) async fn start(place: &Place, name: &'static str) -> Result<Self> {
        let (address, http) = (free_address()?, free_address()?);
        let config = format!(
            "[listen]\naddress = '{address}'\ntls_certificate = '{CERTIFICATE}'\ntls_key = '{KEY}'\n\
             [registry]\nurl = '{url}?application_name={name}'\n[http]\naddress = '{http}'\n[log]\nlevel = 'warn'\n\
             [pool]\nsize = 4\nhealth_check_interval = '5s'\nidle_timeout = '30s'\nmax_lifetime = '1m'\n\
             [timeouts]\nlogin = '{login}s'\nidle_in_transaction = '{idle}s'\nlogin_backoff = '1s'\ndrain = '{drain}s'\n\
             [[console.users]]\nname = '{CONSOLE_USER}'\nrole = 'admin'\nverifier = '{verifier}'\n",
            url = place.registry.superuser_url("registry"),
            login = LOGIN_TIMEOUT.as_secs(),
            idle = IDLE_IN_TRANSACTION_TIMEOUT.as_secs(),
            drain = DRAIN_TIMEOUT.as_secs(),
            verifier = Verifier::generate(CONSOLE_PASSWORD, 4096),
        );
        place.write(&file_of(name), &config)?;
        let proxy = Self { name, address, http, process: Mutex::new(run(place, name)?) };
        proxy.is_ready().await?;
        Ok(proxy)
    }

    /// Ends it by SIGTERM, as an operator does, and starts it again at the same addresses.
    pub(crate) async fn restart(&self, place: &Place) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + END_TIMEOUT;
        while self.runs() {
            ensure!(Instant::now() < deadline, "the {} proxy does not end: {}", self.name, self.said());
            sleep(Duration::from_millis(50)).await;
        }
        let process = run(place, self.name)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
        self.is_ready().await
    }

    async fn is_ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while let Err(error) = self.console("SHOW VERSION").await {
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("start the {} proxy: {}", self.name, self.said()));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Whether its process does; one that ended and was not waited for has no program.
    fn runs(&self) -> bool {
        fs::read_link(format!("/proc/{}/exe", self.pid())).is_ok()
    }

    fn pid(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).pid
    }

    fn said(&self) -> String {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).said()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal).with_context(|| format!("{signal} to the proxy"))
    }

    /// Where clients knock.
    pub(crate) fn door(&self, tls: Option<Arc<ClientConfig>>) -> Door {
        Door { address: self.address, tls }
    }

    /// A command on a console connection of its own; its rows.
    pub(crate) async fn console(&self, command: &str) -> Result<Vec<Vec<String>>> {
        let said = async {
            let mut wire = Wire::login(&self.door(None), CONSOLE_USER, "pgtenant", CONSOLE_PASSWORD).await?;
            let rows = wire.ask(command).await?;
            wire.leave().await?;
            Ok::<_, Trouble>(rows)
        };
        said.await.map_err(|trouble| anyhow!("{command} on the console: {trouble}"))
    }

    /// Tells it to read its configuration again.
    pub(crate) fn reload(&self) -> Result<()> {
        self.signal(Signal::SIGHUP)
    }

    /// What it answers over HTTP.
    pub(crate) async fn http(&self, path: &str) -> Result<String> {
        let asked = async {
            let mut stream = TcpStream::connect(self.http).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = timeout(HTTP_TIMEOUT, asked).await.with_context(|| format!("GET {path} hangs"))?;
        let answer = answer.with_context(|| format!("GET {path}"))?;
        if !answer.starts_with("HTTP/1.1 200") {
            bail!("GET {path}: {}", answer.lines().next().unwrap_or_default());
        }
        Ok(answer)
    }

    /// Waits until no client and no server connection is there; idle ones are closed. What is left after a time, else nothing.
    pub(crate) async fn all_at_rest(proxies: &[Self], place: &Place) -> Result<Vec<String>> {
        let deadline = Instant::now() + REST_TIMEOUT;
        loop {
            let mut left = Vec::new();
            for proxy in proxies {
                proxy.console("RECONNECT").await?;
                left.extend(proxy.counters().await?);
            }
            for server in ["one", "two"] {
                let sessions = "SELECT count(*)::int FROM pg_stat_activity \
                     WHERE backend_type = 'client backend' AND usename <> 'postgres'";
                let number = place.number(place.server(server), sessions).await?.unwrap_or_default();
                left.push((format!("sessions on server {server}"), f64::from(number)));
            }
            left.retain(|(_, number)| *number != 0.0);
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left.into_iter().map(|(what, number)| format!("{what}: {number}")).collect());
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// What must be zero at rest.
    async fn counters(&self) -> Result<Vec<(String, f64)>> {
        let metrics = self.http("/metrics").await?;
        let mut counters = Vec::new();
        for (what, series) in TO_ZERO {
            let values = metrics.lines().filter(|line| line.starts_with(series));
            let values = values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
            counters.push((format!("{what} of the {} proxy", self.name), values.sum()));
        }
        for row in self.console("SHOW LISTS").await? {
            let [list, items] = &row[..] else { bail!("SHOW LISTS: {row:?}") };
            if ["used_clients", "login_clients", "used_servers", "free_servers", "pinned_clients"]
                .contains(&list.as_str())
            {
                counters.push((
                    format!("{list} of the {} proxy", self.name),
                    items.parse().with_context(|| format!("SHOW LISTS: {row:?}"))?,
                ));
            }
        }
        Ok(counters)
    }

    /// What the process has.
    pub(crate) async fn holdings(&self, place: &Place) -> Result<Holdings> {
        let sql = "SELECT count(*)::int FROM pg_stat_activity \
                   WHERE backend_type = 'client backend' AND application_name = ";
        let sql = format!("{sql}'{}'", self.name);
        let registry_connections = usize::try_from(place.number(&place.registry, &sql).await?.unwrap_or_default())?;
        let proc = format!("/proc/{}", self.pid());
        let status = fs::read_to_string(format!("{proc}/status"))
            .with_context(|| format!("the proxy ended: {}", self.said()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
            line.split_whitespace().next().unwrap_or_default().parse::<u64>().context("a number of /proc/<pid>/status")
        };
        let fds = fs::read_dir(format!("{proc}/fd"))?.count();
        Ok(Holdings {
            rss_kib: field("VmRSS:")?,
            fds: fds.saturating_sub(registry_connections),
            registry_connections,
            threads: field("Threads:")?,
        })
    }
}

fn file_of(name: &str) -> String {
    format!("{name}.toml")
}

fn run(place: &Place, name: &str) -> Result<Supervised> {
    Supervised::start(place, &place.pgtenant, &["serve", "--config", &file_of(name)], name)
}

/// An address that is still free after a restart: clients come from 127.0.0.1, and the kernel gives out its ports meanwhile.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.2", 0))?.local_addr()?)
}
