//! When each tenant was last used and how often it was logged in to: gathered here, told to the registry about once a minute. A query
//! writes nothing; what is open is looked at when the time has come.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rapidhash::RapidHashMap;
use tokio::time::{MissedTickBehavior, interval};

use super::Shared;
use crate::registry::{RegistryError, Use};
use crate::session::Doing;
use crate::tenant::TenantId;

/// The clock of a relay thread moves a few times a second and is never further behind than this.
const CLOCK_LAG: Duration = Duration::from_secs(1);

/// What was seen since the registry was last told.
#[derive(Default)]
pub(super) struct Activity {
    seen: Mutex<RapidHashMap<TenantId, Seen>>,
}

#[derive(Clone, Copy)]
struct Seen {
    last: Instant,
    logins: u64,
}

impl Activity {
    /// A client of this tenant has logged in.
    pub(super) fn login(&self, tenant: TenantId) {
        self.note(tenant, Seen { last: Instant::now(), logins: 1 });
    }

    fn note(&self, tenant: TenantId, new: Seen) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.entry(tenant).or_insert(Seen { logins: 0, ..new });
        known.last = known.last.max(new.last);
        known.logins += new.logins;
    }

    fn take(&self) -> RapidHashMap<TenantId, Seen> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells the registry as often as it wants to be told, until it is aborted.
pub(super) async fn keep(shared: Arc<Shared>) {
    let every = shared.registry.activity_interval();
    if every.is_zero() {
        return;
    }
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once, when there is nothing to tell.
    ticks.tick().await;
    let mut told_until = Instant::now();
    let mut failing = false;
    loop {
        ticks.tick().await;
        let now = Instant::now();
        look_at_sessions(&shared, told_until, now).await;
        told_until = now;
        match tell(&shared).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "when tenants were last used cannot be written to the registry; it is kept for later");
            }
            Err(error) => tracing::debug!(%error, "still not told when tenants were last used"),
        }
    }
}

/// Notes the sessions that have done something since.
async fn look_at_sessions(shared: &Shared, since: Instant, now: Instant) {
    for client in shared.snapshot().await.clients {
        let last = match client.doing {
            Doing::Active | Doing::IdleInTransaction | Doing::Waiting => now,
            Doing::Idle | Doing::Pinned | Doing::Login => client.since,
        };
        if last + CLOCK_LAG >= since {
            shared.activity.note(client.tenant.id, Seen { last, logins: 0 });
        }
    }
}

/// Tells what was gathered; what could not be told is kept.
pub(super) async fn tell(shared: &Shared) -> Result<(), RegistryError> {
    let seen = shared.activity.take();
    if seen.is_empty() {
        return Ok(());
    }
    let now = Instant::now();
    let told = |(tenant, seen): (&TenantId, &Seen)| Use {
        tenant: *tenant,
        ago: now.saturating_duration_since(seen.last),
        logins: seen.logins,
    };
    let uses: Vec<Use> = seen.iter().map(told).collect();
    let done = shared.registry.record_activity(&uses).await;
    if done.is_err() {
        seen.into_iter().for_each(|(tenant, seen)| shared.activity.note(tenant, seen));
    }
    done
}
