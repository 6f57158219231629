//! From a ticket to a place: which pool, which settings at start-up, which context at every hand-over.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::attach::NO_SESSION;
use super::context::Assertion;
use super::state::{Rules, SharedRules, is_read_by};
use super::ticket::{Begin, Ticket};
use crate::backend::{
    Asserted, Claims, ConnectError, Context, Credential, PoolKey, QueryError, ServerAddress, ServerPool, Servers, Want,
    digest, simple,
};
use crate::pool::{Checkout, CheckoutError, Pinning};
use crate::protocol::Report;
use crate::tenant::{Placement, PoolMode, Pooling, Tenant, quote_ident};

/// The parameter that carries the tenant id.
const TENANT_PARAMETER: &str = "pgtenant.tenant_id";
/// Sees nothing but PostgreSQL's own: where a shared connection returns to when it is reset.
const NEUTRAL_PATH: &str = "pg_catalog, pg_temp";

/// How long one statement may take that makes a connection nobody's.
const CALM_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a session's server connections come from, and how they are used.
pub(crate) struct Place {
    pub(crate) pool: Rc<ServerPool>,
    /// Finds the pool again after this one was evicted.
    pub(crate) finder: PoolFinder,
    pub(crate) want: Rc<Want>,
    /// The pool's number, never used twice in a thread.
    pub(crate) pool_id: u64,
    pub(crate) assertion: Assertion,
    /// Most prepared statements on one connection; 0 carries none.
    pub(crate) prepared_max: u32,
    /// Whether unnamed statements that come often are kept on connections.
    pub(crate) keeps_unnamed: bool,
    /// Sessions with the same number here share prepared statements.
    pub(crate) statement_scope: u64,
    /// The same without what the client carries.
    base_scope: u64,
    /// The connection stays from login to logout.
    pub(crate) session_mode: bool,
    /// The connection serves other tenants, too.
    pub(crate) shared: bool,
    /// What its clients may do.
    pub(crate) rules: Rc<Rules>,
}

impl Place {
    /// What must be done on a connection before anything of this session's may be sent there, where it is in doubt.
    pub(super) fn calming(&self, server: &Checkout<Servers>, session: u64) -> Option<[String; 2]> {
        self.assertion.calming(&server.asserted, server.last_session == session)
    }

    /// A connection, this one or the next that is free, on which the context can be asserted in one write with the client's bytes.
    pub(super) async fn server(
        &self,
        mut found: Option<Checkout<Servers>>,
        session: u64,
    ) -> Result<Checkout<Servers>, CheckoutError<ConnectError>> {
        loop {
            let mut server = match found.take() {
                Some(server) => server,
                None => self.pool.checkout(self.want.clone()).await?,
            };
            let Some(statements) = self.calming(&server, session) else { return Ok(server) };
            match calm(&mut server, &statements).await {
                Ok(()) => {
                    if self.shared {
                        server.prepared.clear();
                    }
                    return Ok(server);
                }
                Err(error) => {
                    tracing::warn!(%error, "server connection could not be made ready for another client; closed")
                }
            }
        }
    }

    /// The client carries these settings from now on.
    pub(super) fn carry(&mut self, carried: &[(String, String)]) {
        self.assertion = self.assertion.carrying(carried);
        let reading = reading(carried);
        self.statement_scope = if reading.is_empty() { self.base_scope } else { digest(&(self.base_scope, reading)) };
        self.want = Rc::new(Want { affinity: affinity(&self.assertion.context), ..Want::clone(&self.want) });
    }
}

/// Makes a connection nobody's.
async fn calm(server: &mut Checkout<Servers>, statements: &[String]) -> Result<(), QueryError> {
    server.asserted = Asserted::Unknown;
    server.unnamed_owner = NO_SESSION;
    for statement in statements {
        let outcome = simple(&mut server.stream, statement, CALM_TIMEOUT).await?;
        server.note_parameters(outcome.parameters);
    }
    server.asserted = Asserted::Fresh;
    Ok(())
}

/// Those settings on which depends what a text means: the same text may be about other tables, dates and letters elsewhere.
fn reading(settings: &[(String, String)]) -> Vec<(String, &str)> {
    let named = settings.iter().filter(|(name, _)| is_read_by(name));
    let mut reading: Vec<_> = named.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str())).collect();
    reading.sort_unstable();
    reading
}

/// Connections with this context are preferred.
fn affinity(context: &Context) -> u64 {
    digest(&(context.tenant, &context.settings, &context.role))
}

/// Finds or makes the pool, and says how it is to be used.
pub(super) async fn place(ticket: &Ticket, begin: &Rc<Begin>) -> Result<Place, Report> {
    let placement = &ticket.placement;
    let shared = placement.pooling == Pooling::Shared;
    let config = Rc::clone(&begin.pool.borrow());
    let mode =
        if ticket.replication.is_some() { PoolMode::Session } else { placement.pool_mode.unwrap_or(config.mode) };
    let session_mode = mode == PoolMode::Session;
    let own = own_settings(ticket);
    let (startup, context) = if shared {
        (neutral_settings(placement), own_context(ticket, merged(own, &ticket.settings)))
    } else {
        per_tenant_settings(ticket, own, session_mode)
    };
    let class = digest(&startup);
    let affinity = affinity(&context);
    let rules = Rules {
        session_mode,
        refuses_pins: config.pinning == Pinning::Refuse,
        asserted: context.settings.iter().map(|(name, _)| name.to_ascii_lowercase()).collect(),
        shared: shared.then(|| shared_rules(placement, &context)),
    };
    let key = PoolKey {
        tenant: (!shared).then_some(ticket.tenant.id),
        module: placement.module.clone(),
        address: ServerAddress::new(&placement.server),
        database: placement.database.as_str().to_owned(),
        user: ticket.server_user.clone(),
    };
    let pool_id = digest(&key);
    let lane = shared.then(|| begin.pools.lane(&key, ticket.tenant.id, &ticket.tenant.limits));
    let mut finder = PoolFinder {
        key: Rc::new(key),
        placement: Arc::clone(placement),
        credential: ticket.credential.clone(),
        begin: Rc::clone(begin),
    };
    let pool = finder.find(&ticket.tenant).await?;
    // All sessions of a pool have one and the same.
    finder.key = Rc::clone(pool.manager().key());
    pool.manager().set_credential(ticket.credential.clone());
    let require_schema = if shared { None } else { placement.schema.clone() };
    let want = Want { class, affinity, startup, require_schema, lane };
    let statement_scope = digest(&(pool_id, ticket.tenant.id, class, reading(&context.settings)));
    let assertion = Assertion::new(context, shared);
    let prepared_max = config.max_prepared_statements;
    Ok(Place {
        pool_id,
        statement_scope,
        base_scope: statement_scope,
        prepared_max,
        keeps_unnamed: config.keeps_unnamed(placement.module.as_str()),
        pool,
        finder,
        want: Rc::new(want),
        assertion,
        session_mode,
        shared,
        rules: Rc::new(rules),
    })
}

/// What a client may not set on a connection that serves other tenants.
fn shared_rules(placement: &Placement, context: &Context) -> SharedRules {
    let common = ["public", "$user", "pg_catalog", "pg_temp", "information_schema", ""].map(str::to_owned);
    let own = placement.schema.iter().chain(&placement.search_path_extra).cloned();
    let whose = ["role", "session_authorization"].map(str::to_owned);
    let whose = whose.into_iter().filter(|_| context.role.is_some());
    let tenant = placement.tenant_parameter.iter().map(|name| name.to_ascii_lowercase());
    SharedRules { schemas: common.into_iter().chain(own).collect(), parameters: whose.chain(tenant).collect() }
}

/// Finds a session's pool, at its beginning and when the pool it had was evicted.
pub(crate) struct PoolFinder {
    key: Rc<PoolKey>,
    placement: Arc<Placement>,
    credential: Credential,
    begin: Rc<Begin>,
}

impl PoolFinder {
    /// The pool, made if need be, with the limits that the tenant has now; an idle one of any thread is given up for it when there are as many as may be.
    pub(super) async fn find(&self, tenant: &Tenant) -> Result<Rc<ServerPool>, Report> {
        let begin = &self.begin;
        let make = |connect_timeout| {
            let front = begin.thread.front().clone();
            Servers::new(&self.key, self.credential.clone(), front, connect_timeout)
        };
        let placement = tenant.placements.iter().find(|placement| self.key.is_of(placement));
        let claims = Claims::of(tenant, placement.unwrap_or(&self.placement));
        let full = match begin.pools.get_or_create(&self.key, &claims, make) {
            Ok(pool) => return Ok(pool),
            Err(full) => full,
        };
        if !(begin.make_room)().await {
            return Err(full.report());
        }
        begin.pools.get_or_create(&self.key, &claims, make).map_err(|full| full.report())
    }
}

/// What pgtenant itself sets for the tenant. Its id at every isolation, where only common rows need it: so a column's default may be the id wherever a
/// module's tenants live.
fn own_settings(ticket: &Ticket) -> Vec<(String, String)> {
    let placement = &ticket.placement;
    let mut settings = Vec::new();
    if let Some(path) = search_path(placement) {
        settings.push(("search_path".to_owned(), path));
    }
    let id = ticket.tenant.id.to_string();
    settings.extend(placement.tenant_parameter.iter().map(|name| (name.clone(), id.clone())));
    settings.push((TENANT_PARAMETER.to_owned(), id));
    settings
}

/// The tenant's schema, the configured extras, and temporary objects last so that they never hide the tenant's.
fn search_path(placement: &Placement) -> Option<String> {
    let shared = placement.pooling == Pooling::Shared;
    let own = match &placement.schema {
        Some(schema) => quote_ident(schema),
        None if shared || !placement.search_path_extra.is_empty() => quote_ident("public"),
        None => return None,
    };
    let extras = placement.search_path_extra.iter().map(|schema| quote_ident(schema));
    Some([own].into_iter().chain(extras).chain(["pg_temp".to_owned()]).collect::<Vec<_>>().join(", "))
}

/// Where a shared connection starts and returns to: nobody's.
fn neutral_settings(placement: &Placement) -> Vec<(String, String)> {
    let mut settings = vec![("search_path".to_owned(), NEUTRAL_PATH.to_owned())];
    settings.extend(placement.tenant_parameter.iter().map(|name| (name.clone(), String::new())));
    settings.push((TENANT_PARAMETER.to_owned(), String::new()));
    settings
}

/// A connection of the tenant's own starts with its settings, so that RESET returns to them. Only in transaction mode the
/// application's name, which differs from client to client, follows the client instead.
fn per_tenant_settings(
    ticket: &Ticket,
    own: Vec<(String, String)>,
    session_mode: bool,
) -> (Vec<(String, String)>, Context) {
    let mut startup = merged(own, &ticket.settings);
    startup.extend(ticket.replication.iter().map(|mode| ("replication".to_owned(), mode.clone())));
    let mut carried = Vec::new();
    if !session_mode {
        let name = startup.iter().position(|(name, _)| name == "application_name");
        let name = name.map_or_else(|| ("application_name".to_owned(), String::new()), |at| startup.remove(at));
        carried.push(name);
    }
    (startup, Context { tenant: Some(ticket.tenant.id), settings: carried, role: None })
}

fn own_context(ticket: &Ticket, settings: Vec<(String, String)>) -> Context {
    let role = if ticket.placement.set_role { ticket.placement.role.clone() } else { None };
    Context { tenant: Some(ticket.tenant.id), settings, role }
}

/// pgtenant's settings, then the client's; the client's win where both name one (only a tenant's own connection lets them).
fn merged(own: Vec<(String, String)>, client: &[(String, String)]) -> Vec<(String, String)> {
    let mut all = own;
    for (name, value) in client {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => all.push((name.clone(), value.clone())),
        }
    }
    all
}
