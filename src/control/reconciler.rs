//! The control plane that runs by itself: looks again and again for what the registry asks for and is not there, and makes it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::error::Error;
use super::finish::Reconciled;
use super::tenants::{Control, chain};
use crate::registry::Admin;
use crate::tenant::TenantId;

/// Tenants that are worked on at one time; one whose server does not answer takes up one of these places and no more.
const TENANTS_AT_ONCE: usize = 4;
/// Longest wait before a tenant that could not be made whole is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// What `pgtenant tenant reconcile` does, for ever. Several at once, here or elsewhere, share the work.
pub struct Reconciler {
    control: Control,
    interval: Duration,
    waiting: VecDeque<TenantId>,
    running: JoinSet<(TenantId, Result<Reconciled, Error>)>,
    tried: HashMap<TenantId, Trial>,
    /// The registry could not be asked the last time, which has been said.
    told: bool,
}

/// A tenant that was tried and is not known to be whole.
struct Trial {
    running: bool,
    /// How long it is left alone after this trial.
    pause: Duration,
    again_at: Instant,
}

impl Reconciler {
    /// Looks into the registry with this URL at every `interval`; waits for one that is down.
    ///
    /// # Errors
    /// A URL that cannot be right.
    pub fn new(url: &str, interval: Duration) -> Result<Self, Error> {
        let control = Control::new(Admin::open(url)?);
        let (waiting, running, tried) = (VecDeque::new(), JoinSet::new(), HashMap::new());
        Ok(Self { control, interval, waiting, running, tried, told: false })
    }

    /// Works until it is dropped, which may be at any time: whoever comes next finishes what was begun.
    pub async fn run(mut self) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look().await,
                Some(ended) = self.running.join_next() => self.ended(ended),
            }
            self.begin();
        }
    }

    /// Asks which tenants are not whole.
    async fn look(&mut self) {
        let unready = match self.control.registry().unready_tenants().await {
            Ok(unready) => unready,
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    let error = chain(&Error::from(error));
                    tracing::warn!(error, "what there is to provision cannot be read from the registry; asking again");
                }
                return;
            }
        };
        self.told = false;
        let ids: Vec<_> = unready.iter().map(|tenant| tenant.tenant.id).collect();
        let now = Instant::now();
        self.tried.retain(|id, trial| trial.running || ids.contains(id));
        let due = |id: &TenantId| self.tried.get(id).is_none_or(|trial| !trial.running && trial.again_at <= now);
        self.waiting = ids.iter().copied().filter(due).collect();
    }

    /// Begins with as many of the waiting as may be worked on.
    fn begin(&mut self) {
        while self.running.len() < TENANTS_AT_ONCE
            && let Some(id) = self.waiting.pop_front()
        {
            let trial =
                self.tried.entry(id).or_insert(Trial { running: true, pause: self.interval, again_at: Instant::now() });
            trial.running = true;
            let control = self.control.clone();
            self.running.spawn(async move { (id, control.reconcile_these(vec![id], false).await) });
        }
    }

    /// Notes what became of a tenant. Each time that it is not whole afterwards it is left alone for twice as long as before.
    fn ended(&mut self, ended: Result<(TenantId, Result<Reconciled, Error>), JoinError>) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // Whose it was is not told; none of those that seem to run does so for ever.
                tracing::error!(%error, "the making of a tenant ended without an outcome");
                self.tried.retain(|_, trial| !trial.running);
                return;
            }
        };
        if let Some(trial) = self.tried.get_mut(&id) {
            trial.running = false;
            trial.again_at = Instant::now() + trial.pause;
            trial.pause = (2 * trial.pause).min(PAUSE_MAX.max(self.interval));
        }
        match outcome {
            Ok(done) => tell(id, &done),
            Err(error) => tracing::warn!(tenant_id = %id, error = chain(&error), "tenant not provisioned"),
        }
    }
}

fn tell(id: TenantId, done: &Reconciled) {
    for (_, error) in &done.failures {
        tracing::warn!(tenant_id = %id, error = chain(error), "tenant not provisioned");
    }
    for tenant in done.tenants.iter().filter(|_| done.failures.is_empty()) {
        let status = tenant.tenant.status;
        tracing::info!(tenant = %tenant.tenant.slug, %status, places = tenant.placements.len(), "tenant provisioned");
    }
}
