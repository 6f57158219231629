//! The data plane: accepts clients, hands them to the thread of their tenant, drains.

mod activity;
mod adoption;
mod error;
mod listener;
mod login;
mod operations;
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
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch as watch_channel;
use tokio::task::JoinHandle;

use self::activity::Activity;
use self::adoption::Adoption;
use self::listener::Listeners;
use self::operations::Order;
use self::worker::{Command, Settings, Worker};
use crate::auth::MockKey;
use crate::backend::PoolBudget;
use crate::frontend::{IdentifyConfig, ListenConfig};
use crate::net::ServerTls;
use crate::net::tls::{install_provider, server_config};
use crate::protocol::CancelKey;
use crate::registry::Registry;
use crate::session::CancelKeys;
use crate::{console, pool, session};

pub use adoption::Adopted;
pub use error::Error;
pub use operations::Request;
pub use snapshot::Snapshot;
pub use view::View;

/// How long a client over `max_clients` has to hear that.
const SURPLUS_TIMEOUT: Duration = Duration::from_secs(5);
/// Most clients over `max_clients` that are told so at one time; the rest is just closed.
const SURPLUS_MAX: usize = 64;
/// Most users of the console at one time.
const CONSOLE_USERS_MAX: usize = 32;
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
    timeouts: session::Config,
    console: console::Config,
    tls: Option<Arc<ServerTls>>,
}

/// What the front's tasks share.
struct Shared {
    live: ArcSwap<Live>,
    registry: Registry,
    mock: MockKey,
    keys: CancelKeys,
    workers: Vec<Worker>,
    next_session: AtomicU64,
    adoption: Adoption,
    activity: Activity,
    clients: Arc<Semaphore>,
    clients_max: u32,
    surplus: Arc<Semaphore>,
    /// Room for users of the console, who do not count as clients.
    console_users: Arc<Semaphore>,
    started: Instant,
    /// Whose transactions are held.
    paused: ArcSwap<Vec<Order>>,
    /// Who lets no new client in.
    disabled: ArcSwap<Vec<Order>>,
    requests: UnboundedSender<Request>,
    closing: watch_channel::Sender<bool>,
}

/// A running proxy. It serves until [`Proxy::shutdown`].
pub struct Proxy {
    shared: Arc<Shared>,
    tcp_address: Option<SocketAddr>,
    unix_path: Option<PathBuf>,
    accepting: JoinHandle<()>,
    watching: JoinHandle<()>,
    recording: JoinHandle<()>,
    clients_max: u32,
    requests: UnboundedReceiver<Request>,
}

impl Proxy {
    /// Binds the sockets, starts the threads, and serves. The runtime this is called on does logins and connecting: it
    /// should have more than one thread.
    ///
    /// # Errors
    /// [`Error`]: a socket, the certificate, a thread.
    pub async fn start(config: Config, registry: Registry) -> Result<Self, Error> {
        install_provider();
        let live = Live::new(&config)?;
        let listeners = Listeners::bind(&config.listen).await?;
        let (tcp_address, unix_path) = (listeners.tcp_address(), listeners.unix_path());
        let keys = CancelKeys::default();
        let (peers, inboxes): (Vec<_>, Vec<_>) =
            (0..threads(config.listen.threads)).map(|_| unbounded_channel()).unzip();
        let settings = Settings {
            front: tokio::runtime::Handle::current(),
            budget: PoolBudget::new(config.pool.max_pools),
            pool: config.pool,
            timeouts: config.timeouts,
            keys: keys.clone(),
            peers,
        };
        let workers = inboxes
            .into_iter()
            .enumerate()
            .map(|(index, inbox)| Worker::start(index, settings.clone(), inbox))
            .collect::<Result<Vec<_>, _>>()
            .map_err(Error::Thread)?;
        let clients_max = config.listen.max_clients;
        let (request, requests) = unbounded_channel();
        let shared = Arc::new(Shared {
            live: ArcSwap::from_pointee(live),
            registry,
            mock: MockKey::random(),
            keys,
            workers,
            next_session: AtomicU64::new(1),
            adoption: Adoption::default(),
            activity: Activity::default(),
            clients: Arc::new(Semaphore::new(clients_max as usize)),
            clients_max,
            surplus: Arc::new(Semaphore::new(SURPLUS_MAX)),
            console_users: Arc::new(Semaphore::new(CONSOLE_USERS_MAX)),
            started: Instant::now(),
            paused: ArcSwap::default(),
            disabled: ArcSwap::default(),
            requests: request,
            closing: watch_channel::Sender::new(false),
        });
        let accepting = tokio::spawn(accept(Arc::clone(&shared), listeners));
        let watching = tokio::spawn(watch::follow(Arc::clone(&shared)));
        let recording = tokio::spawn(activity::keep(Arc::clone(&shared)));
        Ok(Self { shared, tcp_address, unix_path, accepting, watching, recording, clients_max, requests })
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
    pub async fn until_left(&self) {
        self.accepting.abort();
        self.all_gone().await;
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

    /// How many clients are connected.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients_max as usize - self.shared.clients.available_permits()
    }

    /// Applies what can change while it runs: `[identify]`, `[timeouts]`, TLS for new clients. Returns the sections and keys
    /// whose change needs a restart.
    ///
    /// # Errors
    /// The new certificate is of no use; nothing changes then.
    pub fn reload(&self, config: &Config) -> Result<Vec<&'static str>, Error> {
        let new = Live::new(config)?;
        let old = self.shared.live.load_full();
        let mut fixed = Vec::new();
        let mut keep = |name, changed: bool| {
            if changed {
                fixed.push(name);
            }
        };
        keep("listen.address", new.listen.address != old.listen.address);
        keep("listen.unix_socket_dir", new.listen.unix_socket_dir != old.listen.unix_socket_dir);
        keep("listen.max_clients", new.listen.max_clients != old.listen.max_clients);
        keep("listen.threads", new.listen.threads != old.listen.threads);
        keep("pool", new.pool != old.pool);
        for worker in &self.shared.workers {
            worker.tell(Command::Timeouts(config.timeouts.clone()));
        }
        self.shared.live.store(Arc::new(new));
        Ok(fixed)
    }

    /// Accepts no more clients, lets running transactions end within `grace`, tells everyone 57P01, closes everything.
    pub async fn shutdown(mut self, grace: Duration) {
        self.accepting.abort();
        self.watching.abort();
        self.recording.abort();
        // Aborted tasks end with an error that says so.
        let _ = (&mut self.accepting).await;
        let _ = (&mut self.watching).await;
        let _ = (&mut self.recording).await;
        self.shared.closing.send_replace(true);
        tracing::info!(clients = self.clients(), "draining");
        self.tell_all(|| Command::Drain);
        if tokio::time::timeout(grace, self.all_gone()).await.is_err() {
            tracing::warn!(clients = self.clients(), "grace is over, ending sessions in their transactions");
            self.tell_all(|| Command::Kill);
            if tokio::time::timeout(KILL_TIMEOUT, self.all_gone()).await.is_err() {
                tracing::error!(clients = self.clients(), "sessions did not end");
            }
        }
        if !self.shared.registry.activity_interval().is_zero()
            && let Err(error) = activity::tell(&self.shared).await
        {
            tracing::warn!(%error, "the last logins are not told to the registry");
        }
        self.tell_all(|| Command::Stop);
        let joined = tokio::task::spawn_blocking(move || {
            // Logins still under way hold the other references; they end with the runtime.
            if let Some(shared) = Arc::into_inner(self.shared) {
                shared.workers.into_iter().for_each(|mut worker| worker.join());
            }
        });
        if let Err(error) = joined.await {
            tracing::error!(%error, "relay threads were not waited for");
        }
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        self.shared.workers.iter().for_each(|worker| worker.tell(command()));
    }

    /// Waits until no client is left.
    async fn all_gone(&self) {
        if self.shared.clients.acquire_many(self.clients_max).await.is_err() {
            tracing::debug!("client count is closed");
        }
    }
}

impl Live {
    fn new(config: &Config) -> Result<Self, Error> {
        let listen = &config.listen;
        let tls = match (&listen.tls_certificate, &listen.tls_key) {
            (Some(certificate), Some(key)) => Some(server_config(certificate, key, listen.client_ca.as_deref())?),
            _ => None,
        };
        Ok(Self {
            listen: listen.clone(),
            identify: config.identify.clone(),
            pool: config.pool.clone(),
            timeouts: config.timeouts.clone(),
            console: config.console.clone(),
            tls,
        })
    }
}

impl Shared {
    /// Passes a cancel request to the session whose key it shows; one that shows nobody's is dropped without a word.
    fn cancel(&self, key: &CancelKey) {
        match self.keys.find(key.process_id.cast_signed(), &key.secret) {
            Some(owner) => self.workers[owner.thread].tell(Command::Cancel(owner.session)),
            None => tracing::debug!("cancel request with nobody's key"),
        }
    }
}

fn threads(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

async fn accept(shared: Arc<Shared>, listeners: Listeners) {
    loop {
        let stream = listeners.accept().await;
        if let Ok(slot) = Arc::clone(&shared.clients).try_acquire_owned() {
            tokio::spawn(login::login(Arc::clone(&shared), stream, slot));
        } else if let Ok(surplus) = Arc::clone(&shared.surplus).try_acquire_owned() {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                login::refuse_surplus(shared, stream).await;
                drop(surplus);
            });
        }
    }
}
