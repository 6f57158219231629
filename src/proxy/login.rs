//! From accept to the thread of the placement: startup packet, tenant, proof. Runs on a relay thread, so that a client whose placement is
//! there never changes runtimes; what takes long (TLS handshakes, registry queries, secrets) is waited for, not done there.

use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use rapidhash::fast::RapidHasher;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::adoption::Named;
use super::clients::Slot;
use super::operations::Console;
use super::recall::{Known, Recall};
use super::seats::Seated;
use super::worker::Command;
use super::{Live, Shared};
use crate::auth::{Part, SecretRef};
use crate::backend::Credential;
use crate::console;
use crate::frontend::{
    self, Challenge, Claim, DefaultTenantPhase, Identified, Opened, Opening, Proof, admit, allowed, authenticate,
    check_settings, default_tenant_notice, identify, introduced, open, turn_away,
};
use crate::metrics::{Finder, count_error};
use crate::net::{Detached, Peer, Stream};
use crate::protocol::{CancelKey, Protocol, Report, SqlState};
use crate::session::{Arrival, Begin, Ticket, Visitor, say, say_after};
use crate::tenant::{Placement, Pooling, Tenant, TenantName};

/// A session from its login to its end. Boxed: a task keeps room for every copy of what it waits for.
type Session = Pin<Box<dyn Future<Output = ()>>>;

/// A client's places among all, and among its tenant's.
type Places = (Slot, Seated);

/// How long a balancer may take to say who its client is.
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes a new client of this thread as far as its session, within the login time-out, and serves it here or sends it to the thread where
/// its placement is.
pub(super) fn login(shared: Arc<Shared>, client: Detached, slot: Slot, begin: &Rc<Begin>) {
    let begin = Rc::clone(begin);
    tokio::task::spawn_local(async move {
        // Boxed: what a login needs is not kept while its session lasts.
        let session = Box::pin(async {
            let live = shared.live.load_full();
            let from = *client.peer();
            let stream = introduce(&live, client).await?;
            let (peer, deadline) = (*stream.peer(), Instant::now() + live.timeouts.login);
            Login { shared, live, begin, from, peer, deadline }.in_time(stream, slot).await
        });
        if let Some(session) = session.await {
            session.await;
        }
    });
}

/// What another thread does with a new client that is likely to stay there: the same.
pub(super) fn login_there(shared: Arc<Shared>, client: Detached, slot: Slot) -> Command {
    Command::Run(Box::new(move |begin| login(shared, client, slot, begin)))
}

/// The client, with its own address where a balancer brings it; none if there is nobody to talk to.
async fn introduce(live: &Live, client: Detached) -> Option<Stream> {
    let stream = client.attach();
    let balancers = &live.listen.proxy_protocol_from;
    if balancers.is_empty() {
        return Some(stream);
    }
    let peer = *stream.peer();
    let limit = live.timeouts.login.min(INTRODUCTION_TIMEOUT);
    match tokio::time::timeout(limit, introduced(stream, balancers)).await {
        Ok(Ok(introduced)) => return introduced,
        Ok(Err(error)) => failed(peer, &error, error.kind()),
        Err(_) => tracing::info!(%peer, "balancer did not say in time who its client is"),
    }
    None
}

/// A login in progress.
struct Login {
    shared: Arc<Shared>,
    live: Arc<Live>,
    begin: Rc<Begin>,
    /// Who connected: a balancer perhaps, for the client.
    from: Peer,
    peer: Peer,
    deadline: Instant,
}

impl Login {
    /// The session, if it is this thread's.
    async fn in_time(self, stream: Stream, slot: Slot) -> Option<Session> {
        match tokio::time::timeout_at(self.deadline, self.to_thread(stream, slot)).await {
            Ok(arrival) => Some(enter(self.shared, arrival?, &self.begin)),
            Err(_) => {
                tracing::info!(peer = self.peer.to_string(), "login time-out");
                metrics::counter!(crate::metrics::LOGIN_FAILURES, "kind" => "timeout").increment(1);
                None
            }
        }
    }

    /// The client at its thread, if that is this one; else it is on its way there, or was refused.
    async fn to_thread(&self, stream: Stream, slot: Slot) -> Option<Box<Arrival>> {
        let opened = match open(stream, self.live.tls.as_ref(), self.live.listen.tls).await {
            Ok(Opening::Session(opened)) => opened,
            Ok(Opening::Cancel(key, stream)) => {
                cancel(&self.shared, key, stream, self.begin.thread.front()).await;
                return None;
            }
            Ok(Opening::Silent) => return None,
            Err(error) => {
                failed(self.peer, &error, error.kind());
                return None;
            }
        };
        let Opened { mut stream, protocol, parameters } = opened;
        // Under TLS the server's name may name a tenant, too.
        let is_all_said = stream.tls().is_none() || self.live.identify.sni_suffix.is_none();
        let known = if is_all_said { self.recall().get(&parameters, &self.live) } else { None };
        if known.is_none() && is_console(&self.live.console, &parameters) {
            self.console(stream, &parameters, slot).await;
            return None;
        }
        let (claim, mut proof) = match self.proven(&mut stream, &parameters, known.as_deref()).await {
            Ok(proven) => proven,
            Err(Failure { error, kind }) => {
                failed(self.peer, &error, kind);
                return None;
            }
        };
        let visitor = Visitor {
            peer: *stream.peer(),
            user: claim.request.user.as_str().into(),
            application_name: application_name(&claim.request.settings),
            connected_at: SystemTime::now(),
            encrypted: stream.tls().is_some(),
        };
        match self.ticket(claim, known.as_deref(), &mut proof, protocol, visitor).await {
            Ok((ticket, seat)) => {
                let home = match &known {
                    Some(known) if known.is_of(&ticket) => known.home,
                    _ => self.home(&ticket),
                };
                let is_new = known.as_ref().is_none_or(|known| !Arc::ptr_eq(&known.claim, &ticket.claim));
                if is_new && is_all_said {
                    self.recall().keep(parameters, &self.live, &ticket, home);
                }
                self.shared.logins.increment(1);
                self.shared.activity.login(ticket.tenant.id);
                self.at_home(stream, ticket, home, (slot, seat))
            }
            Err(report) => {
                tracing::info!(
                    peer = self.peer.to_string(),
                    sqlstate = report.sqlstate.0,
                    message = report.message,
                    "login refused"
                );
                metrics::counter!(crate::metrics::LOGIN_FAILURES, "kind" => refusal_kind(&report)).increment(1);
                say_after(&mut stream, proof.answer, &report).await;
                None
            }
        }
    }

    /// What clients of this thread said of late.
    fn recall(&self) -> &Recall {
        &self.shared.workers[self.begin.thread_index].recall
    }

    /// A user of the console, who shares nothing with the logins of tenants but the exchange itself.
    async fn console(&self, mut stream: Stream, parameters: &[(String, String)], slot: Slot) {
        let shared = &self.shared;
        let name = given(parameters, "user").unwrap_or_default();
        let user = self.live.console.users.iter().find(|user| user.name == name);
        let challenge = Challenge { user: name, verifier: user.map(|user| &user.verifier), salt_name: name };
        let counted_as = format!("{name}\0{}", console::DATABASE);
        let proof = match self.prove(&mut stream, challenge, &counted_as).await {
            Ok(proof) => proof,
            Err(error) => return failed(self.peer, &error, error.kind()),
        };
        let (Some(user), Ok(room)) = (user, Arc::clone(&shared.console_users).try_acquire_owned()) else {
            let report = Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "(PT-LIMIT) too many users of the console");
            return say_after(&mut stream, proof.answer, &report).await;
        };
        // From here on it is no client, and no login that takes too long.
        drop(slot);
        tracing::info!(peer = self.peer.to_string(), user = name, "console");
        let (role, name, operations) = (user.role, name.to_owned(), Console(Arc::clone(shared)));
        let moved = stream.detach();
        self.begin.thread.front().spawn(async move {
            match moved.map(Detached::attach) {
                Ok(stream) => console::serve(stream, proof.answer, role, &name, &operations).await,
                Err(error) => tracing::error!(%error, "console user could not be moved to the front"),
            }
            drop(room);
        });
    }

    /// Who the client claims to be, proven.
    async fn proven(
        &self,
        stream: &mut Stream,
        parameters: &[(String, String)],
        known: Option<&Known>,
    ) -> Result<(Arc<Claim>, Proof), Failure> {
        if let Some(Known { claim, .. }) = known
            && is_as_claimed(&self.shared, claim).await
        {
            let identified = Identified::Known(Arc::clone(claim));
            let proof = self.prove(stream, identified.challenge(), identified.counted_as()).await?;
            return Ok((Arc::clone(claim), proof));
        }
        let server_name = stream.tls().and_then(|tls| tls.server_name.clone());
        let (config, registry) = (&self.live.identify, &self.shared.registry);
        let identified = match identify(parameters, server_name.as_deref(), config, registry).await {
            Ok(identified) => identified,
            Err(error) => {
                if let Some(report) = error.report() {
                    turn_away(stream, &report).await;
                }
                if matches!(error, frontend::Error::NoTenant { .. }) {
                    self.count_refused(parameters).await;
                }
                return Err(Failure::from(error));
            }
        };
        let proof = self.prove(stream, identified.challenge(), identified.counted_as()).await;
        match identified {
            Identified::Known(claim) => Ok((claim, proof?)),
            Identified::Unknown(unknown) => {
                tracing::info!(peer = self.peer.to_string(), reason = %unknown.reason, user = unknown.user, "login of nobody known");
                let error = proof.err().unwrap_or(frontend::Error::Password { user: unknown.user });
                Err(Failure { error, kind: unknown.reason.as_str() })
            }
        }
    }

    /// The exchange by which a client proves who it is, after the wait that failures from its address have earned it.
    async fn prove(
        &self,
        stream: &mut Stream,
        challenge: Challenge<'_>,
        counted_as: &str,
    ) -> Result<Proof, frontend::Error> {
        let peer = *stream.peer();
        let attempt = self.shared.attempts.begin(&peer, counted_as, self.live.timeouts.login_backoff).await;
        let mut proof = authenticate(stream, challenge, &self.shared.mock).await;
        if attempt.is_hopeless() && proof.is_ok() {
            let error = frontend::Error::Password { user: challenge.user.to_owned() };
            if let Some(report) = error.report() {
                turn_away(stream, &report).await;
            }
            proof = Err(error);
        }
        match &proof {
            Ok(_) => attempt.end(true),
            Err(frontend::Error::Password { .. }) => attempt.end(false),
            // Nothing was proved either way.
            Err(_) => {}
        }
        proof
    }

    /// Counts a client that named no tenant where that is not served any more. It has proved nothing: only a login that the default tenant has
    /// is counted by its name.
    async fn count_refused(&self, parameters: &[(String, String)]) {
        let default = self.live.identify.default_tenant.as_deref();
        let Some(default) = default.and_then(|name| TenantName::parse(name).ok()) else { return };
        let user = parameters.iter().find(|(name, _)| name == "user").map_or("", |(_, user)| user.as_str());
        let tenant = self.shared.registry.lookup(&default).await.ok().flatten();
        let login = tenant.filter(|tenant| tenant.login(user).is_some()).map_or("unknown", |_| user);
        tracing::info!(peer = self.peer.to_string(), login, "client named no tenant and was refused");
        self.shared.adoption.count(login, &self.peer.to_string(), Named::Refused);
    }

    /// After the proof: what the client asked for, and what opens its server.
    async fn ticket(
        &self,
        claim: Arc<Claim>,
        known: Option<&Known>,
        proof: &mut Proof,
        protocol: Protocol,
        visitor: Visitor,
    ) -> Result<(Ticket, Seated), Report> {
        let (shared, live, peer) = (&self.shared, &self.live, self.peer);
        let tenant = present(shared, &claim).await?;
        allowed(&tenant, visitor.peer)?;
        let placement = match known {
            Some(known) if Arc::ptr_eq(&known.claim.tenant, &tenant) => Arc::clone(&known.placement),
            _ => {
                let placement = admit(&tenant, &claim.request)?;
                check_settings(&claim.request.settings, &placement)?;
                placement
            }
        };
        if shared.disabled.load().iter().any(|order| order.held.covers(tenant.id, &placement)) {
            let message = format!("(PT-UNAVAILABLE) tenant \"{}\" is disabled; try again", tenant.slug);
            return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message));
        }
        let seat = shared.seats.take(&tenant, live.limits.of(&tenant.limits))?;
        let mut notices = Vec::new();
        if live.identify.default_tenant.is_some() {
            let named = if claim.by_default.is_some() { Named::ByDefault } else { Named::Itself };
            shared.adoption.count(&claim.login.login, &peer.to_string(), named);
        }
        if claim.by_default == Some(DefaultTenantPhase::Warn) {
            tracing::warn!(peer = peer.to_string(), login = claim.login.login, "client named no tenant");
            notices.push(default_tenant_notice(&tenant, &live.identify));
        }
        let (credential, server_user) = match placement.terms.pooling {
            Pooling::PerTenant => (Credential::Keys(proof.keys.clone()), claim.login.role.clone()),
            Pooling::Shared => service_credential(&placement, &self.begin).await?,
        };
        // Before the proof nobody knows whose time-out it would be.
        let deadline = tenant.limits.login.map_or(self.deadline, |own| Instant::now() + own);
        let ticket = Ticket {
            id: shared.next_session.fetch_add(1, Ordering::Relaxed),
            tenant,
            placement,
            claim,
            visitor,
            credential,
            server_user,
            long_key: protocol == Protocol::V3_2,
            answer: std::mem::take(&mut proof.answer),
            notices,
            deadline,
        };
        Ok((ticket, seat))
    }

    /// The thread of a client's placement: all sessions of a pool are on one.
    fn home(&self, ticket: &Ticket) -> usize {
        let mut hasher = RapidHasher::default();
        let placement = &ticket.placement;
        (&placement.server.name, &placement.database, &ticket.server_user).hash(&mut hasher);
        if placement.terms.pooling == Pooling::PerTenant {
            (ticket.tenant.id, &placement.terms.module).hash(&mut hasher);
        }
        usize::try_from(hasher.finish() % self.shared.workers.len() as u64).unwrap_or(0)
    }

    /// The client at the thread of its placement, if it is there; else moves it.
    fn at_home(&self, client: Stream, ticket: Ticket, home: usize, places: Places) -> Option<Box<Arrival>> {
        self.shared.homes.learn(&self.from, home);
        if home == self.begin.thread_index {
            return Some(Box::new(Arrival { client, ticket, slot: Box::new(places) }));
        }
        match client.detach() {
            Ok(client) => self.shared.workers[home].tell(arrive(Arc::clone(&self.shared), client, ticket, places)),
            Err(error) => tracing::error!(%error, "client socket could not leave the thread of its login"),
        }
        None
    }
}

/// Begins the session. It is in the thread's list before anything is waited for.
fn enter(shared: Arc<Shared>, arrival: Box<Arrival>, begin: &Rc<Begin>) -> Session {
    let (tenant, claim) = (Arc::clone(&arrival.ticket.tenant), Arc::clone(&arrival.ticket.claim));
    let session = Box::pin(arrival.run(Rc::clone(begin)));
    catch_up(shared, tenant, claim.name.as_ref(), begin.thread_index);
    session
}

/// Tells a client over `max_clients` so, in its own protocol.
pub(super) async fn refuse_surplus(shared: Arc<Shared>, client: Detached) {
    let live = shared.live.load_full();
    let Some(stream) = introduce(&live, client).await else { return };
    let deadline = Instant::now() + live.timeouts.login.min(super::SURPLUS_TIMEOUT);
    let told = tokio::time::timeout_at(deadline, async {
        match open(stream, live.tls.as_ref(), live.listen.tls).await {
            Ok(Opening::Session(mut opened)) => {
                let limit = live.listen.max_clients;
                let report = Report::fatal(
                    SqlState::TOO_MANY_CONNECTIONS,
                    format!("(PT-LIMIT) {limit} clients are connected already (max_clients = {limit})"),
                );
                say(&mut opened.stream, &report).await;
            }
            Ok(Opening::Cancel(key, stream)) => cancel(&shared, key, stream, &Handle::current()).await,
            Ok(Opening::Silent) => {}
            Err(error) => tracing::debug!(%error, "surplus client"),
        }
    });
    if told.await.is_err() {
        tracing::debug!("surplus client said nothing in time");
    }
}

/// Passes a cancel request on, then says goodbye: the client waits for that, and under TLS libpq takes an end without
/// `close_notify` for a failure.
async fn cancel(shared: &Arc<Shared>, key: CancelKey, mut stream: Stream, front: &Handle) {
    // Other instances may have to be asked.
    let shared = Arc::clone(shared);
    if let Err(error) = front.spawn(async move { shared.cancel(&key).await }).await {
        tracing::debug!(%error, "a cancel request was not passed on");
    }
    if let Err(error) = stream.shutdown().await {
        tracing::debug!(%error, "goodbye after a cancel request");
    }
}

/// Whether a client asks for the console, where there is one.
fn is_console(config: &console::Config, parameters: &[(String, String)]) -> bool {
    !config.users.is_empty() && given(parameters, "database") == Some(console::DATABASE)
}

fn given<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Why a client did not prove who it is.
struct Failure {
    error: frontend::Error,
    /// What operators are told: the client is not told who is unknown.
    kind: &'static str,
}

impl From<frontend::Error> for Failure {
    fn from(error: frontend::Error) -> Self {
        Self { kind: error.kind(), error }
    }
}

/// A change that came between the last look at the tenant and the thread's taking the client over, the thread has not heard of
/// for this client. Any later one it will.
fn catch_up(shared: Arc<Shared>, tenant: Arc<Tenant>, name: Option<&TenantName>, worker: usize) {
    let cached = match name {
        Some(name) => shared.registry.cached(name),
        None => shared.registry.cached(&TenantName::from(tenant.id)),
    };
    if cached.flatten().is_some_and(|now| Arc::ptr_eq(&now, &tenant)) {
        return;
    }
    tokio::task::spawn_local(async move {
        match shared.registry.current(tenant.id).await {
            Ok(Some(now)) if Arc::ptr_eq(&now, &tenant) => {}
            Ok(now) => shared.workers[worker].tell(Command::TenantChanged(tenant.id, now)),
            Err(error) => tracing::debug!(%error, tenant = %tenant.slug, "tenant cannot be looked at again"),
        }
    });
}

/// The claimed tenant as it is now. The proof may have taken as long as the client liked; what changed meanwhile was told
/// to the sessions of then, of which this is none.
async fn present(shared: &Shared, claim: &Claim) -> Result<Arc<Tenant>, Report> {
    if is_as_claimed(shared, claim).await {
        return Ok(Arc::clone(&claim.tenant));
    }
    let tenant = match shared.registry.current(claim.tenant.id).await {
        Ok(tenant) => tenant,
        // It was known when the client came, which is as good as anything in the cache of a registry that is down.
        Err(_) => Some(Arc::clone(&claim.tenant)),
    };
    let again = "(PT-UNAVAILABLE) the login was changed meanwhile; try again";
    tenant
        .filter(|tenant| tenant.login(&claim.login.login) == Some(&claim.login))
        .ok_or_else(|| Report::fatal(SqlState::CANNOT_CONNECT_NOW, again))
}

/// Whether the name of a claim still leads to its tenant, and that is as it was. The same address is the same content: tenants are
/// replaced, not changed.
async fn is_as_claimed(shared: &Shared, claim: &Claim) -> bool {
    let Some(name) = &claim.name else { return false };
    matches!(shared.registry.lookup(name).await, Ok(Some(now)) if Arc::ptr_eq(&now, &claim.tenant))
}

/// The service login of a shared pool, from the server's `app` secret.
async fn service_credential(placement: &Placement, begin: &Begin) -> Result<(Credential, String), Report> {
    let unusable = |error: &dyn std::fmt::Display| {
        tracing::error!(server = %placement.server.name, %error, "service login of a shared pool cannot be read");
        Report::fatal(SqlState::CONNECTION_FAILURE, "(PT-BACKEND) the login of the tenant's server is not configured")
    };
    let reference = placement.server.app_secret.as_deref().ok_or_else(|| unusable(&"no app_secret"))?;
    let reference: SecretRef = reference.parse().map_err(|error| unusable(&error))?;
    // A secret may be a file.
    let read = begin.thread.front().spawn(async move { reference.resolve(Part::App).await }).await;
    let credentials = read.map_err(|error| unusable(&error))?.map_err(|error| unusable(&error))?;
    let password = credentials.password.ok_or_else(|| unusable(&"no password in the app secret"))?;
    Ok((Credential::Password(password), credentials.user))
}

fn application_name(settings: &[(String, String)]) -> Box<str> {
    let found = settings.iter().find(|(name, _)| name == "application_name");
    found.map(|(_, value)| value.as_str().into()).unwrap_or_default()
}

/// What a thread does with a client that has logged in on another.
fn arrive(shared: Arc<Shared>, client: Detached, ticket: Ticket, places: Places) -> Command {
    Command::Run(Box::new(move |begin| {
        let arrival = Box::new(Arrival { client: client.attach(), ticket, slot: Box::new(places) });
        tokio::task::spawn_local(enter(shared, arrival, begin));
    }))
}

/// Why a client that has proved itself was refused, as a metric label: not subscribed, inactive and unavailable are not the same to an
/// operator.
fn refusal_kind(report: &Report) -> &'static str {
    let kinds = [
        ("(PT-NOMODULE)", "no_module"),
        ("(PT-SUSPENDED)", "suspended"),
        ("(PT-UNAVAILABLE)", "unavailable"),
        ("(PT-BACKEND)", "backend"),
        ("(PT-LIMIT)", "limit"),
        ("(PT-ADDRESS)", "address"),
    ];
    kinds.iter().find(|(code, _)| report.message.starts_with(code)).map_or("refused", |(_, kind)| kind)
}

fn failed(peer: Peer, error: &frontend::Error, kind: &'static str) {
    tracing::info!(peer = peer.to_string(), kind, %error, "login failed");
    metrics::counter!(crate::metrics::LOGIN_FAILURES, "kind" => kind).increment(1);
    if let Some(report) = error.report() {
        count_error(Finder::Proxy, report.sqlstate.0.as_bytes());
    }
}
