//! A client that has logged in: finding its pool and its server, and telling it that it may begin.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use pgwire::error::PgWireResult;
use tokio::io::AsyncWriteExt;

use super::attach::NO_SESSION;
use super::context::Assertion;
use super::control::{Control, Doing};
use super::end::{say_after, send_last};
use super::error;
use super::fitness::Fitness;
use super::keys::{CancelKey, Owner};
use super::names::Names;
use super::place::{Place, place};
use super::refusal::Refusal;
use super::relay::{Down, Link, Relay, Up, YOUNG_TRANSACTIONS};
use super::replay::Replay;
use super::state::{State, are_unreadable};
use super::thread::Parameters;
use super::ticket::{Begin, Ticket};
use crate::backend::{Asserted, ConnectError, ServerConn, Servers, has_schema, simple};
use crate::net::Stream;
use crate::pool::Checkout;
use crate::protocol::{Effects, Pending, authentication_ok, backend_key_data, parameter_status, ready_for_query};

/// How long one step on a server connection may take while a session begins.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for what an ordinary session begins with.
const WELCOME_BYTES: usize = 1024;

/// A client that has proved who it is, at the thread of its placement.
pub struct Arrival {
    /// Its connection.
    pub client: Stream,
    /// What was learnt of it.
    pub ticket: Ticket,
    /// Given back when the session is over (its place among `max_clients`).
    pub slot: Box<dyn Any + Send>,
}

/// What a session begins with.
struct Begun {
    place: Place,
    link: Option<Link>,
    key: CancelKey,
    /// The state that the client's settings bring.
    standing: Effects,
    /// Of the parameters that it was told.
    told: u64,
}

impl Arrival {
    /// The session from here to its end. It is in its thread's list at once, before the future is first polled, so that no
    /// change of its tenant that the thread hears of after it is missed.
    pub fn run(self: Box<Self>, begin: Rc<Begin>) -> impl Future<Output = ()> {
        let ticket = &self.ticket;
        let (tenant, placement) = (Arc::clone(&ticket.tenant), Arc::clone(&ticket.placement));
        let control = Control::new(ticket.id, tenant, placement, ticket.visitor.clone(), begin.thread.now());
        let entered = begin.thread.enter(&control);
        // Boxed: what a session needs to begin is not kept while it lasts.
        let beginning = Box::pin(self.session(control, begin));
        async move {
            if let Some(relay) = beginning.await {
                relay.run().await;
            }
            drop(entered);
        }
    }

    /// Begins the session.
    async fn session(self: Box<Self>, control: Rc<Control>, begin: Rc<Begin>) -> Option<Box<Relay>> {
        let Self { mut client, mut ticket, slot } = *self;
        let deadline = ticket.deadline;
        let begun = tokio::select! {
            begun = tokio::time::timeout_at(deadline, ticket.begin(&begin, &mut client)) => begun,
            last_word = control.killed() => Ok(Err(Refusal::Report(last_word))),
        };
        let refusal = match begun {
            Ok(Ok(Begun { place, link, key, standing, told })) => {
                let mut relay = Box::new(Relay {
                    client,
                    link,
                    restless: None,
                    up: Up::default(),
                    down: Down::default(),
                    pending: Pending::default(),
                    state: State::new(standing, Rc::clone(&place.profile.rules)),
                    names: Names::default(),
                    replay: Replay::default(),
                    place,
                    control,
                    thread: Rc::clone(&begin.thread),
                    process_id: key.process_id,
                    young: YOUNG_TRANSACTIONS,
                    settled_anew: false,
                    told,
                    _kept: (slot, key),
                });
                relay.control.set_doing(Doing::Idle, relay.thread.now());
                relay.transaction_boundary();
                return Some(relay);
            }
            Ok(Err(refusal)) => refusal,
            Err(_) => Refusal::Report(error::login_timeout()),
        };
        match refusal {
            Refusal::Report(report) => {
                tracing::info!(sqlstate = report.sqlstate.0, message = report.message, "session refused");
                say_after(&mut client, ticket.answer, &report).await;
            }
            Refusal::Raw(raw) => {
                tracing::info!("session refused by the server");
                ticket.answer.put_slice(&raw);
                send_last(&mut client, &ticket.answer).await;
            }
        }
        None
    }
}

impl Ticket {
    /// Finds pool and server, and sends everything up to the first ReadyForQuery.
    async fn begin(&mut self, begin: &Rc<Begin>, client: &mut Stream) -> Result<Begun, Refusal> {
        let place = place(self, begin).await?;
        let owner = Owner { thread: begin.thread_index, session: self.id };
        let (role_checks, fitness) = self.look_at_roles(&place, begin);
        let known =
            if place.profile.session_mode { None } else { begin.thread.parameters(place.profile.pool_id, &place.want) };
        // Its roles have to be asked for on a connection.
        let known = known.filter(|_| fitness != Fitness::Unknown);
        let (parameters, notices, link) = match known {
            Some(parameters) => (parameters, Vec::new(), None),
            None => {
                let mut server = self.first_server(&place, role_checks).await?;
                let parameters = Rc::new(Parameters::of(&server).map_err(|error| {
                    tracing::error!(%error, "the server's parameters cannot be passed on");
                    error::server_lost()
                })?);
                begin.thread.know_parameters(place.profile.pool_id, &place.want, Rc::clone(&parameters));
                let notices = std::mem::take(&mut server.notices);
                (parameters, notices, Some(Link::new(server)))
            }
        };
        let server_pid = link.as_ref().filter(|_| place.profile.session_mode).map(|link| link.server.process_id);
        let key = begin.keys.issue(server_pid, self.long_key, owner);
        let welcome = self.welcome(&parameters.messages, &notices, &key).map_err(|error| {
            tracing::error!(%error, "the first messages cannot be encoded");
            error::server_lost()
        })?;
        let sent = async {
            client.write_all(&welcome).await?;
            client.flush().await
        };
        sent.await.map_err(|_| error::client_lost())?;
        Ok(Begun { place, link, key, standing: self.standing_effects(&parameters), told: parameters.start })
    }

    /// A server connection with this session's context, waited for; the placement's schema is known to exist.
    async fn first_server(&self, place: &Place, role_checks: Duration) -> Result<Checkout<Servers>, Refusal> {
        let mut server = self.vouched_server(place, role_checks).await?;
        server.last_session = self.id;
        let unreachable = |error| {
            tracing::warn!(%error, tenant = %self.tenant.slug, "server connection failed while a session began");
            Refusal::Report(error::server_lost())
        };
        let needed = place.assertion.needed(&server.asserted, false);
        if place.profile.shared || needed.is_some() {
            // The queries below end it.
            server.unnamed_owner = NO_SESSION;
        }
        if needed.as_ref().is_some_and(|needed| needed.forgets) {
            server.prepared.clear();
        }
        for statement in needed.iter().flat_map(Assertion::statements) {
            server.asserted = Asserted::Unknown;
            let outcome = simple(&mut server.stream, &statement, STEP_TIMEOUT).await.map_err(unreachable)?;
            server.note_parameters(outcome.parameters);
            server.asserted = Asserted::Is(Rc::clone(&place.assertion.context));
        }
        server.affinity = place.want.affinity;
        if place.profile.shared
            && let Some(schema) = &self.placement.schema
            && !has_schema(&mut server.stream, schema, STEP_TIMEOUT).await.map_err(unreachable)?
        {
            let missing = ConnectError::MissingSchema(schema.to_string()).report();
            server.checkin();
            return Err(missing.into());
        }
        Ok(server)
    }

    /// How long what is known of the client's roles holds, and what it is; what will not hold for long is looked at anew.
    fn look_at_roles(&self, place: &Place, begin: &Begin) -> (Duration, Fitness) {
        let interval = begin.pool.borrow().role_check_interval;
        let fitness = self.fitness(place.pool.manager().standings(), interval);
        if fitness == Fitness::Ageing {
            self.refresh_fitness(place);
        }
        (interval, fitness)
    }

    /// The answer to the client's proof, AuthenticationOk, the server's parameters, the cancel key, notices and ReadyForQuery,
    /// in one piece.
    fn welcome(&mut self, parameters: &[u8], notices: &[Bytes], key: &CancelKey) -> PgWireResult<BytesMut> {
        let mut out = std::mem::take(&mut self.answer);
        out.reserve(WELCOME_BYTES);
        authentication_ok(&mut out)?;
        out.put_slice(parameters);
        backend_key_data(&mut out, key.process_id, &key.secret)?;
        for notice in notices {
            out.put_slice(notice);
        }
        for notice in &self.notices {
            notice.encode(&mut out);
        }
        ready_for_query(&mut out)?;
        Ok(out)
    }

    /// State that the settings themselves bring, for the whole session.
    fn standing_effects(&self, parameters: &Parameters) -> Effects {
        let mut effects = Effects::NONE;
        if self.replication().is_some() {
            effects.insert(Effects::REPLICATION);
        }
        if parameters.is_unreadable {
            effects.insert(Effects::UNREADABLE);
        }
        effects
    }
}

impl Parameters {
    fn of(server: &ServerConn) -> PgWireResult<Self> {
        let reported = &server.parameters;
        let mut messages = BytesMut::new();
        for (name, value) in reported {
            parameter_status(&mut messages, name, value)?;
        }
        Ok(Self { messages, is_unreadable: are_unreadable(reported), start: server.start.digest })
    }
}
