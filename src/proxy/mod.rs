//! The data plane: accepts clients, hands them to the thread of their tenant, drains.

mod activity;
mod adoption;
mod attempts;
mod clients;
mod door;
mod error;
mod homes;
mod leases;
mod listener;
mod login;
mod operations;
mod peers;
mod recall;
mod seats;
mod settings;
mod snapshot;
mod view;
mod watch;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch as watch_channel;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use self::activity::Activity;
use self::adoption::Adoption;
use self::attempts::Attempts;
use self::clients::Clients;
use self::door::Door;
use self::homes::Homes;
use self::leases::Leasing;
use self::listener::Listeners;
use self::operations::Order;
use self::peers::Peers;
use self::seats::Seats;
use self::worker::{Command, Configuration, Settings, Worker};
use crate::auth::MockKey;
use crate::backend::{PoolBudget, ServerUse};
use crate::frontend::{Encryption, IdentifyConfig, ListenConfig};
use crate::net::tls::{install_provider, server_config};
use crate::registry::Registry;
use crate::session::{CancelKeys, ClientState, Doing};
use crate::{console, limits, pool, session};

pub use adoption::Adopted;
pub use error::Error;
pub use listener::Inherited;
pub use operations::Request;
pub use snapshot::Snapshot;
pub use view::View;

/// How long a client over `max_clients` has to hear that.
const SURPLUS_TIMEOUT: Duration = Duration::from_secs(5);
/// Most clients over `max_clients` that are told so at one time; the rest is just closed.
const SURPLUS_MAX: usize = 64;
/// Most users of the console at one time.
const CONSOLE_USERS_MAX: usize = 32;
/// How often it is said who is still waited for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// How long sessions have to end when they were told to end now.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings of the data plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[listen]`.
    pub listen: ListenConfig,
    /// `[identify]`.
    pub identify: IdentifyConfig,
    /// `[pool]`.
    pub pool: pool::Config,
    /// `[limits]`.
    pub limits: limits::Config,
    /// `[timeouts]`.
    pub timeouts: session::Config,
    /// `[console]`.
    pub console: console::Config,
}

/// What can change while the proxy runs.
struct Live {
    listen: ListenConfig,
    identify: IdentifyConfig,
    pool: pool::Config,
    limits: limits::Config,
    timeouts: session::Config,
    console: console::Config,
    tls: Option<Encryption>,
}

/// What a reload puts in place, once it was looked at.
pub struct Prepared(Live);

/// What the front's tasks share.
struct Shared {
    live: ArcSwap<Live>,
    registry: Registry,
    mock: MockKey,
    /// Clients that logged in, as the recorder of the metrics keeps them.
    logins: metrics::Counter,
    keys: CancelKeys,
    peers: Peers,
    leasing: Arc<Leasing>,
    homes: Homes,
    budget: Arc<PoolBudget>,
    seats: Arc<Seats>,
    workers: Vec<Worker>,
    next_session: AtomicU64,
    adoption: Adoption,
    activity: Activity,
    attempts: Attempts,
    clients: Arc<Clients>,
    surplus: Arc<Semaphore>,
    /// Room for users of the console, who do not count as clients.
    console_users: Arc<Semaphore>,
    started: Instant,
    /// Whose transactions are held.
    paused: ArcSwap<Vec<Order>>,
    /// Who lets no new client in.
    disabled: ArcSwap<Vec<Order>>,
    requests: UnboundedSender<Request>,
    /// No client is accepted any more.
    full: Notify,
    closing: watch_channel::Sender<bool>,
}

/// A running proxy. It serves until [`Proxy::shutdown`].
pub struct Proxy {
    shared: Arc<Shared>,
    tcp_address: Option<SocketAddr>,
    unix_path: Option<PathBuf>,
    /// Told when no client is accepted any more.
    accepting: Option<oneshot::Receiver<()>>,
    watching: JoinHandle<()>,
    recording: JoinHandle<()>,
    leasing: JoinHandle<()>,
    /// What other instances pass on is heard as long as there are sessions.
    meeting: JoinSet<()>,
    requests: UnboundedReceiver<Request>,
}

impl Proxy {
    /// Binds the sockets, starts the threads, and serves. The runtime this is called on does logins and connecting: it
    /// should have more than one thread.
    ///
    /// # Errors
    /// [`Error`]: a socket, the certificate, a thread.
    pub async fn start(config: Config, registry: Registry) -> Result<Self, Error> {
        Self::start_on(Inherited::default(), config, registry).await
    }

    /// The same on the sockets that whoever started the process has made for it, where there are any; they stand in for the configured
    /// ones.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub async fn start_on(inherited: Inherited, config: Config, registry: Registry) -> Result<Self, Error> {
        install_provider();
        let live = Live::new(&config)?;
        let listeners = Listeners::take(inherited, &config.listen).await?;
        let (tcp_address, unix_path) = (listeners.tcp_address(), listeners.unix_path());
        let keys = CancelKeys::default();
        let (met, peer_listener) = Peers::bind(config.listen.peer_address.as_deref()).await?;
        let (peers, inboxes): (Vec<_>, Vec<_>) =
            (0..threads(config.listen.threads)).map(|_| unbounded_channel()).unzip();
        let (leasing, budget) = (Leasing::new(&registry), PoolBudget::new(config.pool.max_pools));
        let (pool, limits, timeouts) = (config.pool, config.limits, config.timeouts);
        let settings = Settings {
            front: Handle::current(),
            engine: config.listen.engine,
            budget: Arc::clone(&budget),
            quotas: Arc::clone(leasing.quotas()),
            configuration: Configuration { pool, limits, timeouts },
            keys: keys.clone(),
            peers,
        };
        let workers = inboxes
            .into_iter()
            .enumerate()
            .map(|(index, inbox)| Worker::start(index, settings.clone(), inbox))
            .collect::<Result<Vec<_>, _>>()
            .map_err(Error::Thread)?;
        if let Some(engine) = workers.first().map(|worker| worker.engine().name()) {
            tracing::info!(engine, threads = workers.len(), "relay threads started");
            metrics::gauge!(crate::metrics::ENGINE, "engine" => engine).set(1.0);
        }
        let (request, requests) = unbounded_channel();
        let shared = Arc::new(Shared {
            live: ArcSwap::from_pointee(live),
            registry,
            mock: MockKey::random(),
            logins: metrics::counter!(crate::metrics::LOGINS),
            keys,
            peers: met,
            leasing: Arc::clone(&leasing),
            homes: Homes::new(workers.len()),
            budget,
            seats: Arc::default(),
            workers,
            next_session: AtomicU64::new(1),
            adoption: Adoption::default(),
            activity: Activity::default(),
            attempts: Attempts::default(),
            clients: Arc::default(),
            surplus: Arc::new(Semaphore::new(SURPLUS_MAX)),
            console_users: Arc::new(Semaphore::new(CONSOLE_USERS_MAX)),
            started: Instant::now(),
            paused: ArcSwap::default(),
            disabled: ArcSwap::default(),
            requests: request,
            full: Notify::new(),
            closing: watch_channel::Sender::new(false),
        });
        let accepting = Some(Door::open(&shared, listeners));
        let watching = tokio::spawn(watch::follow(Arc::clone(&shared)));
        let recording = tokio::spawn(activity::keep(Arc::clone(&shared)));
        let leasing = tokio::spawn(leasing.keep());
        let mut meeting = JoinSet::new();
        if let Some(listener) = peer_listener {
            meeting.spawn(peers::listen(Arc::clone(&shared), listener));
            meeting.spawn(Peers::keep(Arc::clone(&shared)));
        }
        Ok(Self { shared, tcp_address, unix_path, accepting, watching, recording, leasing, meeting, requests })
    }

    /// Where it listens for TCP.
    #[must_use]
    pub const fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp_address
    }

    /// Its Unix socket.
    #[must_use]
    pub const fn unix_path(&self) -> Option<&PathBuf> {
        self.unix_path.as_ref()
    }

    /// The next thing that the console asks of the process. Cancel-safe.
    pub async fn request(&mut self) -> Option<Request> {
        self.requests.recv().await
    }

    /// Accepts no more clients and waits until the last one has left by itself.
    pub async fn until_left(&mut self) {
        self.stop_accepting().await;
        while tokio::time::timeout(PROGRESS_INTERVAL, self.shared.clients.gone()).await.is_err() {
            tracing::info!(clients = self.clients(), "still waiting for clients to leave");
        }
    }

    /// What it is doing now.
    pub async fn snapshot(&self) -> Snapshot {
        self.shared.snapshot().await
    }

    /// Who has named a tenant and who has not, by login and address; empty without a default tenant.
    #[must_use]
    pub fn adoption(&self) -> Vec<Adopted> {
        self.shared.adoption.list()
    }

    /// How far the connections of each server are used by all pools together.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerUse> {
        self.shared.leasing.quotas().servers()
    }

    /// How many clients are connected.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.shared.clients.count()
    }

    /// Looks at what a reload would put in place.
    ///
    /// # Errors
    /// The new certificate is of no use.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, Error> {
        Ok(Prepared(Live::new(config)?))
    }

    /// Puts it in place: all but the sockets and the threads, for which it takes a restart.
    pub fn apply(&self, prepared: Prepared) {
        let Prepared(mut new) = prepared;
        let old = self.shared.live.load_full();
        // What is shown is what holds.
        new.listen.address.clone_from(&old.listen.address);
        new.listen.unix_socket_dir.clone_from(&old.listen.unix_socket_dir);
        new.listen.threads = old.listen.threads;
        new.listen.engine = old.listen.engine;
        new.listen.reuse_port = old.listen.reuse_port;
        new.listen.peer_address.clone_from(&old.listen.peer_address);
        let leaf = |live: &Live| live.tls.as_ref().map(|encryption| Arc::clone(&encryption.tls.certificate));
        if leaf(&new) != leaf(&old) {
            tracing::info!("new clients are shown another certificate");
        }
        self.shared.budget.set_max(new.pool.max_pools);
        self.tell_all(|| {
            let (pool, limits, timeouts) = (new.pool.clone(), new.limits, new.timeouts.clone());
            Command::Configure(Box::new(Configuration { pool, limits, timeouts }))
        });
        self.shared.live.store(Arc::new(new));
        self.shared.workers.iter().for_each(|worker| worker.recall.clear());
    }

    /// Both at once.
    ///
    /// # Errors
    /// As [`Proxy::prepare`]; nothing changes then.
    pub fn reload(&self, config: &Config) -> Result<(), Error> {
        self.apply(self.prepare(config)?);
        Ok(())
    }

    /// Accepts no more clients, lets running transactions end within `grace`, tells everyone 57P01, closes everything.
    pub async fn shutdown(mut self, grace: Duration) {
        self.stop_accepting().await;
        self.watching.abort();
        self.recording.abort();
        // Aborted tasks end with an error that says so.
        let _ = (&mut self.watching).await;
        let _ = (&mut self.recording).await;
        self.shared.closing.send_replace(true);
        self.shared.leasing.leave();
        tracing::info!(clients = self.clients(), "draining");
        self.tell_all(|| Command::Drain);
        if !self.all_gone_within(grace).await {
            tracing::warn!(clients = self.clients(), "grace is over, ending sessions in their transactions");
            self.tell_all(|| Command::Kill);
            if tokio::time::timeout(KILL_TIMEOUT, self.shared.clients.gone()).await.is_err() {
                tracing::error!(clients = self.clients(), "sessions did not end");
            }
        }
        if !self.shared.registry.activity_interval().is_zero()
            && let Err(error) = activity::tell(&self.shared).await
        {
            tracing::warn!(%error, "the last logins are not told to the registry");
        }
        self.meeting.shutdown().await;
        self.shared.peers.leave(&self.shared.registry).await;
        self.tell_all(|| Command::Stop);
        let leasing = Arc::clone(&self.shared.leasing);
        let joined = tokio::task::spawn_blocking(move || {
            // Logins still under way hold the other references; they end with the runtime.
            if let Some(shared) = Arc::into_inner(self.shared) {
                shared.workers.into_iter().for_each(|mut worker| worker.join());
            }
        });
        if let Err(error) = joined.await {
            tracing::error!(%error, "relay threads were not waited for");
        }
        leasing.end(self.leasing).await;
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        self.shared.workers.iter().for_each(|worker| worker.tell(command()));
    }

    /// Takes the clients that are at the door, and no more.
    async fn stop_accepting(&mut self) {
        self.shared.full.notify_one();
        if let Some(accepting) = self.accepting.take()
            && let Err(error) = accepting.await
        {
            tracing::error!(%error, "accepting clients");
        }
    }

    /// Whether the last client has left before the grace is over; says now and then how many are left.
    async fn all_gone_within(&self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left.min(PROGRESS_INTERVAL), self.shared.clients.gone()).await.is_ok() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let is_busy = |client: &ClientState| matches!(client.doing, Doing::Active | Doing::IdleInTransaction);
            let in_transaction = self.snapshot().await.clients.iter().filter(|client| is_busy(client)).count();
            let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
            tracing::info!(clients = self.clients(), in_transaction, %left, "still draining");
        }
    }
}

impl Live {
    fn new(config: &Config) -> Result<Self, Error> {
        let listen = &config.listen;
        let tls = match (&listen.tls_certificate, &listen.tls_key) {
            (Some(certificate), Some(key)) => {
                let tls = server_config(certificate, key, listen.client_ca.as_deref())?;
                Some(Encryption { tls, runtime: Handle::current() })
            }
            _ => None,
        };
        Ok(Self {
            listen: listen.clone(),
            identify: config.identify.clone(),
            pool: config.pool.clone(),
            limits: config.limits,
            timeouts: config.timeouts.clone(),
            console: config.console.clone(),
            tls,
        })
    }
}

fn threads(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}
