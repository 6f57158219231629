//! Taking a server connection for a session and giving it back.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::control::Doing;
use super::error;
use super::inquiry::Inquiry;
use super::probe::probe_waiting;
use super::relay::{Discard, End, Link, Relay, Unnamed, UnnamedState};
use super::settings::Settled;
use super::state::are_unreadable;
use crate::backend::{Asserted, ServerConn, Servers, cancel};
use crate::metrics::{Finder, count_error};
use crate::net::Stream;
use crate::pool::{Checkout, CheckoutError};
use crate::protocol::{Effects, Report, Severity, parameter_status, path};

/// No session has this number: nobody's.
pub(super) const NO_SESSION: u64 = 0;
/// No session has this number either: somebody else's, whoever asks.
pub(super) const OTHER_SESSION: u64 = u64::MAX;

/// Who is being asked what keeps a connection.
#[derive(PartialEq, Eq)]
enum Asking {
    Nobody,
    Server,
}

/// What interrupts the wait for a server connection.
enum Waited<T> {
    Done(T),
    Canceled,
    Ended(Report),
    Left(io::Error),
}

/// Whether a socket went where the thread's sockets belong now.
fn settle(stream: &mut Stream) -> bool {
    stream.settle().unwrap_or_else(|error| {
        tracing::debug!(%error, "a socket does not go where it belongs");
        // It may have failed for good.
        true
    })
}

impl Relay {
    /// Takes a connection if one is free now.
    pub(super) fn attach_at_once(&mut self) -> bool {
        if self.restless.is_some() {
            return false;
        }
        match self.place.pool.try_checkout(&self.place.want) {
            Some(server) if self.place.calming(&server, self.control.id).is_some() => {
                self.restless = Some(Box::new(server));
                false
            }
            Some(server) => {
                self.thread.times().waits.add(Duration::ZERO);
                self.attach(server);
                true
            }
            None => false,
        }
    }

    /// Waits for a connection; when none can be had, answers what the client sent with the reason.
    pub(super) async fn wait_for_server(&mut self) -> Result<(), End> {
        self.up.window.park(&self.thread.buffers);
        self.control.set_doing(Doing::Waiting, self.thread.now());
        let waits_since = std::time::Instant::now();
        let waited = {
            let mut checkout = pin!(self.place.server(self.restless.take().map(|server| *server), self.control.id));
            std::future::poll_fn(|cx| {
                self.control.listen(cx.waker());
                if self.control.take_cancel() {
                    return Poll::Ready(Waited::Canceled);
                }
                if let Some(last_word) = self.control.take_kill() {
                    return Poll::Ready(Waited::Ended(last_word));
                }
                let own = &mut self.down.own;
                if self.control.take_probe()
                    && let Some(error) = probe_waiting(&mut self.client, own, (&self.place, &self.thread), cx)
                {
                    return Poll::Ready(Waited::Left(error));
                }
                if self.control.is_draining() {
                    return Poll::Ready(Waited::Ended(error::shutdown()));
                }
                checkout.as_mut().poll(cx).map(Waited::Done)
            })
            .await
        };
        let wait = waits_since.elapsed();
        self.place.pool.manager().traffic().add(|totals| totals.wait_time += wait);
        self.thread.times().waits.add(wait);
        match waited {
            Waited::Done(Ok(server)) => {
                self.attach(server);
                Ok(())
            }
            Waited::Done(Err(CheckoutError::Draining)) => self.renew_pool().await,
            Waited::Done(Err(failure)) => self.fail_batch(&error::checkout(&failure, Severity::Error)),
            Waited::Canceled => self.fail_batch(&error::canceled()),
            Waited::Ended(last_word) => Err(End::Refused(last_word)),
            Waited::Left(error) => Err(End::ClientLost(error)),
        }
    }

    /// The pool was evicted or retired while this session was idle: the next look finds the one that took its place.
    async fn renew_pool(&mut self) -> Result<(), End> {
        let pool = match self.place.find_pool(&self.control.latest()).await {
            Ok(pool) => pool,
            Err(report) => return self.fail_batch(&Report { severity: Severity::Error, ..report }),
        };
        if Rc::ptr_eq(&pool, &self.place.pool) {
            return Err(End::Refused(error::shutdown()));
        }
        self.place.pool = pool;
        Ok(())
    }

    /// Makes a connection this session's, its context asserted with the first bytes that go to it.
    pub(super) fn attach(&mut self, mut server: Checkout<Servers>) {
        // Nobody waits for it yet.
        settle(&mut server.stream);
        server.prepared.batch_begins();
        server.prepared.follow(self.place.pool.manager().schema_changes());
        let same_session = server.last_session == self.control.id;
        let Unnamed { parsed_ahead, state, .. } = self.up.unnamed;
        let left = self.up.unnamed.left.take();
        if self.up.unnamed.needed && ![NO_SESSION, self.control.id].contains(&server.unnamed_owner) {
            // Ours is gone, and whatever stands there now is not ours to run.
            server.checkin();
            if let Err(end) = self.fail_batch(&error::no_unnamed_statement()) {
                self.down.ended = true;
                tracing::debug!(?end, "session ends while its messages are thrown away");
            }
            return;
        }
        if server.start.digest != self.told && !self.tell_changes(&server) {
            // What waits was read as this server does not read it.
            server.checkin();
            let [failure, last_word] = error::settings_changed();
            if let Err(end) = self.fail_batch(&failure) {
                tracing::debug!(?end, "session ends in any case");
            }
            return self.control.kill(last_word);
        }
        server.last_session = self.control.id;
        self.up.unnamed = Unnamed { state, left, ..Unnamed::default() };
        let mut swallow = 0;
        if let Some(needed) = self.place.assertion.needed(&server.asserted, same_session) {
            server.asserted = Asserted::Unknown;
            // A simple query, it ends whatever unnamed statement is there.
            server.unnamed_owner = NO_SESSION;
            if needed.forgets {
                server.prepared.clear();
            }
            self.up.prefix = self.thread.prefix(&needed);
            swallow = needed.ready_count;
        }
        let mut link = Link { swallow, ..Link::new(server) };
        self.control.server_pid.set(link.server.process_id);
        if parsed_ahead {
            link.server.unnamed_owner = self.control.id;
        } else if state == UnnamedState::Dead {
            link.server.unnamed_owner = NO_SESSION;
        }
        self.link = Some(link);
    }

    /// A connection began with other parameters than those that the client was told: a server was replaced, or its defaults were
    /// changed. The client hears of it before anything that this connection answers, and new ones hear of nothing else. False if texts
    /// cannot be scanned reliably any more.
    #[cold]
    fn tell_changes(&mut self, server: &ServerConn) -> bool {
        self.told = server.start.digest;
        self.thread.forget_parameters(self.place.profile.pool_id);
        let settings = &self.place.assertion.context.settings;
        let is_set = |name: &str| settings.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
        let changed = server.start.parameters.iter().filter(|(name, _)| !is_set(name));
        if are_unreadable(changed.clone()) && !self.state.effects().has(Effects::UNREADABLE) {
            return false;
        }
        for (name, value) in changed {
            if let Err(error) = parameter_status(&mut self.down.own, name, value) {
                tracing::error!(%error, "a parameter of the server cannot be passed on");
            }
        }
        true
    }

    /// Answers the client's messages up to the first that asks for ReadyForQuery with an error of ours; they reach no server.
    pub(super) fn fail_batch(&mut self, report: &Report) -> Result<(), End> {
        self.pending.clear();
        self.state.unsent();
        self.up.scan = None;
        self.up.rest = 0;
        self.up.unnamed = Unnamed::default();
        self.up.window.rescan();
        self.up.discard = Discard::Batch;
        count_error(Finder::Proxy, report.sqlstate.0.as_bytes());
        report.encode(&mut self.down.own);
        self.control.set_doing(Doing::Idle, self.thread.now());
        self.scan_up()
    }

    /// After a ReadyForQuery that answered everything: give the connection back if nothing keeps it here.
    pub(super) fn transaction_boundary(&mut self) {
        let Some(link) = &mut self.link else { return };
        if link.swallow > 0 {
            return;
        }
        if let Some((query, transaction)) = link.ends() {
            self.place.pool.manager().traffic().add(|totals| {
                totals.query_time += query;
                totals.transaction_time += transaction.unwrap_or_default();
                totals.transactions += u64::from(transaction.is_some());
            });
            let times = self.thread.times();
            times.queries.add(query);
            transaction.into_iter().for_each(|transaction| times.transactions.add(transaction));
        }
        let idle = link.status == b'I';
        // Messages that get no answer (rows of a copy that has failed) may still be on their way, a part of one perhaps: neither
        // anything of pgtenant's nor another client's bytes may land inside it.
        let sending = self.up.rest > 0 || self.up.window.has_ready() || !self.up.prefix.is_empty();
        self.control.set_doing(if idle { Doing::Idle } else { Doing::IdleInTransaction }, self.thread.now());
        let receiving = self.down.rest > 0 || self.down.window.has_held();
        let stays = !idle || self.place.profile.session_mode || sending || receiving;
        if idle {
            link.server.prepared.batch_begins();
        }
        // What the client itself has set comes first: the rest of what it took away is pgtenant's to give again.
        if !stays && !self.state.is_clean() && self.state.is_worth_asking() && self.settle_state() == Asking::Server {
            return;
        }
        if idle {
            self.state.transaction_over();
            self.schema_followed();
            self.grow_older();
        }
        if !sending && self.give_again() || stays {
            return;
        }
        if self.state.is_clean() {
            self.release();
        } else {
            self.count_pin();
        }
    }

    /// After its first transactions a session is worth the way to what moves the bytes of the thread's others.
    fn grow_older(&mut self) {
        if self.young > 0 {
            self.young -= 1;
            return;
        }
        self.settled_anew |= settle(&mut self.client);
        if let Some(link) = &mut self.link
            && self.place.profile.session_mode
        {
            self.settled_anew |= settle(&mut link.server.stream);
        }
    }

    /// Where unnamed statements are kept, those from before a change of the schema are parsed again before their next use.
    fn schema_followed(&mut self) {
        let changes = self.state.take_schema_changes();
        if !changes || !self.place.profile.keeps_unnamed {
            return;
        }
        let servers = self.place.pool.manager();
        servers.schema_changed();
        if let Some(link) = &mut self.link {
            link.server.prepared.follow(servers.schema_changes());
        }
    }

    /// Sets again what pgtenant gives with every connection and the client took away; whether something has to be sent.
    fn give_again(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        if self.state.taken_away().is_empty() || link.status == b'E' {
            return false;
        }
        let taken_away = self.state.take_taken_away();
        let is_known = link.status == b'I' && self.state.settings.is_settled();
        let Some(needed) = self.place.assertion.again(&taken_away, is_known) else { return false };
        link.server.asserted = Asserted::Unknown;
        link.swallow = needed.ready_count;
        self.up.prefix = self.thread.prefix(&needed);
        // A simple query ends it.
        link.server.unnamed_owner = NO_SESSION;
        true
    }

    /// Finds out what keeps the connection, of the server if need be.
    fn settle_state(&mut self) -> Asking {
        let Some(link) = &mut self.link else { return Asking::Nobody };
        let inquiry = Inquiry::new(self.state.settings.unknown(&link.server.parameters), self.state.effects());
        self.state.asks();
        if inquiry.is_empty() {
            self.settled(&inquiry);
            return Asking::Nobody;
        }
        self.up.prefix = inquiry.message();
        // A simple query ends it.
        link.server.unnamed_owner = NO_SESSION;
        link.inquiry = Some(Box::new(inquiry));
        link.swallow = 1;
        Asking::Server
    }

    /// What was asked is known: what the client carries from now on, and what still keeps its connection.
    pub(super) fn settled(&mut self, inquiry: &Inquiry) {
        let Some(link) = &mut self.link else { return };
        let parameters = &link.server.parameters;
        let reported = |name: &str| parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = |name: &str| reported(name).map(|(_, value)| value.clone()).or_else(|| inquiry.value(name));
        self.state.gone(inquiry.gone());
        self.state.gone(Effects::PARAMETER);
        let settled = self.state.settings.settle(value);
        if settled == Settled::Uncarriable {
            return self.state.insert(Effects::OPAQUE_PARAMETER);
        }
        self.state.settled();
        let leads_away = self.state.rules().shared.as_ref().is_some_and(|shared| {
            let value = self.state.settings.value("search_path");
            value.is_some_and(|value| path(value).is_none_or(|path| !shared.allows_path(&path)))
        });
        if leads_away {
            self.state.settings.drop("search_path");
            error::path_restored(&self.control.tenant.slug).encode(&mut self.down.own);
            self.state.lost("search_path");
        }
        if leads_away || settled == Settled::Changed {
            self.place.carry(self.state.settings.carried());
        }
        link.server.asserted = Asserted::Is(Rc::clone(&self.place.assertion.context));
        link.server.affinity = self.place.want.affinity;
    }

    /// The connection stays with this client: why, once for each reason.
    fn count_pin(&mut self) {
        self.control.set_doing(Doing::Pinned, self.thread.now());
        self.control.pinned_by.set(self.state.effects());
        for reason in self.state.take_uncounted().names() {
            metrics::counter!(crate::metrics::PINS, "reason" => reason).increment(1);
        }
    }

    /// Gives the connection back, after the cancel requests on their way to it.
    fn release(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        self.control.server_pid.set(0);
        self.control.pinned_by.set(Effects::NONE);
        if !self.state.take_taken_away().is_empty() {
            // A RESET took away what was set at the hand-over, and there was no time to set it again.
            link.server.asserted = Asserted::Unknown;
        }
        let Some(cancels) = link.cancels.take() else { return link.server.checkin() };
        // A late cancel would hit the next client's statement.
        tokio::task::spawn_local(async move {
            if cancels.all_delivered().await {
                link.server.checkin();
            }
        });
    }

    /// Sends a cancel request for the running statement, if one of this client's is running.
    pub(super) fn cancel_statement(&mut self) {
        let Some(link) = &mut self.link else {
            // Waiting for a connection is interrupted there; outside a statement there is nothing to cancel.
            if !self.up.window.has_ready() {
                self.control.take_cancel();
            }
            return;
        };
        if link.swallow > 0 {
            return;
        }
        self.control.take_cancel();
        if self.pending.is_empty() {
            return;
        }
        let cancels = Rc::clone(link.cancels.get_or_insert_default());
        let in_flight = cancels.begin();
        let target = link.server.cancel_target();
        let (process_id, secret) = (link.server.process_id, link.server.secret.clone());
        let request = self.thread.front().spawn(async move { cancel(&target, process_id, &secret).await });
        tokio::task::spawn_local(async move {
            match request.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, process_id, "cancel request failed");
                    cancels.lose();
                }
                Err(error) => {
                    tracing::error!(%error, "cancel task failed");
                    cancels.lose();
                }
            }
            drop(in_flight);
        });
    }
}
