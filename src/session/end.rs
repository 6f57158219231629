//! The end of a session: its last word, and what becomes of its server connection.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::attach::NO_SESSION;
use super::error;
use super::relay::{End, Link, Relay, Turn};
use crate::backend::{Asserted, cancel, simple};
use crate::metrics::{Finder, count_error};
use crate::net::Stream;
use crate::protocol::{Effects, Report};

/// How long a reset may take before the connection is closed instead.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to accept its last word.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// What DISCARD ALL does not undo, or what cannot be known to be undone.
const UNRESTORABLE: [Effects; 6] =
    [Effects::TEMPORARY, Effects::LOAD, Effects::CODE, Effects::REPLICATION, Effects::UNREADABLE, Effects::FAILED_COPY];

impl Relay {
    /// Relays until the session ends, and puts everything in order.
    pub(crate) async fn run(mut self: Box<Self>) {
        let end = loop {
            match std::future::poll_fn(|cx| self.poll_turn(cx)).await {
                Turn::End(end) => break end,
                // Boxed, as the end is: nobody who waits for a client is to keep room for what happens seldom or once.
                Turn::NeedServer => {
                    if let Err(end) = Box::pin(self.wait_for_server()).await {
                        break end;
                    }
                }
            }
        };
        Box::pin(self.leave(end)).await;
    }

    /// Says the last word and lets go of client and server.
    async fn leave(&mut self, end: End) {
        let last_word = match &end {
            End::Terminated => None,
            End::ClientLost(error) => {
                tracing::debug!(%error, "client lost");
                None
            }
            End::ServerLost if self.down.fatal_seen => None,
            End::ServerLost => Some(error::server_lost()),
            End::Refused(report) => Some(report.clone()),
            End::NotAsserted(raw) => {
                tracing::error!(error = %String::from_utf8_lossy(raw), tenant = %self.control.tenant.slug, "context not asserted");
                Some(error::not_asserted())
            }
        };
        let stopping = self.settle_server(&end);
        if let Some(report) = last_word
            && self.down.rest == 0
            && self.flush_whole().await
        {
            say(&mut self.client, &report).await;
        }
        self.up.window.give_up(&self.thread.buffers);
        self.down.window.give_up(&self.thread.buffers);
        // Closing a socket ends it well enough, when it comes at once.
        if self.client.tls().is_some() || stopping.is_some() {
            // A client that is gone cannot be told so.
            let _ = tokio::time::timeout(LAST_WORD_TIMEOUT, self.client.shutdown()).await;
        }
        // The session counts until its statement is stopped: at shutdown the process must not end before.
        if let Some(stopping) = stopping
            && let Err(error) = stopping.await
        {
            tracing::error!(%error, "the task that stops a statement failed");
        }
    }

    /// Sends what was on its way, so that a last word does not land inside another message.
    async fn flush_whole(&mut self) -> bool {
        let (rest, own) = (self.down.window.ready(), &self.down.own[..]);
        let sent = async {
            self.client.write_all(rest).await?;
            self.client.write_all(own).await
        };
        (rest.is_empty() && own.is_empty()) || matches!(tokio::time::timeout(LAST_WORD_TIMEOUT, sent).await, Ok(Ok(())))
    }

    /// Restores the server connection for others, or closes it; the task that stops a running statement, if there is one.
    fn settle_server(&mut self, end: &End) -> Option<JoinHandle<()>> {
        let link = self.link.take()?;
        if matches!(end, End::ServerLost | End::NotAsserted(_)) {
            return None;
        }
        let sent = self.up.rest == 0 && !self.up.window.has_ready() && self.up.prefix.is_empty();
        let quiet = link.clean && link.swallow == 0 && self.pending.is_empty() && sent && self.down.rest == 0;
        if !quiet {
            let running = !self.pending.is_empty() && link.swallow == 0;
            return running.then(|| self.stop_statement(link));
        }
        let restorable = !UNRESTORABLE.iter().any(|effect| self.state.effects().has(*effect));
        if link.status == b'I' && restorable {
            tokio::task::spawn_local(restore(link));
        }
        None
    }

    /// The client is gone and its statement still runs: cancel it, then close, which rolls back.
    fn stop_statement(&self, link: Link) -> JoinHandle<()> {
        let target = link.server.cancel_target();
        let front = self.thread.front().clone();
        tokio::task::spawn_local(async move {
            let (process_id, secret) = (link.server.process_id, link.server.secret.clone());
            let request = front.spawn(async move { cancel(&target, process_id, &secret).await });
            if let Ok(Err(error)) = request.await {
                tracing::warn!(%error, process_id, "cancel request for a client that is gone failed");
            }
            drop(link);
        })
    }
}

/// Brings a connection back to how it was when it was opened, then gives it back; closes it if that fails.
async fn restore(mut link: Link) {
    if let Some(cancels) = link.cancels.take()
        && !cancels.all_delivered().await
    {
        return;
    }
    match simple(&mut link.server.stream, "DISCARD ALL", RESET_TIMEOUT).await {
        Ok(outcome) if outcome.status == b'I' => {
            link.server.note_parameters(outcome.parameters);
            link.server.asserted = Asserted::Fresh;
            link.server.affinity = 0;
            link.server.unnamed_owner = NO_SESSION;
            link.server.prepared.clear();
            link.server.checkin();
        }
        Ok(_) => tracing::warn!("server connection in a transaction after DISCARD ALL; closed"),
        Err(error) => tracing::warn!(%error, "server connection could not be reset; closed"),
    }
}

/// Sends a last word; a client that does not take it is gone anyway.
pub(crate) async fn say(client: &mut Stream, report: &Report) {
    say_after(client, BytesMut::new(), report).await;
}

/// Sends a last word after what was to come before it.
pub(crate) async fn say_after(client: &mut Stream, mut before: BytesMut, report: &Report) {
    count_error(Finder::Proxy, report.sqlstate.0.as_bytes());
    report.encode(&mut before);
    send_last(client, &before).await;
}

/// Sends the last bytes of all.
pub(super) async fn send_last(client: &mut Stream, bytes: &[u8]) {
    let sent = tokio::time::timeout(LAST_WORD_TIMEOUT, async {
        client.write_all(bytes).await?;
        client.flush().await
    });
    if !matches!(sent.await, Ok(Ok(()))) {
        tracing::debug!("client took no last word");
    }
}
