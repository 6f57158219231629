//! From accept to the thread of the placement: startup packet, tenant, proof. Runs on the front runtime.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::time::Instant;

use super::adoption::Named;
use super::clients::Slot;
use super::operations::Console;
use super::worker::Command;
use super::{Live, Shared};
use crate::auth::{Part, SecretRef};
use crate::backend::Credential;
use crate::console;
use crate::frontend::{
    self, Challenge, Claim, DefaultTenantPhase, Identified, Opened, Opening, Proof, admit, authenticate,
    default_tenant_notice, filter_settings, identify, open, turn_away,
};
use crate::metrics::{Finder, count_error};
use crate::net::Stream;
use crate::protocol::{CancelKey, Protocol, Report, SqlState};
use crate::session::{Arrival, Ticket, Visitor, say, say_after};
use crate::tenant::{Placement, Pooling, Tenant, TenantName};

/// Takes one client as far as its thread, within the login time-out.
pub(super) async fn login(shared: Arc<Shared>, stream: Stream, slot: Slot) {
    let live = shared.live.load_full();
    let deadline = Instant::now() + live.timeouts.login;
    let peer = stream.peer().to_string();
    let done = tokio::time::timeout_at(deadline, Box::pin(to_thread(&shared, stream, slot, deadline, &peer)));
    if done.await.is_err() {
        tracing::info!(peer, "login time-out");
        metrics::counter!(crate::metrics::LOGIN_FAILURES, "kind" => "timeout").increment(1);
    }
}

/// Tells a client over `max_clients` so, in its own protocol.
pub(super) async fn refuse_surplus(shared: Arc<Shared>, stream: Stream) {
    let live = shared.live.load_full();
    let deadline = Instant::now() + live.timeouts.login.min(super::SURPLUS_TIMEOUT);
    let told = tokio::time::timeout_at(deadline, async {
        match open(stream, live.tls.as_deref(), live.listen.tls).await {
            Ok(Opening::Session(mut opened)) => {
                let limit = live.listen.max_clients;
                let report = Report::fatal(
                    SqlState::TOO_MANY_CONNECTIONS,
                    format!("(PT-LIMIT) {limit} clients are connected already (max_clients = {limit})"),
                );
                say(&mut opened.stream, &report).await;
            }
            Ok(Opening::Cancel(key, stream)) => cancel(&shared, &key, stream).await,
            Ok(Opening::Silent) => {}
            Err(error) => tracing::debug!(%error, "surplus client"),
        }
    });
    if told.await.is_err() {
        tracing::debug!("surplus client said nothing in time");
    }
}

async fn to_thread(shared: &Arc<Shared>, stream: Stream, slot: Slot, deadline: Instant, peer: &str) {
    let live = shared.live.load_full();
    let opened = match open(stream, live.tls.as_deref(), live.listen.tls).await {
        Ok(Opening::Session(opened)) => opened,
        Ok(Opening::Cancel(key, stream)) => return cancel(shared, &key, stream).await,
        Ok(Opening::Silent) => return,
        Err(error) => return failed(peer, &error, error.kind()),
    };
    let Opened { mut stream, protocol, parameters } = opened;
    if is_console(&live.console, &parameters) {
        return console(shared, stream, &parameters, slot, peer).await;
    }
    let encrypted = stream.tls().is_some();
    let (claim, mut proof) = match proven(shared, &mut stream, &parameters).await {
        Ok(proven) => proven,
        Err(Failure { error, kind }) => return failed(peer, &error, kind),
    };
    let visitor = Visitor {
        user: claim.request.user.clone(),
        address: peer.to_owned(),
        application_name: application_name(&claim.request.settings),
        connected_at: SystemTime::now(),
        encrypted,
    };
    match ticket(shared, claim, &mut proof, protocol, deadline, visitor).await {
        Ok(ticket) => {
            metrics::counter!(crate::metrics::LOGINS).increment(1);
            let tenant = Arc::clone(&ticket.tenant);
            shared.activity.login(tenant.id);
            if let Some(worker) = hand_over(shared, stream, ticket, slot) {
                catch_up(shared, &tenant, worker).await;
            }
        }
        Err(report) => {
            tracing::info!(peer, sqlstate = report.sqlstate.0, message = report.message, "login refused");
            metrics::counter!(crate::metrics::LOGIN_FAILURES, "kind" => refusal_kind(&report)).increment(1);
            say_after(&mut stream, proof.answer, &report).await;
        }
    }
}

/// Passes a cancel request on, then says goodbye: the client waits for that, and under TLS libpq takes an end without
/// `close_notify` for a failure.
async fn cancel(shared: &Shared, key: &CancelKey, mut stream: Stream) {
    shared.cancel(key).await;
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

/// A user of the console, who shares nothing with the logins of tenants but the exchange itself.
async fn console(shared: &Arc<Shared>, mut stream: Stream, parameters: &[(String, String)], slot: Slot, peer: &str) {
    let live = shared.live.load_full();
    let name = given(parameters, "user").unwrap_or_default();
    let user = live.console.users.iter().find(|user| user.name == name);
    let challenge = Challenge { user: name, verifier: user.map(|user| &user.verifier), salt_name: name };
    let proof = match authenticate(&mut stream, challenge, &shared.mock).await {
        Ok(proof) => proof,
        Err(error) => return failed(peer, &error, error.kind()),
    };
    let (Some(user), Ok(room)) = (user, Arc::clone(&shared.console_users).try_acquire_owned()) else {
        let report = Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "(PT-LIMIT) too many users of the console");
        return say_after(&mut stream, proof.answer, &report).await;
    };
    // From here on it is no client, and no login that takes too long.
    drop(slot);
    tracing::info!(peer, user = name, "console");
    let (role, name, operations) = (user.role, name.to_owned(), Console(Arc::clone(shared)));
    tokio::spawn(async move {
        console::serve(stream, proof.answer, role, &name, &operations).await;
        drop(room);
    });
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

/// Who the client claims to be, proven.
async fn proven(
    shared: &Shared,
    stream: &mut Stream,
    parameters: &[(String, String)],
) -> Result<(Box<Claim>, Proof), Failure> {
    let live = shared.live.load_full();
    let server_name = stream.tls().and_then(|tls| tls.server_name.clone());
    let identified = match identify(parameters, server_name.as_deref(), &live.identify, &shared.registry).await {
        Ok(identified) => identified,
        Err(error) => {
            if let Some(report) = error.report() {
                turn_away(stream, &report).await;
            }
            if matches!(error, frontend::Error::NoTenant { .. }) {
                count_refused(shared, &live, parameters, &stream.peer().to_string()).await;
            }
            return Err(Failure::from(error));
        }
    };
    let proof = authenticate(stream, identified.challenge(), &shared.mock).await;
    match identified {
        Identified::Known(claim) => Ok((claim, proof?)),
        Identified::Unknown(unknown) => {
            tracing::info!(peer = %stream.peer(), reason = %unknown.reason, user = unknown.user, "login of nobody known");
            let error = proof.err().unwrap_or(frontend::Error::Password { user: unknown.user });
            Err(Failure { error, kind: unknown.reason.as_str() })
        }
    }
}

/// Counts a client that named no tenant where that is not served any more. It has proved nothing: only a login that the default tenant has
/// is counted by its name.
async fn count_refused(shared: &Shared, live: &Live, parameters: &[(String, String)], peer: &str) {
    let Some(default) = live.identify.default_tenant.as_deref().and_then(|name| TenantName::parse(name).ok()) else {
        return;
    };
    let user = parameters.iter().find(|(name, _)| name == "user").map_or("", |(_, user)| user.as_str());
    let tenant = shared.registry.lookup(&default).await.ok().flatten();
    let login = tenant.filter(|tenant| tenant.login(user).is_some()).map_or("unknown", |_| user);
    tracing::info!(peer, login, "client named no tenant and was refused");
    shared.adoption.count(login, peer, Named::Refused);
}

/// A change that came between the last look at the tenant and the thread's taking the client over, the thread has not heard of
/// for this client. Any later one it will.
async fn catch_up(shared: &Shared, tenant: &Arc<Tenant>, worker: usize) {
    match shared.registry.current(tenant.id).await {
        Ok(Some(now)) if Arc::ptr_eq(&now, tenant) => {}
        Ok(now) => shared.workers[worker].tell(Command::TenantChanged(tenant.id, now)),
        Err(error) => tracing::debug!(%error, tenant = %tenant.slug, "tenant cannot be looked at again"),
    }
}

/// After the proof: what the client asked for, and what opens its server.
async fn ticket(
    shared: &Shared,
    claim: Box<Claim>,
    proof: &mut Proof,
    protocol: Protocol,
    deadline: Instant,
    visitor: Visitor,
) -> Result<Ticket, Report> {
    let peer = visitor.address.as_str();
    let live = shared.live.load_full();
    let tenant = present(shared, &claim).await?;
    let placement = admit(&tenant, &claim.request)?;
    if shared.disabled.load().iter().any(|order| order.held.covers(tenant.id, &placement)) {
        let message = format!("(PT-UNAVAILABLE) tenant \"{}\" is disabled; try again", tenant.slug);
        return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message));
    }
    let settings = filter_settings(&claim.request.settings, &placement)?;
    let mut notices = Vec::new();
    if live.identify.default_tenant.is_some() {
        let named = if claim.by_default.is_some() { Named::ByDefault } else { Named::Itself };
        shared.adoption.count(&claim.login.login, peer, named);
    }
    if claim.by_default == Some(DefaultTenantPhase::Warn) {
        tracing::warn!(peer, login = claim.login.login, "client named no tenant");
        notices.push(default_tenant_notice(&tenant, &live.identify));
    }
    let (credential, server_user) = match placement.pooling {
        Pooling::PerTenant => (Credential::Keys(proof.keys.clone()), claim.login.role.clone()),
        Pooling::Shared => service_credential(&placement).await?,
    };
    Ok(Ticket {
        id: shared.next_session.fetch_add(1, Ordering::Relaxed),
        tenant,
        placement,
        login: claim.login,
        settings,
        replication: claim.request.replication,
        visitor,
        credential,
        server_user,
        long_key: protocol == Protocol::V3_2,
        answer: std::mem::take(&mut proof.answer),
        notices,
        deadline,
    })
}

/// The claimed tenant as it is now. The proof may have taken as long as the client liked; what changed meanwhile was told
/// to the sessions of then, of which this is none.
async fn present(shared: &Shared, claim: &Claim) -> Result<Arc<Tenant>, Report> {
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

/// The service login of a shared pool, from the server's `app` secret.
async fn service_credential(placement: &Placement) -> Result<(Credential, String), Report> {
    let unusable = |error: &dyn std::fmt::Display| {
        tracing::error!(server = %placement.server.name, %error, "service login of a shared pool cannot be read");
        Report::fatal(SqlState::CONNECTION_FAILURE, "(PT-BACKEND) the login of the tenant's server is not configured")
    };
    let reference = placement.server.app_secret.as_deref().ok_or_else(|| unusable(&"no app_secret"))?;
    let reference: SecretRef = reference.parse().map_err(|error| unusable(&error))?;
    let credentials = reference.resolve(Part::App).await.map_err(|error| unusable(&error))?;
    let password = credentials.password.ok_or_else(|| unusable(&"no password in the app secret"))?;
    Ok((Credential::Password(password), credentials.user))
}

fn application_name(settings: &[(String, String)]) -> String {
    let found = settings.iter().find(|(name, _)| name == "application_name");
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}

/// Moves the client to the thread of its placement, and says which that is: all sessions of a pool are on one thread.
fn hand_over(shared: &Shared, stream: Stream, ticket: Ticket, slot: Slot) -> Option<usize> {
    let client = match stream.detach() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "client socket could not leave the front");
            return None;
        }
    };
    let mut hasher = DefaultHasher::new();
    let placement = &ticket.placement;
    (&placement.server.name, &placement.database, &ticket.server_user).hash(&mut hasher);
    if placement.pooling == Pooling::PerTenant {
        (ticket.tenant.id, &placement.module).hash(&mut hasher);
    }
    let index = usize::try_from(hasher.finish() % shared.workers.len() as u64).unwrap_or(0);
    shared.workers[index].tell(Command::Begin(Box::new(Arrival { client, ticket, slot: Box::new(slot) })));
    Some(index)
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
    ];
    kinds.iter().find(|(code, _)| report.message.starts_with(code)).map_or("refused", |(_, kind)| kind)
}

pub(super) fn failed(peer: &str, error: &frontend::Error, kind: &'static str) {
    tracing::info!(peer, kind, %error, "login failed");
    metrics::counter!(crate::metrics::LOGIN_FAILURES, "kind" => kind).increment(1);
    if let Some(report) = error.report() {
        count_error(Finder::Proxy, report.sqlstate.0.as_bytes());
    }
}
