//! How a pool makes connections to one database of one server.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::conn::ServerConn;
use super::connect::{Connected, connect};
use super::departure::Departure;
use super::endpoint::Endpoint;
use super::error::ConnectError;
use super::key::PoolKey;
use super::standing::Standings;
use super::target::{Credential, Target};
use super::traffic::Traffic;
use super::want::Want;
use crate::pool::{Checkout, Lane, Manage, Permits, Pool};

/// A pool of connections to one database, as one role.
pub type ServerPool = Pool<Servers>;
/// A connection on loan.
pub type ServerCheckout = Checkout<Servers>;

/// Opens connections to one database of one server as one role.
#[derive(Debug)]
pub struct Servers {
    key: Rc<PoolKey>,
    endpoint: Arc<Endpoint>,
    credential: RefCell<Credential>,
    front: Handle,
    traffic: Traffic,
    /// Changes of schemas that were seen to be made through it.
    schema_changes: Cell<u64>,
    standings: Rc<Standings>,
}

impl Servers {
    /// Connections as the key says, opened on the runtime for expensive work, each within this time.
    #[must_use]
    pub fn new(key: &PoolKey, credential: Credential, front: Handle, connect_timeout: Duration) -> Self {
        Self {
            endpoint: Endpoint::new(key.address.clone(), connect_timeout),
            key: Rc::new(key.clone()),
            credential: RefCell::new(credential),
            front,
            traffic: Traffic::default(),
            schema_changes: Cell::new(0),
            standings: Rc::default(),
        }
    }

    /// Where its connections go.
    #[must_use]
    pub const fn key(&self) -> &Rc<PoolKey> {
        &self.key
    }

    /// The credential of the latest login is the one to use: an earlier one may be out of date.
    pub fn set_credential(&self, credential: Credential) {
        self.credential.replace(credential);
    }

    /// What has passed through its connections.
    #[must_use]
    pub const fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// How often schemas were changed, as far as its connections showed.
    pub fn schema_changes(&self) -> u64 {
        self.schema_changes.get()
    }

    /// A schema was changed: statements that were prepared before may mean something else now.
    pub fn schema_changed(&self) {
        self.schema_changes.set(self.schema_changes.get() + 1);
    }

    /// When the roles that its clients need were last seen to be ones that may log in.
    #[must_use]
    pub const fn standings(&self) -> &Rc<Standings> {
        &self.standings
    }

    /// The server.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Manage for Servers {
    type Conn = ServerConn;
    type Want = Rc<Want>;
    type Error = ConnectError;

    fn lane<'a>(&self, want: &'a Rc<Want>) -> Option<&'a Rc<Lane>> {
        want.lane.as_ref()
    }

    fn class(&self, want: &Rc<Want>) -> u64 {
        want.class
    }

    fn affinity(&self, want: &Rc<Want>) -> u64 {
        want.affinity
    }

    fn class_of(&self, conn: &ServerConn) -> u64 {
        conn.class
    }

    fn affinity_of(&self, conn: &ServerConn) -> u64 {
        conn.affinity
    }

    fn is_alive(&self, conn: &mut ServerConn) -> bool {
        conn.is_alive()
    }

    fn connect(
        &self,
        want: &Rc<Want>,
        permits: Permits,
    ) -> impl Future<Output = Result<ServerConn, ConnectError>> + 'static {
        let target = Target {
            endpoint: Arc::clone(&self.endpoint),
            database: self.key.database.clone(),
            user: self.key.user.clone(),
            startup: want.startup.clone(),
            credential: self.credential.borrow().clone(),
            require_schema: want.require_schema.clone(),
        };
        let (front, want) = (self.front.clone(), Rc::clone(want));
        let (standings, user) = (Rc::clone(&self.standings), self.key.user.clone());
        async move {
            let endpoint = Arc::clone(&target.endpoint);
            let mut task = Task(front.spawn(async move { logged(target).await }));
            let connected = (&mut task.0).await.unwrap_or(Err(ConnectError::Shutdown))?;
            standings.note(&user, Instant::now());
            let departure = Departure::new(permits, front);
            let attached = ServerConn::attach(connected, endpoint, &want, departure);
            attached.map_err(ConnectError::io("take the connection over"))
        }
    }

    fn counts_against_server(&self, error: &ConnectError) -> bool {
        error.counts_against_server()
    }
}

/// Ends with whoever waits for it.
struct Task(JoinHandle<Result<Connected, ConnectError>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects, and logs a failure: here once, with what clients are not told.
async fn logged(target: Target) -> Result<Connected, ConnectError> {
    let result = connect(&target).await;
    if let Err(error) = &result {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let Target { endpoint, database, user, .. } = &target;
        tracing::warn!(%endpoint, %database, %user, %error, cause, "connecting to a server failed");
    }
    result
}
