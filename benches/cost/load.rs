//! Many clients, driven by a few threads.

use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::allocations;
use crate::client::{Client, Login};

/// Logs in so many clients by so many threads; each has asked once.
pub(crate) fn log_in(login: &Login, count: usize, threads: usize, messages: &[u8]) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    let shares = (0..threads).map(|thread| (thread..count).step_by(threads).len());
    for some in by_threads(shares.collect(), |share| {
        let each = (0..share).map(|_| {
            let mut client = Client::login(login, None)?;
            client.ask(messages)?;
            Ok(client)
        });
        each.collect::<Result<Vec<_>>>()
    })? {
        clients.extend(some);
    }
    Ok(clients)
}

/// Has each client ask so many times. Each thread has a share of the clients, which it asks in turn, waiting for each answer. How many answers
/// there were.
pub(crate) fn ask(clients: &mut [Client], threads: usize, times: usize, messages: &[u8]) -> Result<u64> {
    let asked = clients.len() * times;
    let share = clients.len().div_ceil(threads).max(1);
    by_threads(clients.chunks_mut(share).collect(), |own| {
        for _ in 0..times {
            for client in own.iter_mut() {
                client.ask(messages)?;
            }
        }
        Ok(())
    })?;
    Ok(u64::try_from(asked)?)
}

/// Does something with each share, in a thread of its own.
pub(crate) fn by_threads<S: Send, R: Send>(shares: Vec<S>, work: impl Fn(S) -> Result<R> + Sync) -> Result<Vec<R>> {
    thread::scope(|scope| {
        let work = &work;
        let start = |share| {
            scope.spawn(move || {
                allocations::leave_out();
                work(share)
            })
        };
        let running: Vec<_> = shares.into_iter().map(start).collect();
        let done =
            running.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a client's thread panicked"))?);
        done.collect::<Result<_>>().context("a client failed")
    })
}
