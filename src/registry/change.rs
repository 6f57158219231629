//! Word of a change, for whoever holds something that was read before it.

use tokio::sync::broadcast;

use crate::tenant::TenantId;

/// What has changed. By the time it is heard the registry gives the new state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// This tenant, or something of it, or it is gone.
    Tenant(TenantId),
    /// Possibly every tenant: a server or module changed, or changes may have gone unheard. A receiver that lags behind
    /// has to take it as this, too.
    Everything,
}

/// Most changes told one by one; more at once are [`Change::Everything`].
pub(super) const SINGLE_CHANGES_MAX: usize = 256;
/// Changes that a receiver may lag behind.
const QUEUE_LENGTH: usize = 4 * SINGLE_CHANGES_MAX;

pub(super) fn channel() -> broadcast::Sender<Change> {
    broadcast::Sender::new(QUEUE_LENGTH)
}

/// Tells of these tenants. That nobody listens is no error.
pub(super) fn tell(sender: &broadcast::Sender<Change>, ids: &[TenantId]) {
    if ids.len() > SINGLE_CHANGES_MAX {
        let _ = sender.send(Change::Everything);
        return;
    }
    for id in ids {
        let _ = sender.send(Change::Tenant(*id));
    }
}
