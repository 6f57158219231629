//! What sessions have in common whose clients log in alike: the settings of their server connections, the context that is asserted there, what they may do.
//! Made by the first of them.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use rapidhash::RapidHashMap;
use rapidhash::fast::RapidHasher;

use super::context::Assertion;
use super::state::{Rules, SharedRules, is_read_by};
use super::ticket::{Begin, Ticket};
use crate::backend::{Claims, Context, Credential, PoolKey, ServerAddress, Want, digest};
use crate::pool::{self, Pinning};
use crate::tenant::{Placement, PoolMode, Pooling, Tenant, quote_ident};

/// The parameter that carries the tenant id.
const TENANT_PARAMETER: &str = "pgtenant.tenant_id";
/// Sees nothing but PostgreSQL's own: where a shared connection returns to when it is reset.
const NEUTRAL_PATH: &str = "pg_catalog, pg_temp";
/// Most profiles of a thread that are remembered; those in use live on without that.
const PROFILES_MAX: usize = 4096;

/// How sessions of a kind get server connections, and how they use them.
pub(crate) struct Profile {
    made_from: Ingredients,
    pub(super) key: Rc<PoolKey>,
    /// What the registry said of the pool's limits at the first login.
    pub(super) claims: Claims,
    pub(super) want: Rc<Want>,
    pub(super) assertion: Rc<Assertion>,
    /// The pool's number, never used twice in a thread.
    pub(crate) pool_id: u64,
    /// Most prepared statements on one connection; 0 carries none.
    pub(crate) prepared_max: u32,
    /// Whether unnamed statements that come often are kept on connections.
    pub(crate) keeps_unnamed: bool,
    /// Sessions with the same number here share prepared statements, as long as their clients carry nothing of their own.
    pub(super) statement_scope: u64,
    /// The connection stays from login to logout.
    pub(crate) session_mode: bool,
    /// The connection serves other tenants, too.
    pub(crate) shared: bool,
    /// What its clients may do.
    pub(crate) rules: Rc<Rules>,
    /// The latest client's: opens connections of a pool that is made anew.
    pub(super) credential: RefCell<Credential>,
}

/// All that a profile depends on, besides the role in its pool's key. Tenants, placements and settings of pools are never changed but replaced: the same address is the same content.
struct Ingredients {
    tenant: Arc<Tenant>,
    placement: Arc<Placement>,
    config: Rc<pool::Config>,
    settings: Vec<(String, String)>,
    replication: Option<String>,
}

/// The profiles of a thread.
#[derive(Default)]
pub(crate) struct Profiles(RefCell<RapidHashMap<u64, Known>>);

struct Known {
    profile: Rc<Profile>,
    /// Somebody logged in with it since the last sweep.
    is_fresh: bool,
}

impl Profiles {
    /// That of a client.
    pub(super) fn get(&self, ticket: &Ticket, begin: &Begin) -> Rc<Profile> {
        let config = Rc::clone(&begin.pool.borrow());
        let place = Ingredients::place(ticket, &config);
        if let Some(known) = self.0.borrow_mut().get_mut(&place)
            && known.profile.is_of(ticket, &config)
        {
            known.is_fresh = true;
            return Rc::clone(&known.profile);
        }
        let profile = Rc::new(Profile::make(ticket, config, begin));
        let mut known = self.0.borrow_mut();
        if known.len() >= PROFILES_MAX {
            known.clear();
        }
        known.insert(place, Known { profile: Rc::clone(&profile), is_fresh: true });
        profile
    }

    /// Forgets those that nobody has used of late.
    pub(crate) fn sweep(&self) {
        let is_used = |known: &mut Known| std::mem::take(&mut known.is_fresh) || Rc::strong_count(&known.profile) > 1;
        self.0.borrow_mut().retain(|_, known| is_used(known));
    }
}

impl Ingredients {
    /// Where a client's profile is looked for.
    fn place(ticket: &Ticket, config: &Rc<pool::Config>) -> u64 {
        let mut hasher = RapidHasher::default();
        (Arc::as_ptr(&ticket.tenant), Arc::as_ptr(&ticket.placement), Rc::as_ptr(config)).hash(&mut hasher);
        (&ticket.server_user, ticket.claim.likeness).hash(&mut hasher);
        hasher.finish()
    }
}

impl Profile {
    /// Whether a client that logs in now has this one.
    fn is_of(&self, ticket: &Ticket, config: &Rc<pool::Config>) -> bool {
        let Ingredients { tenant, placement, config: made_with, settings, replication } = &self.made_from;
        Arc::ptr_eq(tenant, &ticket.tenant)
            && Arc::ptr_eq(placement, &ticket.placement)
            && Rc::ptr_eq(made_with, config)
            && self.key.user == ticket.server_user
            && settings == ticket.settings()
            && replication.as_deref() == ticket.replication()
    }

    fn make(ticket: &Ticket, config: Rc<pool::Config>, begin: &Begin) -> Self {
        let placement = &ticket.placement;
        let shared = placement.terms.pooling == Pooling::Shared;
        let mode = if ticket.replication().is_some() {
            PoolMode::Session
        } else {
            placement.terms.pool_mode.unwrap_or(config.mode)
        };
        let session_mode = mode == PoolMode::Session;
        let own = own_settings(ticket);
        let (startup, context) = if shared {
            (neutral_settings(placement), own_context(ticket, merged(own, ticket.settings())))
        } else {
            per_tenant_settings(ticket, own, session_mode)
        };
        let rules = Rules {
            session_mode,
            refuses_pins: config.pinning == Pinning::Refuse,
            asserted: context.settings.iter().map(|(name, _)| name.to_ascii_lowercase()).collect(),
            shared: shared.then(|| shared_rules(placement, &context)),
        };
        let key = PoolKey {
            tenant: (!shared).then_some(ticket.tenant.id),
            module: placement.terms.module.clone(),
            address: ServerAddress::new(&placement.server),
            database: placement.database.as_str().to_owned(),
            user: ticket.server_user.clone(),
        };
        let (pool_id, class) = (digest(&key), digest(&startup));
        let want = Want {
            class,
            affinity: affinity(&context),
            startup,
            require_schema: if shared { None } else { placement.schema.as_deref().map(str::to_owned) },
            lane: shared.then(|| begin.pools.lane(&key, ticket.tenant.id, &ticket.tenant.limits)),
        };
        Self {
            statement_scope: digest(&(pool_id, ticket.tenant.id, class, reading(&context.settings))),
            key: Rc::new(key),
            claims: Claims::of(&ticket.tenant, placement),
            want: Rc::new(want),
            assertion: Rc::new(Assertion::new(context, shared)),
            pool_id,
            prepared_max: config.max_prepared_statements,
            keeps_unnamed: config.keeps_unnamed(placement.terms.module.as_str()),
            session_mode,
            shared,
            rules: Rc::new(rules),
            credential: RefCell::new(ticket.credential.clone()),
            made_from: Ingredients {
                tenant: Arc::clone(&ticket.tenant),
                placement: Arc::clone(placement),
                config,
                settings: ticket.settings().to_vec(),
                replication: ticket.replication().map(str::to_owned),
            },
        }
    }

    /// The place that its sessions were let in to.
    pub(super) const fn placement(&self) -> &Arc<Placement> {
        &self.made_from.placement
    }
}

/// Those settings on which depends what a text means: the same text may be about other tables, dates and letters elsewhere.
pub(super) fn reading(settings: &[(String, String)]) -> Vec<(String, &str)> {
    let named = settings.iter().filter(|(name, _)| is_read_by(name));
    let mut reading: Vec<_> = named.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str())).collect();
    reading.sort_unstable();
    reading
}

/// Connections with this context are preferred.
pub(super) fn affinity(context: &Context) -> u64 {
    digest(&(context.tenant, &context.settings, &context.role))
}

/// What a client may not set on a connection that serves other tenants.
fn shared_rules(placement: &Placement, context: &Context) -> SharedRules {
    let common = ["public", "$user", "pg_catalog", "pg_temp", "information_schema", ""].map(str::to_owned);
    let own = placement.schema.iter().map(ToString::to_string).chain(placement.terms.search_path_extra.iter().cloned());
    let whose = ["role", "session_authorization"].map(str::to_owned);
    let whose = whose.into_iter().filter(|_| context.role.is_some());
    let tenant = placement.terms.tenant_parameter.iter().map(|name| name.to_ascii_lowercase());
    SharedRules { schemas: common.into_iter().chain(own).collect(), parameters: whose.chain(tenant).collect() }
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
    settings.extend(placement.terms.tenant_parameter.iter().map(|name| (name.clone(), id.clone())));
    settings.push((TENANT_PARAMETER.to_owned(), id));
    settings
}

/// The tenant's schema, the configured extras, and temporary objects last so that they never hide the tenant's.
fn search_path(placement: &Placement) -> Option<String> {
    let shared = placement.terms.pooling == Pooling::Shared;
    let own = match &placement.schema {
        Some(schema) => quote_ident(schema),
        None if shared || !placement.terms.search_path_extra.is_empty() => quote_ident("public"),
        None => return None,
    };
    let extras = placement.terms.search_path_extra.iter().map(|schema| quote_ident(schema));
    Some([own].into_iter().chain(extras).chain(["pg_temp".to_owned()]).collect::<Vec<_>>().join(", "))
}

/// Where a shared connection starts and returns to: nobody's.
fn neutral_settings(placement: &Placement) -> Vec<(String, String)> {
    let mut settings = vec![
        ("search_path".to_owned(), NEUTRAL_PATH.to_owned()),
        // Texts stay readable whatever the service login's own defaults are, which any of its tenants might have set.
        ("standard_conforming_strings".to_owned(), "on".to_owned()),
    ];
    settings.extend(placement.terms.tenant_parameter.iter().map(|name| (name.clone(), String::new())));
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
    let mut startup = merged(own, ticket.settings());
    startup.extend(ticket.replication().map(|mode| ("replication".to_owned(), mode.to_owned())));
    let mut carried = Vec::new();
    if !session_mode {
        let name = startup.iter().position(|(name, _)| name == "application_name");
        let name = name.map_or_else(|| ("application_name".to_owned(), String::new()), |at| startup.remove(at));
        carried.push(name);
    }
    (startup, Context { tenant: Some(ticket.tenant.id), settings: carried, role: None })
}

fn own_context(ticket: &Ticket, settings: Vec<(String, String)>) -> Context {
    let role = ticket.placement.role.as_deref().filter(|_| ticket.placement.terms.set_role).map(str::to_owned);
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
