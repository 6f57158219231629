//! What is remembered of the registry: known tenants under all their names, unknown names, and how far to trust either.

use std::sync::Arc;
use std::time::Duration;

use hashlink::LinkedHashMap;
use rapidhash::RapidHashMap;
use rapidhash::fast::RandomState;
use tokio::time::Instant;

use super::common::Common;
use super::standing::Standing;
use crate::tenant::{Alias, Server, Tenant, TenantId, TenantName, TenantStatus, Terms};

/// The bounds of a [`Cache`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most names, known and unknown together.
    pub(super) size: usize,
    /// How long a known tenant is used without asking again.
    pub(super) ttl: Duration,
    /// How long an unknown name stays unknown without asking again.
    pub(super) negative_ttl: Duration,
    /// How long a known tenant may be used when nobody can be asked.
    pub(super) stale_max: Duration,
    /// How long after a poll of the change table what is remembered still counts as unchanged.
    pub(super) watch_window: Duration,
}

/// What is remembered of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Good without asking: a tenant, or that there is none.
    Fresh(Option<Arc<Tenant>>),
    /// Good only if the registry cannot be asked.
    Stale(Arc<Tenant>),
    /// Nothing.
    Nothing,
}

/// Known tenants and unknown names. Pure: no clock, no I/O.
#[derive(Debug)]
pub(super) struct Cache {
    limits: Limits,
    /// The one unused for longest first.
    known: LinkedHashMap<TenantId, Known, RandomState>,
    /// Slugs and aliases.
    names: RapidHashMap<TenantName, TenantId>,
    /// The time until which they are so, the oldest first. What anybody may ask for, hashed as such.
    unknown: LinkedHashMap<TenantName, Instant, std::hash::RandomState>,
    /// Those of the known tenants, which have them in common.
    servers: Common<Server>,
    terms: Common<Terms>,
    /// Rises with every change heard of: an answer asked for before a change must not be kept after it.
    epoch: u64,
    polled_at: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    tenant: Arc<Tenant>,
    /// Whether changes since it was read would have been heard of.
    verified: bool,
    fresh_until: Instant,
    good_until: Instant,
}

impl Known {
    /// Until when it may serve while nobody can be asked: a poll that told no change of it proves it anew.
    fn good_until(&self, polled_at: Option<Instant>, stale_max: Duration) -> Instant {
        match polled_at {
            Some(at) if self.verified => self.good_until.max(at + stale_max),
            _ => self.good_until,
        }
    }
}

impl Cache {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            known: LinkedHashMap::default(),
            names: RapidHashMap::default(),
            unknown: LinkedHashMap::default(),
            servers: Common::default(),
            terms: Common::default(),
            epoch: 0,
            polled_at: None,
        }
    }

    /// What is remembered of a name.
    pub(super) fn find(&mut self, name: &TenantName, now: Instant) -> Found {
        let watched = self.polled_at.is_some_and(|at| now < at + self.limits.watch_window);
        if let Some(until) = self.unknown.get(name) {
            return if watched && now < *until { Found::Fresh(None) } else { Found::Nothing };
        }
        let Some(known) = self.bearer(name).and_then(|id| self.known.to_back(&id)) else { return Found::Nothing };
        let known = &*known;
        let tenant = Arc::clone(&known.tenant);
        let good_until = known.good_until(self.polled_at, self.limits.stale_max);
        if watched && known.verified && now < known.fresh_until && is_settled(&tenant) {
            Found::Fresh(Some(tenant))
        } else if now < good_until {
            Found::Stale(tenant)
        } else {
            Found::Nothing
        }
    }

    /// How far what is remembered can be relied on.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let reachable = self.polled_at.is_some_and(|at| now < at + self.limits.watch_window);
        let age = self.polled_at.map(|at| now.saturating_duration_since(at));
        Standing { reachable, age, servable: self.servable(now).count() }
    }

    /// The tenant with this id, however old what is known of it is.
    pub(super) fn remembered(&self, id: TenantId) -> Option<Arc<Tenant>> {
        self.known.get(&id).map(|known| Arc::clone(&known.tenant))
    }

    /// The tenants that may be served though nobody can be asked.
    pub(super) fn servable(&self, now: Instant) -> impl Iterator<Item = Arc<Tenant>> {
        let good = move |known: &&Known| now < known.good_until(self.polled_at, self.limits.stale_max);
        self.known.values().filter(good).map(|known| Arc::clone(&known.tenant))
    }

    /// A number that says whether changes were heard of between two calls.
    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Remembers an answer of the registry that was asked for in `epoch`, and gives the one to use: a newer one may be
    /// remembered already. `None` when changes were heard of meanwhile: the question must be asked again.
    pub(super) fn learn(
        &mut self,
        name: &TenantName,
        answer: Option<Tenant>,
        epoch: u64,
        now: Instant,
    ) -> Option<Option<Arc<Tenant>>> {
        if epoch != self.epoch {
            return None;
        }
        let Some(tenant) = answer else {
            // Whoever had the name does not have it any more.
            if let Some(id) = self.bearer(name) {
                self.remove(id);
            }
            self.add_unknown(name.clone(), now);
            return Some(None);
        };
        let newer = |known: &&Known| known.verified && known.tenant.generation > tenant.generation;
        if let Some(known) = self.known.get(&tenant.id).filter(newer) {
            return Some(Some(Arc::clone(&known.tenant)));
        }
        let tenant = self.sharing(tenant);
        self.insert(Arc::clone(&tenant), true, now + self.limits.ttl, now + self.limits.stale_max);
        Some(Some(tenant))
    }

    /// Takes in a tenant read elsewhere and earlier: never fresh, good for stale service until then.
    pub(super) fn restore(&mut self, tenant: Tenant, good_until: Instant) {
        let tenant = self.sharing(tenant);
        self.insert(tenant, false, good_until, good_until);
    }

    /// These tenants have changed: they are forgotten, and with them all unknown names, one of which may be theirs now.
    /// Gives those of them that were known.
    pub(super) fn forget(&mut self, ids: &[TenantId]) -> Vec<TenantId> {
        self.epoch += 1;
        self.unknown.clear();
        ids.iter().copied().filter(|id| self.remove(*id)).collect()
    }

    /// Anything may have changed: nothing is fresh any more, known tenants still serve while nobody can be asked.
    pub(super) fn doubt_everything(&mut self) {
        self.epoch += 1;
        self.unknown.clear();
        for known in self.known.values_mut() {
            known.good_until = known.good_until(self.polled_at, self.limits.stale_max);
            known.verified = false;
        }
    }

    /// The change table was read, and what it told was taken in.
    pub(super) fn polled(&mut self, at: Instant) {
        self.polled_at = Some(at);
    }

    /// All known tenants, each with the time until which it may serve while nobody can be asked. `None` before the first
    /// poll.
    pub(super) fn tenants(&self) -> Option<Vec<(Arc<Tenant>, Instant)>> {
        self.polled_at?;
        let good_until = |known: &Known| known.good_until(self.polled_at, self.limits.stale_max);
        Some(self.known.values().map(|known| (Arc::clone(&known.tenant), good_until(known))).collect())
    }

    /// The tenant with what others have of servers and modules, too, where it is the same.
    fn sharing(&mut self, mut tenant: Tenant) -> Arc<Tenant> {
        for placement in tenant.placements.iter_mut().filter_map(Arc::get_mut) {
            self.servers.share(&mut placement.server);
            self.terms.share(&mut placement.terms);
        }
        Arc::new(tenant)
    }

    /// The tenant of this name: of an id that very one, known or not.
    fn bearer(&self, name: &TenantName) -> Option<TenantId> {
        name.id().or_else(|| self.names.get(name).copied())
    }

    fn insert(&mut self, tenant: Arc<Tenant>, verified: bool, fresh_until: Instant, good_until: Instant) {
        self.remove(tenant.id);
        let room = self.known_max();
        self.unknown.remove(&TenantName::from(tenant.id));
        let names: Vec<_> = named(&tenant).take(room - 1).collect();
        for name in &names {
            self.unknown.remove(name);
            // A name that was another's: what is remembered of that one is out of date.
            if let Some(other) = self.names.get(name).copied() {
                self.remove(other);
            }
        }
        while self.known.len() + self.names.len() + names.len() >= room {
            let Some((id, _)) = self.known.front() else { break };
            let oldest = *id;
            self.remove(oldest);
        }
        self.names.extend(names.into_iter().map(|name| (name, tenant.id)));
        self.known.insert(tenant.id, Known { tenant, verified, fresh_until, good_until });
    }

    fn remove(&mut self, id: TenantId) -> bool {
        let Some(known) = self.known.remove(&id) else { return false };
        for name in named(&known.tenant) {
            // One for which there was no room may be another's by now.
            if self.names.get(&name) == Some(&id) {
                self.names.remove(&name);
            }
        }
        true
    }

    /// An eighth of the room is for unknown names, so that guessing at names never pushes out known ones.
    fn unknown_max(&self) -> usize {
        (self.limits.size / 8).max(1)
    }

    fn known_max(&self) -> usize {
        (self.limits.size - self.unknown_max().min(self.limits.size)).max(1)
    }

    fn add_unknown(&mut self, name: TenantName, now: Instant) {
        // Where it was there, it goes to the end.
        self.unknown.insert(name, now + self.limits.negative_ttl);
        while self.unknown.len() > self.unknown_max() {
            self.unknown.pop_front();
        }
    }
}

/// Whether nobody waits for it to change. Who has just made or activated a tenant connects at once, sooner than word of
/// that may come; so what would be refused is read again.
fn is_settled(tenant: &Tenant) -> bool {
    tenant.status == TenantStatus::Active && tenant.placements.iter().all(|placement| placement.ready)
}

/// All names of a tenant, normalised: the ones it is likeliest to be asked for by first.
pub(super) fn names_of(tenant: &Tenant) -> Vec<TenantName> {
    [TenantName::from(tenant.id)].into_iter().chain(named(tenant)).collect()
}

/// Its names beside the id.
fn named(tenant: &Tenant) -> impl Iterator<Item = TenantName> {
    // Whatever is a slug or an alias is a name, too.
    let aliases = tenant.aliases.iter().map(Alias::as_str);
    [tenant.slug.as_str()].into_iter().chain(aliases).filter_map(|name| TenantName::parse(name).ok())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::tenant::{Isolation, Placement, Pooling, Slug};

    const SECOND: Duration = Duration::from_secs(1);

    fn cache(size: usize) -> Cache {
        let limits =
            Limits { size, ttl: 60 * SECOND, negative_ttl: 5 * SECOND, stale_max: 3600 * SECOND, watch_window: SECOND };
        Cache::new(limits)
    }

    fn tenant(number: u128, slug: &str, generation: i64) -> Tenant {
        Tenant {
            id: TenantId(Uuid::from_u128(number)),
            slug: Slug::parse(slug).unwrap(),
            name: String::new(),
            status: TenantStatus::Active,
            sessions_end: None,
            aliases: vec![Alias::parse(&format!("krn:{slug}")).unwrap()],
            allow: Vec::new(),
            default_module: None,
            placements: Vec::new(),
            limits: Arc::default(),
            logins: Vec::new(),
            generation,
        }
    }

    fn name(text: &str) -> TenantName {
        TenantName::parse(text).unwrap()
    }

    fn fresh(cache: &mut Cache, text: &str, now: Instant) -> Option<String> {
        match cache.find(&name(text), now) {
            Found::Fresh(found) => Some(found.map_or_else(String::new, |t| t.slug.to_string())),
            Found::Stale(_) | Found::Nothing => None,
        }
    }

    #[test]
    fn a_tenant_once_read_is_found_by_all_its_names_until_its_time_is_up() {
        let (mut cache, now) = (cache(100), Instant::now());
        cache.polled(now);
        cache.learn(&name("acme"), Some(tenant(1, "acme", 1)), 0, now).unwrap();
        for any in ["acme", "krn:acme", "00000000-0000-0000-0000-000000000001"] {
            assert_eq!(fresh(&mut cache, any, now).as_deref(), Some("acme"), "{any}");
        }
        cache.polled(now + 61 * SECOND);
        assert!(matches!(cache.find(&name("acme"), now + 61 * SECOND), Found::Stale(_)));
    }

    #[test]
    fn nothing_is_fresh_while_changes_are_not_heard_of() {
        let (mut cache, now) = (cache(100), Instant::now());
        cache.learn(&name("acme"), Some(tenant(1, "acme", 1)), 0, now).unwrap();
        cache.learn(&name("nobody"), None, 0, now).unwrap();
        assert!(matches!(cache.find(&name("acme"), now), Found::Stale(_)));
        cache.polled(now);
        assert_eq!(fresh(&mut cache, "acme", now).as_deref(), Some("acme"));
        assert_eq!(fresh(&mut cache, "nobody", now).as_deref(), Some(""));
        assert!(matches!(cache.find(&name("acme"), now + 2 * SECOND), Found::Stale(_)));
        assert_eq!(cache.find(&name("nobody"), now + 2 * SECOND), Found::Nothing);
    }

    fn placement(server: &str) -> Placement {
        let terms = Terms {
            module: "app".parse().unwrap(),
            module_aliases: Vec::new(),
            isolation: Isolation::Database,
            pooling: Pooling::PerTenant,
            pool_mode: None,
            pool_size: None,
            search_path_extra: Vec::new(),
            tenant_parameter: None,
            set_role: false,
        };
        Placement {
            terms: Arc::new(terms),
            server: Arc::new(serde_json::from_str(server).unwrap()),
            database: "app".parse().unwrap(),
            schema: None,
            role: None,
            ready: true,
        }
    }

    #[test]
    fn tenants_of_one_server_have_it_in_common_until_it_changes() {
        let (mut cache, now) = (cache(100), Instant::now());
        let mut learn = |number, slug: &str, port| {
            let server = format!(r#"{{"name": "main", "host": "localhost", "port": {port}, "sslmode": "disable"}}"#);
            let tenant = Tenant { placements: vec![Arc::new(placement(&server))], ..tenant(number, slug, 1) };
            let learnt = cache.learn(&name(slug), Some(tenant), 0, now).unwrap().unwrap();
            Arc::clone(&learnt.placements[0].server)
        };
        let (one, two, changed) = (learn(1, "acme", 5432), learn(2, "globex", 5432), learn(3, "initech", 5433));
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!((one.port, changed.port), (5432, 5433));
        assert!(Arc::ptr_eq(&changed, &learn(4, "umbrella", 5433)));
    }

    #[test]
    fn what_would_be_refused_is_read_again() {
        let (mut cache, now) = (cache(100), Instant::now());
        cache.polled(now);
        for status in [TenantStatus::Provisioning, TenantStatus::Suspended, TenantStatus::Moving] {
            cache.learn(&name("acme"), Some(Tenant { status, ..tenant(1, "acme", 1) }), 0, now).unwrap();
            assert!(matches!(cache.find(&name("acme"), now), Found::Stale(_)), "{status}");
        }
        cache.learn(&name("acme"), Some(tenant(1, "acme", 2)), 0, now).unwrap();
        assert_eq!(fresh(&mut cache, "acme", now).as_deref(), Some("acme"));
    }

    #[test]
    fn an_answer_that_a_change_overtook_is_not_kept() {
        let (mut cache, now) = (cache(100), Instant::now());
        let epoch = cache.epoch();
        cache.forget(&[TenantId(Uuid::from_u128(1))]);
        assert_eq!(cache.learn(&name("acme"), Some(tenant(1, "acme", 1)), epoch, now), None);
        assert_eq!(cache.find(&name("acme"), now), Found::Nothing);
    }

    #[test]
    fn an_older_answer_never_replaces_a_newer_one() {
        let (mut cache, now) = (cache(100), Instant::now());
        cache.learn(&name("acme"), Some(tenant(1, "acme", 5)), 0, now).unwrap();
        let used = cache.learn(&name("krn:acme"), Some(tenant(1, "acme", 4)), 0, now).unwrap().unwrap();
        assert_eq!(used.generation, 5);
    }

    #[test]
    fn any_change_drops_unknown_names_and_the_changed_tenant_only() {
        let (mut cache, now) = (cache(100), Instant::now());
        cache.polled(now);
        cache.learn(&name("acme"), Some(tenant(1, "acme", 1)), 0, now).unwrap();
        cache.learn(&name("beta"), Some(tenant(2, "beta", 2)), 0, now).unwrap();
        cache.learn(&name("nobody"), None, 0, now).unwrap();
        let changed = [TenantId(Uuid::from_u128(1)), TenantId(Uuid::from_u128(9))];
        assert_eq!(cache.forget(&changed), [changed[0]]);
        assert_eq!(cache.find(&name("acme"), now), Found::Nothing);
        assert_eq!(cache.find(&name("krn:acme"), now), Found::Nothing);
        assert_eq!(cache.find(&name("nobody"), now), Found::Nothing);
        assert_eq!(fresh(&mut cache, "beta", now).as_deref(), Some("beta"));
    }

    #[test]
    fn a_name_that_moved_takes_its_old_bearer_out() {
        let (mut cache, now) = (cache(100), Instant::now());
        cache.polled(now);
        cache.learn(&name("acme"), Some(tenant(1, "acme", 1)), 0, now).unwrap();
        cache.learn(&name("acme"), Some(tenant(2, "acme", 2)), 0, now).unwrap();
        assert_eq!(cache.find(&name("00000000-0000-0000-0000-000000000001"), now), Found::Nothing);
        cache.learn(&name("krn:acme"), None, 0, now).unwrap();
        assert_eq!(cache.find(&name("acme"), now), Found::Nothing);
    }

    #[test]
    fn a_surplus_name_that_is_anothers_stays_the_others() {
        // Room for three: an id and two names.
        let (mut cache, now) = (cache(4), Instant::now());
        cache.polled(now);
        let aliases = ["second", "beta"].map(|alias| Alias::parse(alias).unwrap()).into();
        let crowded = Tenant { aliases, ..tenant(1, "acme", 1) };
        let beta = Tenant { aliases: Vec::new(), ..tenant(2, "beta", 2) };
        cache.learn(&name("acme"), Some(crowded), 0, now).unwrap();
        assert_eq!(fresh(&mut cache, "second", now).as_deref(), Some("acme"));
        assert_eq!(cache.find(&name("beta"), now), Found::Nothing);
        cache.learn(&name("beta"), Some(beta), 0, now).unwrap();
        assert_eq!(fresh(&mut cache, "beta", now).as_deref(), Some("beta"));
        assert_eq!(cache.find(&name("second"), now), Found::Nothing);
        assert_eq!((cache.known.len(), cache.names.len()), (1, 1));
    }

    #[test]
    fn the_smallest_cache_knows_one_tenant_by_its_id() {
        let (mut cache, now) = (cache(1), Instant::now());
        cache.polled(now);
        for number in 1..=3 {
            let slug = format!("t{number}");
            cache.learn(&name(&slug), Some(tenant(number, &slug, 1)), 0, now).unwrap();
            assert_eq!(fresh(&mut cache, &Uuid::from_u128(number).to_string(), now), Some(slug));
            assert_eq!((cache.known.len(), cache.names.len()), (1, 0));
        }
    }

    #[test]
    fn an_id_that_is_unknown_is_nobodys_until_it_is_learned() {
        let (mut cache, now) = (cache(100), Instant::now());
        let id = Uuid::from_u128(1).to_string();
        cache.polled(now);
        assert_eq!(cache.find(&name(&id), now), Found::Nothing);
        cache.learn(&name(&id), None, 0, now).unwrap();
        assert_eq!(cache.find(&name(&id), now), Found::Fresh(None));
        cache.learn(&name("acme"), Some(tenant(1, "acme", 1)), 0, now).unwrap();
        assert_eq!(fresh(&mut cache, &id, now).as_deref(), Some("acme"));
    }

    #[test]
    fn stale_service_ends_and_counts_from_the_last_poll() {
        let (mut cache, now) = (cache(100), Instant::now());
        cache.learn(&name("acme"), Some(tenant(1, "acme", 1)), 0, now).unwrap();
        cache.polled(now + 1000 * SECOND);
        assert!(matches!(cache.find(&name("acme"), now + 4500 * SECOND), Found::Stale(_)));
        assert_eq!(cache.find(&name("acme"), now + 4601 * SECOND), Found::Nothing);
        // Doubt keeps the time that was proven, and later polls prove nothing of what is doubted.
        cache.doubt_everything();
        cache.polled(now + 2000 * SECOND);
        assert!(matches!(cache.find(&name("acme"), now + 4500 * SECOND), Found::Stale(_)));
        assert_eq!(cache.find(&name("acme"), now + 4601 * SECOND), Found::Nothing);
    }

    #[test]
    fn what_a_snapshot_gives_serves_stale_only_and_not_longer_for_polls() {
        let (mut cache, now) = (cache(100), Instant::now());
        cache.restore(tenant(1, "acme", 1), now + 10 * SECOND);
        cache.polled(now);
        assert!(matches!(cache.find(&name("krn:acme"), now), Found::Stale(_)));
        assert_eq!(cache.find(&name("krn:acme"), now + 10 * SECOND), Found::Nothing);
    }

    #[test]
    fn guessing_at_names_pushes_out_no_tenant_and_stays_bounded() {
        let (mut cache, now) = (cache(16), Instant::now());
        cache.polled(now);
        cache.learn(&name("acme"), Some(tenant(1, "acme", 1)), 0, now).unwrap();
        for guess in 0..100 {
            cache.learn(&name(&format!("guess{guess}")), None, 0, now).unwrap();
        }
        assert_eq!(fresh(&mut cache, "acme", now).as_deref(), Some("acme"));
        assert_eq!(cache.unknown.len(), 2);
    }

    #[test]
    fn the_tenant_unused_for_longest_makes_room() {
        let (mut cache, now) = (cache(16), Instant::now());
        cache.polled(now);
        for number in 1..=4 {
            cache.learn(&name(&format!("t{number}")), Some(tenant(number, &format!("t{number}"), 1)), 0, now).unwrap();
        }
        assert!(fresh(&mut cache, "t1", now).is_some());
        cache.learn(&name("t5"), Some(tenant(5, "t5", 1)), 0, now).unwrap();
        assert!(fresh(&mut cache, "t1", now).is_some());
        assert_eq!(cache.find(&name("t2"), now), Found::Nothing);
        assert!(cache.names.len() + cache.known.len() <= 14);
    }
}
