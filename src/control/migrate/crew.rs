//! Those who work on one server: each with a connection that goes from place to place.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::super::apply::{self, ApplyConfig, Ground, Progress};
use super::super::connection::{ATTEMPTS_MAX, Connection, admin_credentials, app_credentials, pause};
use super::super::database;
use super::super::error::Error;
use super::super::place::Place;
use super::super::schema::Grantees;
use super::super::tenants::chain;
use super::fleet::{Target, Work};
use super::outcome::{Outcome, Problem};
use crate::auth::Credentials;
use crate::tenant::{Isolation, Pooling, Server};

/// A connection is left after so many places: the server's process remembers every table it has met.
const PLACES_MAX: u32 = 500;
/// How long a server that cannot be reached is not tried again.
const DOWN_FOR: Duration = Duration::from_secs(5);

/// What is done at each place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Task {
    /// Nothing: it is looked at.
    Look,
    /// What it has not had is applied.
    Apply,
    /// It is taken as being on this version.
    Baseline(i64),
}

/// A server and the connections to it.
#[derive(Debug)]
pub(super) struct Crew {
    server: Arc<Server>,
    config: ApplyConfig,
    admin: OnceCell<Credentials>,
    service: OnceCell<Credentials>,
    idle: Mutex<Vec<Session>>,
    /// Until when the server is not tried, and why.
    down: Mutex<Option<(Instant, String)>>,
}

/// A connection on its way from place to place.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    database: String,
    places: u32,
    /// Whether the bookkeeping of the database is known to be there.
    books: bool,
}

impl Crew {
    pub(super) fn new(server: Server, config: ApplyConfig) -> Self {
        Self {
            server: Arc::new(server),
            config,
            admin: OnceCell::new(),
            service: OnceCell::new(),
            idle: Mutex::default(),
            down: Mutex::default(),
        }
    }

    /// Most connections that may be open to the server at one time.
    pub(super) fn connections_max(&self) -> usize {
        self.server.max_connections.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX))
    }

    /// A connection that another has finished with.
    pub(super) fn idle(&self) -> Option<Session> {
        lock(&self.idle).pop()
    }

    /// Keeps a connection for those who come.
    pub(super) fn keep(&self, session: Session) {
        lock(&self.idle).push(session);
    }

    /// Does the task at a place.
    pub(super) async fn attend(&self, slot: &mut Option<Session>, target: &Target, task: Task) -> Outcome {
        let mut outcome = target.outcome();
        let Ok(work) = &target.work else { return outcome };
        let started = Instant::now();
        if let Err(error) = self.at(slot, work, task, &mut outcome).await {
            // Whatever state its connection is in.
            *slot = None;
            outcome.problem = Some(Problem::from(&error));
        }
        outcome.duration = started.elapsed();
        outcome
    }

    async fn at(
        &self,
        slot: &mut Option<Session>,
        work: &Work,
        task: Task,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let Work { place, files, managed } = work;
        let session = self.session(slot, place).await?;
        session.places += 1;
        let mut progress = Progress::default();
        if matches!(task, Task::Look) {
            let pending = apply::pending(&session.connection, place, files, &self.config, &mut progress).await;
            outcome.version = progress.version;
            outcome.pending = pending?.into_iter().map(|file| file.name.clone()).collect();
            return Ok(());
        }
        if !session.books {
            database::open_books(&mut session.connection).await?;
            session.books = true;
        }
        let connection = &session.connection;
        let (progress, done) = match task {
            Task::Baseline(version) => apply::baseline(connection, place, files, version).await,
            Task::Apply | Task::Look => {
                let owner = if *managed { place.owner() } else { owner_of(connection, place).await? };
                let grantees = self.grantees(place).await?;
                let ground = Ground { place, owner: &owner, grantees: &grantees };
                apply::apply(connection, &ground, files, &self.config).await
            }
        };
        (outcome.applied, outcome.version) = (progress.applied, progress.version);
        done
    }

    async fn grantees(&self, place: &Place) -> Result<Grantees, Error> {
        // The service login's name alone is wanted; on common rows whoever has rights keeps them.
        let service = match (place.isolation, place.pooling) {
            (Isolation::Schema | Isolation::Database, Pooling::Shared) => {
                Some(self.service.get_or_try_init(|| app_credentials(&self.server)).await?.user.as_str())
            }
            _ => None,
        };
        Ok(Grantees::of(place, service))
    }

    /// The connection in the slot, if it is one to the place's database, else a new one.
    async fn session<'a>(&self, slot: &'a mut Option<Session>, place: &Place) -> Result<&'a mut Session, Error> {
        let database = place.database.as_str();
        let good = |session: &Session| {
            session.database == database && session.places < PLACES_MAX && !session.connection.client.is_closed()
        };
        match slot.take().filter(good) {
            Some(session) => Ok(slot.insert(session)),
            None => {
                let connection = self.connect(database).await?;
                Ok(slot.insert(Session { connection, database: database.to_owned(), places: 0, books: false }))
            }
        }
    }

    /// A new connection. A server that cannot be reached is not asked anew for each of its places.
    async fn connect(&self, database: &str) -> Result<Connection, Error> {
        let mut attempt = 0;
        loop {
            let down = lock(&self.down).clone().filter(|(until, _)| Instant::now() < *until);
            if let Some((_, error)) = down {
                return Err(Error::Down { server: self.server.name.clone(), why: error });
            }
            attempt += 1;
            match self.open(database).await {
                Err(error) if attempt < ATTEMPTS_MAX && is_crowded(&error) => pause(attempt).await,
                Err(error) if is_unreachable(&error) => {
                    *lock(&self.down) = Some((Instant::now() + DOWN_FOR, chain(&error)));
                    return Err(error);
                }
                opened => return opened,
            }
        }
    }

    async fn open(&self, database: &str) -> Result<Connection, Error> {
        let admin = self.admin.get_or_try_init(|| admin_credentials(&self.server)).await?;
        Connection::open(&self.server, admin, database).await
    }
}

/// Who owns an adopted place: migrations there run as that role, never with the rights of an admin.
async fn owner_of(connection: &Connection, place: &Place) -> Result<String, Error> {
    let failed = |source| connection.failed("look for the owner of the place", source);
    // `public` belongs to whoever owns the database.
    let sql = "SELECT r.rolname::text, r.rolsuper OR r.rolbypassrls OR r.rolreplication OR r.rolcreaterole OR r.rolcreatedb \
               FROM pg_namespace n JOIN pg_database d ON d.datname = current_database() \
               JOIN pg_roles o ON o.oid = n.nspowner \
               JOIN pg_roles r ON r.oid = CASE o.rolname WHEN 'pg_database_owner' THEN d.datdba ELSE n.nspowner END \
               WHERE n.nspname = $1";
    let rows = connection.client.query_typed(sql, &[(&place.schema_name(), Type::NAME)]).await.map_err(failed)?;
    let server = connection.server().clone();
    let Some(row) = rows.first() else { return Err(Error::NoSchema { place: place.to_string(), server }) };
    let (owner, powerful): (String, bool) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    if powerful { Err(Error::PowerfulOwner { place: place.to_string(), owner, server }) } else { Ok(owner) }
}

/// Whether a connection was refused for want of room, or of time since the server's start.
fn is_crowded(error: &Error) -> bool {
    let codes = [SqlState::TOO_MANY_CONNECTIONS, SqlState::CANNOT_CONNECT_NOW];
    matches!(error, Error::Connect { source, .. } if source.code().is_some_and(|code| codes.contains(code)))
}

/// Whether the server gave no answer at all.
fn is_unreachable(error: &Error) -> bool {
    match error {
        Error::ConnectTimeout { .. } => true,
        Error::Connect { source, .. } => source.as_db_error().is_none(),
        _ => false,
    }
}

/// A lock whose holders never leave it half-changed, so that poisoning means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
