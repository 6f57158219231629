//! Two tenants on one ground, and the proxy through which they meet.

use std::net::SocketAddr;

use super::error::Error;
use super::session::Session;
use crate::auth::Secret;
use crate::tenant::{Isolation, PoolMode, Pooling, quote_ident};

/// What separates two tenants, and whose connections serve them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ground {
    /// What separates them.
    pub isolation: Isolation,
    /// Whose connections serve them.
    pub pooling: Pooling,
    /// How long a client keeps one.
    pub pool_mode: PoolMode,
}

/// One of the two.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The user name that names it.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// Its id.
    pub id: String,
    /// The database that its place is in.
    pub database: String,
    /// The schema of its place.
    pub schema: String,
    /// The role that its own logins open; on shared pools nobody's session has it.
    pub role: String,
    /// What nobody else may read: the only row of its table.
    pub secret: String,
}

/// Two tenants of a module, alike but for their names, and where to reach them.
#[derive(Debug, Clone)]
pub struct Scene {
    /// What is between them.
    pub ground: Ground,
    /// The module that both have.
    pub module: String,
    /// A module of the thief's whose schema is nowhere, where the isolation has schemas.
    pub gone: Option<String>,
    /// A proxy with one connection for each pool: whoever comes next gets what the last one had.
    pub narrow: SocketAddr,
    /// A proxy with room for several.
    pub wide: SocketAddr,
    /// The table that each has, with the columns `id` and `note`; the victim's has one more where tables are not common.
    pub table: String,
    /// No other scene has this number: it keeps its advisory locks apart.
    pub number: u32,
    /// Who has something to lose.
    pub victim: Probe,
    /// Who is after it.
    pub thief: Probe,
}

/// Which proxy a session goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The one with a single connection.
    Narrow,
    /// The one with several.
    Wide,
}

impl Scene {
    /// Gives each of the two its row.
    ///
    /// # Errors
    /// One of them cannot log in, or cannot write to its own table.
    pub async fn stock(&self) -> Result<(), Error> {
        for probe in [&self.victim, &self.thief] {
            let mut session = self.session(probe, Way::Wide).await?;
            let insert = format!("INSERT INTO {} (note) VALUES ('{}')", self.table, probe.secret);
            session.must("write to one's own table", &insert).await?;
            session.leave().await;
        }
        Ok(())
    }

    /// A session of the victim's.
    pub(super) async fn victim(&self, way: Way) -> Result<Session, Error> {
        self.session(&self.victim, way).await
    }

    /// A session of the thief's.
    pub(super) async fn thief(&self, way: Way) -> Result<Session, Error> {
        self.session(&self.thief, way).await
    }

    /// A session of either's on the one connection.
    pub(super) async fn narrow_session(&self, probe: &Probe) -> Result<Session, Error> {
        self.session(probe, Way::Narrow).await
    }

    async fn session(&self, probe: &Probe, way: Way) -> Result<Session, Error> {
        let config = self.config(probe, way);
        Session::open(&config).await.map_err(|source| Error::Login { user: probe.user.clone(), source })
    }

    /// How a probe's clients connect.
    pub(super) fn config(&self, probe: &Probe, way: Way) -> tokio_postgres::Config {
        let address = self.address(way);
        let mut config = tokio_postgres::Config::new();
        config.host(address.ip().to_string()).port(address.port()).ssl_mode(tokio_postgres::config::SslMode::Disable);
        config.user(&probe.user).password(probe.password.expose()).dbname(&self.module);
        config
    }

    /// Where a proxy listens.
    pub(super) const fn address(&self, way: Way) -> SocketAddr {
        match way {
            Way::Narrow => self.narrow,
            Way::Wide => self.wide,
        }
    }

    /// A statement aimed at the victim: `{schema}`, `{role}`, `{id}` and `{database}` are the victim's, `{table}` is what both have.
    pub(super) fn aimed(&self, sql: &str) -> String {
        let victim = &self.victim;
        sql.replace("{schema}", &quote_ident(&victim.schema))
            .replace("{schema_text}", &victim.schema)
            .replace("{role}", &quote_ident(&victim.role))
            .replace("{role_text}", &victim.role)
            .replace("{database}", &quote_ident(&victim.database))
            .replace("{id}", &victim.id)
            .replace("{table}", &self.table)
    }

    /// All that the tenants of the ground have in common is the server.
    pub(super) fn has_own_databases(&self) -> bool {
        self.ground.isolation == Isolation::Database
    }

    /// The tenants' rows are in the same tables.
    pub(super) fn has_common_tables(&self) -> bool {
        self.ground.isolation == Isolation::Shared
    }

    /// Both tenants' connections are the same.
    pub(super) fn has_common_connections(&self) -> bool {
        self.ground.pooling == Pooling::Shared
    }

    /// On the narrow way one of the two is there only when the other has left.
    pub(super) fn is_one_at_a_time(&self) -> bool {
        self.has_common_connections() && self.ground.pool_mode == PoolMode::Session
    }

    /// The key of an advisory lock of the scene's own.
    pub(super) fn lock(&self, turn: u32) -> i64 {
        i64::from(turn) << 32 | i64::from(self.number)
    }

    /// Reads all notes there are for whoever asks.
    pub(super) fn notes(&self) -> String {
        format!("SELECT note FROM {}", self.table)
    }

    /// What is wrong with what a tenant reads in its own table: nothing but its secret may be there.
    pub(super) async fn amiss(&self, session: &mut Session, probe: &Probe) -> Option<String> {
        let said = session.say(&self.notes()).await;
        let own = [[probe.secret.clone()]];
        (said.code.is_some() || said.rows != own).then(|| {
            let rows = said.rows.len();
            match &said.code {
                Some(code) => format!("cannot read its own table: {code} {}", said.summary()),
                None if said.text.contains(&self.other(probe).secret) => "reads the other's row".to_owned(),
                None => format!("reads {rows} rows, and not just its own"),
            }
        })
    }

    fn other(&self, probe: &Probe) -> &Probe {
        if probe.id == self.victim.id { &self.thief } else { &self.victim }
    }
}
