//! One temporary server: start, connect, stop, start again.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::error::Error;
use super::install::Install;
use super::supervisor::Supervised;
use super::template::{Template, temporary_dir};

const HOST: &str = "127.0.0.1";
const SUPERUSER: &str = "postgres";
const PORT_ATTEMPTS_MAX: u32 = 5;
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// What fits into `sun_path`, less the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
const LOG_LINES_SHOWN: usize = 12;

/// Says how a server is to be; see [`Cluster::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    settings: BTreeMap<String, String>,
    trust_on_socket: bool,
    tls: bool,
}

impl Builder {
    /// Sets a server setting (`postgresql.conf`), overriding our default of the same name.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Whether connections over the Unix socket need no password; false unless said.
    #[must_use]
    pub fn trust_on_socket(mut self, trust: bool) -> Self {
        self.trust_on_socket = trust;
        self
    }

    /// Whether the server offers TLS, with a certificate for `localhost` and `127.0.0.1`; false unless said.
    #[must_use]
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// # Errors
    /// PostgreSQL is not installed, cannot be run here, or does not come up with these settings.
    pub async fn start(self) -> Result<Cluster, Error> {
        let mut cluster = tokio::task::spawn_blocking(move || Cluster::prepare(&self)).await??;
        cluster.start_somewhere().await?;
        Ok(cluster)
    }
}

/// A PostgreSQL server of our own in a temporary directory, with the superuser `postgres` and SCRAM passwords.
/// Dropping it stops the server and removes the directory; so does the end of this process, even by `SIGKILL`.
#[derive(Debug)]
pub struct Cluster {
    // Declared first: the server is gone before its directory is removed.
    running: Mutex<Option<Supervised>>,
    install: Install,
    template: Arc<Template>,
    port: u16,
    settings: BTreeMap<String, String>,
    data: PathBuf,
    dir: TempDir,
}

impl Cluster {
    /// A server with our defaults: quick and forgetful (`fsync=off`), 200 connections.
    #[must_use]
    pub fn builder() -> Builder {
        let defaults = [
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("max_connections", "200"),
            ("logging_collector", "off"),
            ("password_encryption", "scram-sha-256"),
        ];
        let settings = defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Builder { settings, trust_on_socket: false, tls: false }
    }

    fn prepare(builder: &Builder) -> Result<Self, Error> {
        let install = Install::find()?;
        let template = Template::current(&install)?;
        let dir = temporary_dir(&install)?;
        let data = template.copy_into(dir.path())?;
        let local = if builder.trust_on_socket { "trust" } else { "scram-sha-256" };
        let rules = format!(
            "local all all {local}\nlocal replication all {local}\n\
             host all all all scram-sha-256\nhost replication all all scram-sha-256\n"
        );
        write_for(&install, &data.join("pg_hba.conf"), &rules)?;
        let mut settings = builder.settings.clone();
        if builder.tls {
            make_certificates(&install, dir.path())?;
            settings.insert("ssl".to_owned(), "on".to_owned());
            settings.insert("ssl_cert_file".to_owned(), dir.path().join("server.crt").display().to_string());
            settings.insert("ssl_key_file".to_owned(), dir.path().join("server.key").display().to_string());
        }
        Ok(Self { running: Mutex::new(None), install, template, port: 0, settings, data, dir })
    }

    /// Starts the server on a free port. Another program may take that port before the server binds it: then the server
    /// ends again, and another port is tried.
    async fn start_somewhere(&mut self) -> Result<(), Error> {
        for _ in 0..PORT_ATTEMPTS_MAX {
            let listener = TcpListener::bind((HOST, 0)).map_err(Error::io("find a free port on", HOST))?;
            self.port = listener.local_addr().map_err(Error::io("find a free port on", HOST))?.port();
            drop(listener);
            let socket = self.dir.path().join(format!(".s.PGSQL.{}", self.port));
            if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                return Err(Error::LongPath(socket));
            }
            match self.start().await {
                Err(Error::Exited { log, .. }) if log.contains("could not create any TCP/IP sockets") => {}
                outcome => return outcome,
            }
        }
        Err(Error::NoPort { attempts: PORT_ATTEMPTS_MAX })
    }

    /// Starts the stopped server again, at the same place with the same data. Nothing happens if it runs.
    ///
    /// # Errors
    /// The server ends again or accepts no connections; the end of its log is in the error.
    pub async fn start(&self) -> Result<(), Error> {
        {
            let mut running = self.running();
            if running.as_mut().is_some_and(|server| server.ended().is_none()) {
                return Ok(());
            }
            *running =
                Some(Supervised::spawn(&self.install, self.dir.path(), self.template.path(), &self.arguments())?);
        }
        let outcome = self.ready().await;
        if outcome.is_err() {
            self.running().take();
        }
        outcome
    }

    /// Stops the server in order: sessions are ended, data is kept. Nothing happens if it does not run.
    ///
    /// # Errors
    /// It does not stop in time.
    pub async fn stop(&self) -> Result<(), Error> {
        self.end(Signal::SIGINT).await
    }

    /// Stops the server as a crash does: sessions break without a word; it recovers at the next start.
    ///
    /// # Errors
    /// It does not stop in time.
    pub async fn crash(&self) -> Result<(), Error> {
        self.end(Signal::SIGQUIT).await
    }

    /// Stops the server in order and starts it again.
    ///
    /// # Errors
    /// As [`Cluster::stop`] and [`Cluster::start`].
    pub async fn restart(&self) -> Result<(), Error> {
        self.stop().await?;
        self.start().await
    }

    async fn end(&self, signal: Signal) -> Result<(), Error> {
        let server = self.running().take();
        match server {
            Some(mut server) => tokio::task::spawn_blocking(move || server.stop(signal, STOP_TIMEOUT)).await?,
            None => Ok(()),
        }
    }

    /// The host of TCP connections, an address.
    #[must_use]
    pub fn host(&self) -> &str {
        HOST
    }

    /// The port of TCP connections, and the number in the Unix socket's name.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket, usable as `host`.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The superuser's name.
    #[must_use]
    pub fn superuser(&self) -> &str {
        SUPERUSER
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.template.password
    }

    /// The superuser's connection URL for a database, over TCP.
    #[must_use]
    pub fn superuser_url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{}@{HOST}:{}/{database}", self.password(), self.port)
    }

    /// The certificate authority (PEM) that signed the server's certificate; none without TLS.
    #[must_use]
    pub fn ca_file(&self) -> Option<PathBuf> {
        let path = self.dir.path().join("ca.crt");
        path.is_file().then_some(path)
    }

    /// The process id of the server (postmaster), while it runs.
    #[must_use]
    pub fn server_pid(&self) -> Option<i32> {
        self.running().as_ref().map(Supervised::id)
    }

    /// The programs the server was started from.
    #[must_use]
    pub fn install(&self) -> &Install {
        &self.install
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(self.dir.path().join("server.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// Connects as superuser over TCP; the connection's task ends with the client.
    ///
    /// # Errors
    /// [`Error::Connect`] with the server's reason.
    pub async fn connect(&self, database: &str) -> Result<Client, Error> {
        self.open(HOST, database).await.map_err(Error::Connect)
    }

    async fn open(&self, host: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(self.port).user(SUPERUSER).password(self.password()).dbname(database);
        config.connect_timeout(READY_TIMEOUT);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            // The client sees the same error at its next call.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Waits until the server lets us in. Over the Unix socket, which nobody else can have.
    async fn ready(&self) -> Result<(), Error> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let socket_dir = self.dir.path().display().to_string();
        loop {
            let error = match self.open(&socket_dir, "postgres").await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.running().as_mut().ok_or(Error::NotRunning)?.ended() {
                return Err(Error::Exited { status, log: self.log_tail() });
            }
            let starting = error.code().is_none_or(|code| *code == SqlState::CANNOT_CONNECT_NOW);
            if !starting {
                return Err(Error::Connect(error));
            }
            if Instant::now() >= deadline {
                return Err(Error::NotReady { waited: READY_TIMEOUT, log: self.log_tail(), source: error });
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-D".to_owned(), self.data.display().to_string()];
        let own = [
            ("listen_addresses", HOST.to_owned()),
            ("port", self.port.to_string()),
            ("unix_socket_directories", format!("\"{}\"", self.dir.path().display())),
        ];
        let settings = self.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in settings.chain(own) {
            arguments.push("-c".to_owned());
            arguments.push(format!("{name}={value}"));
        }
        arguments
    }

    fn running(&self) -> MutexGuard<'_, Option<Supervised>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A certificate authority and a certificate for this machine by it.
fn make_certificates(install: &Install, dir: &Path) -> Result<(), Error> {
    // Names of their own: where issuer and subject have the same, OpenSSL takes the certificate for self-signed.
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "pgtenant temporary authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec!["localhost".to_owned(), HOST.to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key))?;
    write_for(install, &dir.join("ca.crt"), &authority_certificate.pem())?;
    write_for(install, &dir.join("server.crt"), &certificate.pem())?;
    write_for(install, &dir.join("server.key"), &key.serialize_pem())
}

fn write_for(install: &Install, path: &Path, content: &str) -> Result<(), Error> {
    fs::write(path, content).map_err(Error::io("write", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(Error::io("protect", path))?;
    install.give(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn one(client: &Client, sql: &str) -> String {
        client.query_one(sql, &[]).await.unwrap().get(0)
    }

    #[tokio::test]
    async fn a_cluster_keeps_its_data_over_a_crash_and_a_restart_and_goes_when_dropped() {
        let cluster = Cluster::builder().setting("work_mem", "5MB").tls(true).start().await.unwrap();
        let client = cluster.connect("postgres").await.unwrap();
        assert_eq!(one(&client, "SHOW work_mem").await, "5MB");
        assert_eq!(one(&client, "SHOW ssl").await, "on");
        client.batch_execute("CREATE TABLE kept (v text); INSERT INTO kept VALUES ('x')").await.unwrap();
        cluster.crash().await.unwrap();
        assert!(cluster.connect("postgres").await.is_err());
        cluster.start().await.unwrap();
        cluster.restart().await.unwrap();
        assert_eq!(one(&cluster.connect("postgres").await.unwrap(), "SELECT v FROM kept").await, "x");
        let (dir, pid) = (cluster.socket_dir().to_owned(), cluster.server_pid().unwrap());
        drop(cluster);
        assert!(!dir.exists());
        assert!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err());
    }

    #[tokio::test]
    async fn a_setting_that_postgres_refuses_is_an_error_with_its_words() {
        let error = Cluster::builder().setting("max_connections", "many").start().await.unwrap_err();
        assert!(error.to_string().contains("max_connections"), "{error}");
    }

    #[tokio::test]
    async fn nobody_enters_without_the_password() {
        let cluster = Cluster::builder().start().await.unwrap();
        let url = format!("postgres://postgres:wrong@{HOST}:{}/postgres", cluster.port());
        let error = tokio_postgres::connect(&url, NoTls).await.err().unwrap();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));
    }
}
