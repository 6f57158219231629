//! The whole data plane at one moment, for the console, metrics and health: each relay thread is asked, none is waited for long.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Shared;
use super::worker::Command;
use crate::backend::PoolState;
use crate::session::ClientState;

/// A thread that is too busy to answer by then is left out.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Sessions and pools of all threads.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The sessions.
    pub clients: Vec<ClientState>,
    /// The pools.
    pub pools: Vec<PoolState>,
    /// How many threads did not answer in time.
    pub silent_threads: usize,
}

impl Shared {
    pub(super) async fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let asked: Vec<_> = self
            .workers
            .iter()
            .map(|worker| {
                let (reply, answer) = oneshot::channel();
                worker.tell(Command::Snapshot(reply));
                answer
            })
            .collect();
        for answer in asked {
            match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
                Ok(Ok((clients, pools))) => {
                    snapshot.clients.extend(clients);
                    snapshot.pools.extend(pools);
                }
                Ok(Err(_)) | Err(_) => snapshot.silent_threads += 1,
            }
        }
        snapshot
    }
}
