//! The whole data plane at one moment, for the console, metrics and health: each relay thread is asked, none is waited for long.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shared;
use super::worker::{Command, Worker};
use crate::backend::PoolState;
use crate::session::{ClientState, ThreadState};

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
        let (answers, silent_threads) = self.ask(Command::Snapshot).await;
        let mut snapshot = Snapshot { silent_threads, ..Snapshot::default() };
        for (clients, pools) in answers {
            snapshot.clients.extend(clients);
            snapshot.pools.extend(pools);
        }
        snapshot
    }

    pub(super) async fn measure(&self) -> (Vec<ThreadState>, usize) {
        self.ask(Command::Measure).await
    }

    /// Asks all threads at once; the answers, and how many did not come.
    async fn ask<T>(&self, question: impl Fn(oneshot::Sender<T>) -> Command) -> (Vec<T>, usize) {
        let ask = |worker: &Worker| {
            let (reply, answer) = oneshot::channel();
            worker.tell(question(reply));
            answer
        };
        let asked: Vec<_> = self.workers.iter().map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        for answer in asked {
            if let Ok(Ok(answer)) = tokio::time::timeout_at(deadline, answer).await {
                answers.push(answer);
            }
        }
        let silent_threads = self.workers.len() - answers.len();
        (answers, silent_threads)
    }
}
