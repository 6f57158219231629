//! The other instances over the same registry: a cancel request with nobody's key here is passed on to them, and theirs are heard.
//!
//! Instances meet in the registry. A request travels as a proof of its key, made for a question that is asked on that very connection;
//! the key itself does not. So whoever sends one, or listens in, can do no more than somebody who has the key. What was
//! passed on is not passed on again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use uuid::Uuid;

use super::Shared;
use super::error::Error;
use super::worker::Command;
use crate::metrics::CANCEL_REQUESTS;
use crate::protocol::CancelKey;
use crate::registry::{Instance, Registry};
use crate::session::{CANCEL_PROOF_BYTES, CANCEL_QUESTION_BYTES, cancel_proof};

/// How often an instance says that it is there; it counts as gone after four times as long.
const MEETING_INTERVAL: Duration = Duration::from_secs(5);
/// Who is there is asked again for a request if it was asked longer ago than this.
const MEETING_TTL: Duration = Duration::from_secs(1);
/// How long one instance may take with one request, connecting included.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// Most requests being passed on, and most being heard, at one time; more are dropped.
const REQUESTS_MAX: usize = 64;
/// How long to wait when a peer cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A process id and the proof of its key.
const REQUEST_BYTES: usize = 4 + CANCEL_PROOF_BYTES;

/// What one instance knows of the others.
pub(super) struct Peers {
    /// None where requests are not passed on.
    own: Option<Instance>,
    met: Mutex<Met>,
    passing: Semaphore,
}

#[derive(Default)]
struct Met {
    at: Option<Instant>,
    addresses: Vec<SocketAddr>,
}

impl Peers {
    /// Listens for the others, where that is configured.
    pub(super) async fn bind(address: Option<&str>) -> Result<(Self, Option<TcpListener>), Error> {
        let (mut own, mut listener) = (None, None);
        if let Some(address) = address {
            let failed = |source| Error::Listen { address: address.to_owned(), source };
            let bound = TcpListener::bind(address).await.map_err(failed)?;
            own = Some(Instance { id: Uuid::new_v4(), address: bound.local_addr().map_err(failed)? });
            listener = Some(bound);
        }
        Ok((Self { own, met: Mutex::default(), passing: Semaphore::new(REQUESTS_MAX) }, listener))
    }

    /// Passes a request on to all others, and waits until each has heard it or had its time.
    pub(super) async fn pass_on(&self, registry: &Registry, key: &CancelKey) {
        let Some(own) = &self.own else { return count("nobody") };
        let Ok(_passing) = self.passing.try_acquire() else { return count("dropped") };
        count("passed_on");
        let mut requests = JoinSet::new();
        for peer in self.others(own, registry).await {
            let key = key.clone();
            requests.spawn(async move {
                match timeout(PEER_TIMEOUT, request(peer, &key)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "cancel request not passed on"),
                    Err(_) => tracing::debug!(%peer, "cancel request not passed on in time"),
                }
            });
        }
        while requests.join_next().await.is_some() {}
    }

    /// Where the others are now, or were when it was last known.
    async fn others(&self, own: &Instance, registry: &Registry) -> Vec<SocketAddr> {
        let mut met = self.met.lock().await;
        if met.at.is_none_or(|at| at.elapsed() >= MEETING_TTL) {
            // A registry that is down is not asked again for each request.
            met.at = Some(Instant::now());
            match registry.meet(own).await {
                Ok(addresses) => met.addresses = addresses,
                Err(error) => tracing::debug!(%error, "other instances cannot be looked up"),
            }
        }
        met.addresses.clone()
    }

    /// Says that this instance is there, until it is aborted.
    pub(super) async fn keep(shared: Arc<Shared>) {
        let Some(own) = &shared.peers.own else { return };
        let mut ticks = interval(MEETING_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            ticks.tick().await;
            match shared.registry.meet(own).await {
                Ok(addresses) => {
                    *shared.peers.met.lock().await = Met { at: Some(Instant::now()), addresses };
                    failing = false;
                }
                Err(error) if !failing => {
                    failing = true;
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "other instances do not learn of this one: their clients' cancel requests may get lost");
                }
                Err(error) => tracing::debug!(%error, "still not known to other instances"),
            }
        }
    }

    /// This instance is no more.
    pub(super) async fn leave(&self, registry: &Registry) {
        let Some(own) = &self.own else { return };
        if let Err(error) = registry.leave(own.id).await {
            tracing::debug!(%error, "others learn only later that this instance is gone");
        }
    }
}

impl Shared {
    /// Passes a cancel request to the session whose key it shows: here, or on another instance.
    pub(super) async fn cancel(&self, key: &CancelKey) {
        match self.keys.find(key.process_id.cast_signed(), &key.secret) {
            Some(owner) => {
                count("own");
                self.workers[owner.thread].tell(Command::Cancel(owner.session));
            }
            None => self.peers.pass_on(&self.registry, key).await,
        }
    }
}

/// Hears the others' requests, until it is aborted.
pub(super) async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    let hearing = Arc::new(Semaphore::new(REQUESTS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "no peer can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&hearing).try_acquire_owned() else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Ok(Err(error)) = timeout(PEER_TIMEOUT, hear(&shared, stream)).await {
                tracing::debug!(%error, "request of a peer");
            }
            drop(permit);
        });
    }
}

/// Asks a question, and cancels what the proof that answers it is of. The connection is closed in either case.
async fn hear(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let question: [u8; CANCEL_QUESTION_BYTES] = rand::random();
    stream.write_all(&question).await?;
    let mut request = [0; REQUEST_BYTES];
    stream.read_exact(&mut request).await?;
    let [a, b, c, d, proof @ ..] = &request;
    match shared.keys.find_proven(i32::from_be_bytes([*a, *b, *c, *d]), &question, proof) {
        Some(owner) => {
            count("from_peer");
            shared.workers[owner.thread].tell(Command::Cancel(owner.session));
        }
        None => count("from_peer_nobody"),
    }
    Ok(())
}

/// Shows a peer that one has the key, and waits until it has acted on that.
async fn request(peer: SocketAddr, key: &CancelKey) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(peer).await?;
    let mut question = [0; CANCEL_QUESTION_BYTES];
    stream.read_exact(&mut question).await?;
    let process_id = key.process_id.cast_signed();
    let proof = cancel_proof(process_id, &key.secret, &question);
    stream.write_all(&[&process_id.to_be_bytes()[..], proof.as_ref()].concat()).await?;
    stream.read(&mut [0]).await.map(drop)
}

fn count(outcome: &'static str) {
    metrics::counter!(CANCEL_REQUESTS, "outcome" => outcome).increment(1);
}
