//! Letting clients in: done by one relay thread at a time, the one on which they stay, so that the ordinary client meets no other thread. Where
//! others follow each other to another thread, the listening sockets go there, too.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::listener::{Listeners, Watched};
use super::worker::Command;
use super::{Shared, login};
use crate::net::Detached;
use crate::session::Begin;

/// The sockets follow so many clients in a row; fewer are handed over one by one.
const FOLLOWED: u32 = 8;
/// How long to wait where a thread cannot watch the sockets.
const UNWATCHED_PAUSE: Duration = Duration::from_millis(100);
/// Clients that are in the listening sockets' queues when accepting ends are taken as long as each is there at once.
const LAST_CLIENT_TIMEOUT: Duration = Duration::from_millis(5);
/// Most of them; on a port that a successor listens on, too, new ones come for as long as this process listens.
const LAST_CLIENTS_MAX: usize = 1000;

/// Whoever holds it lets clients in. There is one.
pub(super) struct Door {
    shared: Arc<Shared>,
    listeners: Listeners,
    closed: oneshot::Sender<()>,
}

/// Why a thread lets nobody in any more.
enum Leaving {
    /// Clients go to this thread.
    To(usize),
    /// There are to be no more clients.
    Closed,
}

impl Door {
    /// Opens it on some thread; what is returned hears when it is closed and nobody is let in any more.
    pub(super) fn open(shared: &Arc<Shared>, listeners: Listeners) -> oneshot::Receiver<()> {
        let (closed, is_closed) = oneshot::channel();
        let door = Self { shared: Arc::clone(shared), listeners, closed };
        shared.workers[0].tell(door.keep());
        is_closed
    }

    /// What a thread does that gets the door.
    fn keep(self) -> Command {
        Command::Run(Box::new(|begin| {
            tokio::task::spawn_local(self.attend(Rc::clone(begin)));
        }))
    }

    /// Lets clients in until they go elsewhere or there are to be no more.
    async fn attend(self, begin: Rc<Begin>) {
        let leaving = loop {
            match self.listeners.watch() {
                Ok(watched) => break self.let_in(&watched, &begin).await,
                Err(error) => {
                    tracing::error!(%error, "the listening sockets cannot be watched for now");
                    tokio::time::sleep(UNWATCHED_PAUSE).await;
                }
            }
        };
        match leaving {
            Leaving::To(thread) => {
                let shared = Arc::clone(&self.shared);
                shared.workers[thread].tell(self.keep());
            }
            Leaving::Closed => {
                let Self { shared, listeners, closed } = self;
                drop((listeners, shared));
                // Whoever had it closed may have stopped waiting.
                let _ = closed.send(());
            }
        }
    }

    async fn let_in(&self, watched: &Watched, begin: &Rc<Begin>) -> Leaving {
        let (mut last, mut in_a_row) = (begin.thread_index, 0);
        loop {
            let client = tokio::select! {
                client = watched.accept() => client,
                () = self.shared.full.notified() => break,
            };
            let home = self.receive(client, begin);
            in_a_row = if home == last { in_a_row + 1 } else { 1 };
            last = home;
            if home != begin.thread_index && in_a_row >= FOLLOWED {
                return Leaving::To(home);
            }
        }
        // Those who are waiting are let in, too: a listening socket that is closed resets them.
        watched.hurry();
        for _ in 0..LAST_CLIENTS_MAX {
            let Ok(client) = tokio::time::timeout(LAST_CLIENT_TIMEOUT, watched.accept()).await else { break };
            self.receive(client, begin);
        }
        Leaving::Closed
    }

    /// Begins a client's login where it is likely to stay; which thread that is.
    fn receive(&self, client: Detached, begin: &Rc<Begin>) -> usize {
        let shared = &self.shared;
        let max = shared.live.load().listen.max_clients;
        if let Some(slot) = shared.clients.enter(max) {
            let home = shared.homes.guess(client.peer());
            if home == begin.thread_index {
                login::login(Arc::clone(shared), client, slot, begin);
            } else {
                shared.workers[home].tell(login::login_there(Arc::clone(shared), client, slot));
            }
            return home;
        }
        if let Ok(surplus) = Arc::clone(&shared.surplus).try_acquire_owned() {
            let shared = Arc::clone(shared);
            begin.thread.front().spawn(async move {
                login::refuse_surplus(shared, client).await;
                drop(surplus);
            });
        }
        begin.thread_index
    }
}
