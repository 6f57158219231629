//! Where a session's server connections come from, and what it asks of them: what its profile says, and what its client carries.

use std::rc::Rc;
use std::time::Duration;

use super::attach::NO_SESSION;
use super::context::Assertion;
use super::profile::{Profile, affinity, reading};
use super::ticket::{Begin, Ticket};
use crate::backend::{
    Asserted, Claims, ConnectError, Credential, QueryError, ServerPool, Servers, Want, digest, simple,
};
use crate::pool::{Checkout, CheckoutError};
use crate::protocol::Report;
use crate::tenant::Tenant;

/// How long one statement may take that makes a connection nobody's.
const CALM_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a session's server connections come from, and how they are used.
pub(crate) struct Place {
    /// What it has in common with others.
    pub(crate) profile: Rc<Profile>,
    pub(crate) pool: Rc<ServerPool>,
    pub(crate) want: Rc<Want>,
    pub(crate) assertion: Rc<Assertion>,
    /// Sessions with the same number here share prepared statements.
    pub(crate) statement_scope: u64,
    begin: Rc<Begin>,
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
                    if self.profile.shared {
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
        self.assertion = Rc::new(self.assertion.carrying(carried));
        let (base, reading) = (self.profile.statement_scope, reading(carried));
        self.statement_scope = if reading.is_empty() { base } else { digest(&(base, reading)) };
        self.want = Rc::new(Want { affinity: affinity(&self.assertion.context), ..Want::clone(&self.want) });
    }

    /// The pool, made if need be, with the limits that the tenant has now: when the one that it had was evicted.
    pub(super) async fn find_pool(&self, tenant: &Tenant) -> Result<Rc<ServerPool>, Report> {
        let profile = &self.profile;
        let placement = tenant.placements.iter().find(|placement| profile.key.is_of(placement));
        let claims = Claims::of(tenant, placement.unwrap_or(profile.placement()));
        let credential = profile.credential.borrow().clone();
        find_pool(profile, &claims, &credential, &self.begin).await
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

/// Finds or makes the pool, and says how it is to be used.
pub(super) async fn place(ticket: &Ticket, begin: &Rc<Begin>) -> Result<Place, Report> {
    let profile = begin.thread.profiles().get(ticket, begin);
    let credential = ticket.credential.clone();
    let pool = find_pool(&profile, &profile.claims, &credential, begin).await?;
    pool.manager().set_credential(credential.clone());
    profile.credential.replace(credential);
    Ok(Place {
        want: Rc::clone(&profile.want),
        assertion: Rc::clone(&profile.assertion),
        statement_scope: profile.statement_scope,
        profile,
        pool,
        begin: Rc::clone(begin),
    })
}

/// The pool, made if need be; an idle one of any thread is given up for it when there are as many as may be.
async fn find_pool(
    profile: &Profile,
    claims: &Claims,
    credential: &Credential,
    begin: &Begin,
) -> Result<Rc<ServerPool>, Report> {
    let make =
        |connect_timeout| Servers::new(&profile.key, credential.clone(), begin.thread.front().clone(), connect_timeout);
    let full = match begin.pools.get_or_create(&profile.key, claims, make) {
        Ok(pool) => return Ok(pool),
        Err(full) => full,
    };
    if !(begin.make_room)().await {
        return Err(full.report());
    }
    begin.pools.get_or_create(&profile.key, claims, make).map_err(|full| full.report())
}
