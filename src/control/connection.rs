//! A connection with which objects are made on a server: opened with the admin part of its secret, never used for a client's bytes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::config::SslMode as Ssl;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, Transaction};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::Error;
use crate::auth::{Credentials, Part, SecretRef};
use crate::fault;
use crate::net::tls;
use crate::tenant::{Server, ServerName, SslMode, quote_ident, quote_literal};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a statement of ours waits for a lock on an object.
pub(super) const LOCK_TIMEOUT: &str = "30s";
/// How often a step is tried when others change the same catalog rows at the same moment.
pub(crate) const ATTEMPTS_MAX: u32 = 12;
/// Upper bound of the pause before the second attempt; doubles with each, up to a second.
const PAUSE: Duration = Duration::from_millis(20);
/// How long to wait for one's turn at a time. A wait holds a snapshot, for whose end a `CREATE INDEX CONCURRENTLY` of whoever has the turn may be
/// waiting: it must be over before PostgreSQL looks for deadlocks (`deadlock_timeout`, one second unless set).
pub(super) const TURN_LOOK: &str = "500ms";
/// How long to wait for one's turn in all: a migration of a large place takes its time.
pub(crate) const TURN_WAIT: Duration = Duration::from_secs(1800);

/// The credentials with which objects are made on a server.
///
/// # Errors
/// [`Error::NoAdminSecret`], or [`Error::Secret`] when it cannot be resolved.
pub async fn admin_credentials(server: &Server) -> Result<Credentials, Error> {
    let secret = server.admin_secret.as_deref();
    let secret = secret.ok_or_else(|| Error::NoAdminSecret { server: server.name.clone() })?;
    resolve(server, secret, "admin", Part::Admin).await
}

/// The service login of a server's shared pools.
///
/// # Errors
/// [`Error::NoAppSecret`], or [`Error::Secret`] when it cannot be resolved.
pub async fn app_credentials(server: &Server) -> Result<Credentials, Error> {
    let secret = server.app_secret.as_deref();
    let secret = secret.ok_or_else(|| Error::NoAppSecret { server: server.name.clone() })?;
    resolve(server, secret, "app", Part::App).await
}

async fn resolve(server: &Server, secret: &str, what: &'static str, part: Part) -> Result<Credentials, Error> {
    let failed = |source| Error::Secret { server: server.name.clone(), what, source };
    secret.parse::<SecretRef>().map_err(failed)?.resolve(part).await.map_err(failed)
}

/// A connection to one database of a server; `search_path` is `pg_catalog`.
#[derive(Debug)]
pub struct Connection {
    pub(crate) client: Client,
    server: Arc<Server>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Connect`] and its like, naming server, database and role.
    pub async fn open(server: &Arc<Server>, credentials: &Credentials, database: &str) -> Result<Self, Error> {
        let client = connect(server, credentials, database).await?;
        let connection = Self { client, server: Arc::clone(server) };
        connection.settle().await?;
        Ok(connection)
    }

    /// Sets what the statements here rely on, whatever roles, databases or a migration have set before.
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        let settings = format!(
            "RESET ROLE; RESET ALL; SET search_path = pg_catalog; SET client_min_messages = warning; \
             SET statement_timeout = 0; SET lock_timeout = '{LOCK_TIMEOUT}'; SET idle_in_transaction_session_timeout = 0"
        );
        self.client.batch_execute(&settings).await.map_err(|source| self.failed("prepare the connection", source))
    }

    /// Makes the connection as good as new, turns given up.
    pub(crate) async fn renew(&self) -> Result<(), Error> {
        let discarded = self.client.batch_execute("DISCARD ALL").await;
        discarded.map_err(|source| self.failed("clear the connection", source))?;
        self.settle().await
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &ServerName {
        &self.server.name
    }

    /// A statement's failure, with what was being done and where.
    pub(crate) fn failed(&self, doing: &'static str, source: tokio_postgres::Error) -> Error {
        Error::Sql { doing, server: self.server.name.clone(), source }
    }

    /// Drops a database and ends all sessions in it; one that is gone already is no error. PostgreSQL waits five seconds for the sessions, which a busy
    /// machine needs longer for.
    pub(crate) async fn drop_database(&self, doing: &'static str, name: &str) -> Result<(), Error> {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(name));
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.client.batch_execute(&sql).await.map_err(|source| self.failed(doing, source)) {
                Err(error) if attempt < ATTEMPTS_MAX && error.is_transient() => pause(attempt).await,
                done => return done,
            }
        }
    }

    /// Begins a step, one at a time for all that hold the same `lock` word; [`Error::Busy`] when another has it. See [`in_step`].
    pub(crate) async fn begin(&mut self, doing: &'static str, lock: &str) -> Result<Step<'_>, Error> {
        let server = self.server.name.clone();
        let transaction = self.client.transaction().await;
        let transaction = transaction.map_err(|source| Error::Sql { doing, server: server.clone(), source })?;
        let step = Step { transaction, server, doing };
        let key = lock_key(lock);
        step.run(&format!(
            "SET LOCAL lock_timeout = '{TURN_LOOK}'; SELECT pg_advisory_xact_lock({key}); SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"
        ))
        .await
        .map_err(|error| busy(error, lock))?;
        Ok(step)
    }

    /// Takes the turn of a `lock` word until [`Connection::renew`] or the connection's end.
    ///
    /// # Errors
    /// [`Error::Busy`] when another has it for too long.
    pub(crate) async fn take_turn(&self, doing: &'static str, lock: &str) -> Result<(), Error> {
        let began = Instant::now();
        let take = format!("SET lock_timeout = '{TURN_LOOK}'; SELECT pg_advisory_lock({})", lock_key(lock));
        loop {
            match self.client.batch_execute(&take).await.map_err(|source| busy(self.failed(doing, source), lock)) {
                Err(Error::Busy { .. }) if began.elapsed() < TURN_WAIT => {}
                done => return done,
            }
        }
    }
}

/// Runs work in a transaction of its own, and again when another session collided with it: `in_step!(connection, doing, lock, |step| future)`.
/// The work must be repeatable. A macro and not a function, since an async closure's future is not known to be `Send`.
macro_rules! in_step {
    ($connection:expr, $doing:expr, $lock:expr, |$step:ident| $work:expr) => {{
        let began = std::time::Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let done = match $connection.begin($doing, $lock).await {
                Ok($step) => match $work.await {
                    Ok(value) => $step.commit().await.map(|()| value),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            match done {
                Err($crate::control::error::Error::Busy { .. })
                    if began.elapsed() < $crate::control::connection::TURN_WAIT =>
                {
                    attempt -= 1;
                }
                Err(error) if attempt < $crate::control::connection::ATTEMPTS_MAX && error.is_transient() => {
                    tracing::debug!(doing = $doing, attempt, %error, "collided with another session; trying again");
                    $crate::control::connection::pause(attempt).await;
                }
                done => break done,
            }
        }
    }};
}
pub(crate) use in_step;

/// One step of provisioning: a transaction that either happened whole or not at all.
pub(crate) struct Step<'a> {
    pub(crate) transaction: Transaction<'a>,
    pub(crate) server: ServerName,
    doing: &'static str,
}

impl Step<'_> {
    /// Ends the step; what it did holds from now on.
    pub(crate) async fn commit(self) -> Result<(), Error> {
        let Self { transaction, server, doing } = self;
        fault::point("before", doing);
        transaction.commit().await.map_err(|source| Error::Sql { doing, server, source })?;
        fault::point("after", doing);
        Ok(())
    }

    /// Runs statements without parameters.
    pub(crate) async fn run(&self, sql: &str) -> Result<(), Error> {
        self.transaction.batch_execute(sql).await.map_err(|source| self.failed(source))
    }

    /// Runs a statement; how many rows it changed.
    pub(crate) async fn execute(&self, sql: &str) -> Result<u64, Error> {
        self.transaction.execute(sql, &[]).await.map_err(|source| self.failed(source))
    }

    /// Rows of a query.
    pub(crate) async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, Error> {
        self.transaction.query(sql, parameters).await.map_err(|source| self.failed(source))
    }

    /// The one value of a query that gives exactly one row.
    pub(crate) async fn value<T: for<'r> tokio_postgres::types::FromSql<'r>>(
        &self,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<T, Error> {
        let row = self.transaction.query_one(sql, parameters).await.map_err(|source| self.failed(source))?;
        row.try_get(0).map_err(|source| self.failed(source))
    }

    pub(crate) fn failed(&self, source: tokio_postgres::Error) -> Error {
        Error::Sql { doing: self.doing, server: self.server.clone(), source }
    }
}

/// The number of a lock word, as PostgreSQL computes it.
fn lock_key(lock: &str) -> String {
    format!("pg_catalog.hashtextextended({}, 0)", quote_literal(&format!("pgtenant:{lock}")))
}

/// A wait for one's turn that came to nothing is no failure of a statement.
pub(super) fn busy(error: Error, lock: &str) -> Error {
    match error {
        Error::Sql { doing, server, source } if source.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            Error::Busy { doing, lock: lock.to_owned(), server }
        }
        error => error,
    }
}

/// Waits a random time that grows with the attempts, so that those who collided do not meet again.
pub(crate) async fn pause(attempt: u32) {
    let most = PAUSE.saturating_mul(1 << attempt.min(6)).min(Duration::from_secs(1));
    tokio::time::sleep(most.mul_f64(rand::random_range(0.2..1.0))).await;
}

async fn connect(server: &Server, credentials: &Credentials, database: &str) -> Result<Client, Error> {
    let mut config = Config::new();
    config.host(&server.host).port(server.port).user(&credentials.user).dbname(database);
    config.application_name("pgtenant").connect_timeout(CONNECT_TIMEOUT);
    if let Some(password) = &credentials.password {
        config.password(password.expose());
    }
    let ca = server.ca_file.as_deref().map(Path::new);
    let tls = tls::client_config(server.sslmode, ca)
        .map_err(|source| Error::Tls { server: server.name.clone(), source })?
        .filter(|_| !server.host.starts_with('/'));
    config.ssl_mode(match (server.sslmode, &tls) {
        (_, None) => Ssl::Disable,
        (SslMode::Disable | SslMode::Prefer, _) => Ssl::Prefer,
        (SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull, _) => Ssl::Require,
    });
    let failed = |source| Error::Connect {
        server: server.name.clone(),
        database: database.to_owned(),
        user: credentials.user.clone(),
        source,
    };
    let connecting = async {
        match tls {
            None => config.connect(NoTls).await.map(|(client, connection)| (client, tokio::spawn(connection))),
            Some(tls) => {
                let tls = MakeRustlsConnect::new((*tls).clone());
                config.connect(tls).await.map(|(client, connection)| (client, tokio::spawn(connection)))
            }
        }
    };
    // The spawned task drives the socket; it ends with the client, and what it dies of the client's next statement reports.
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map(|(client, _)| client).map_err(failed),
        Err(_) => Err(Error::ConnectTimeout { server: server.name.clone(), seconds: CONNECT_TIMEOUT.as_secs() }),
    }
}
