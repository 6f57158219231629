//! Follows changes of the registry into running sessions and pools.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::oneshot;

use super::Shared;
use super::worker::Command;
use crate::registry::Change;
use crate::tenant::TenantId;

/// Most changes that are taken together.
const BATCH_MAX: usize = 256;

/// What has changed since the last look.
enum News {
    Tenants(BTreeSet<TenantId>),
    /// Or what was missed could have been anything.
    Everything,
    Closed,
}

/// Passes every change on to the threads that it concerns, until the registry is closed.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut changes = shared.registry.changes();
    loop {
        let news = hear(&mut changes).await;
        // Only what has sessions or pools here is read again: whoever comes later is given what the registry says then.
        let held = held(&shared).await;
        let concerned = match news {
            News::Tenants(changed) => held.intersection(&changed).copied().collect(),
            News::Everything => held,
            News::Closed => return,
        };
        for id in concerned {
            tenant_changed(&shared, id).await;
        }
    }
}

/// Waits for a change, and takes what has come with it.
async fn hear(changes: &mut Receiver<Change>) -> News {
    let mut tenants = BTreeSet::new();
    match changes.recv().await {
        Ok(Change::Tenant(id)) => drop(tenants.insert(id)),
        Ok(Change::Everything) | Err(RecvError::Lagged(_)) => return News::Everything,
        Err(RecvError::Closed) => return News::Closed,
    }
    while tenants.len() < BATCH_MAX {
        match changes.try_recv() {
            Ok(Change::Tenant(id)) => drop(tenants.insert(id)),
            Ok(Change::Everything) | Err(TryRecvError::Lagged(_)) => return News::Everything,
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    News::Tenants(tenants)
}

/// The tenants that have sessions or pools here.
async fn held(shared: &Shared) -> BTreeSet<TenantId> {
    let mut held = BTreeSet::new();
    for worker in &shared.workers {
        let (reply, tenants) = oneshot::channel();
        worker.tell(Command::Tenants(reply));
        // A thread that ends has no tenants any more.
        held.extend(tenants.await.unwrap_or_default());
    }
    held
}

async fn tenant_changed(shared: &Shared, id: TenantId) {
    match shared.registry.current(id).await {
        Ok(tenant) => {
            for worker in &shared.workers {
                worker.tell(Command::TenantChanged(id, tenant.clone()));
            }
        }
        // The registry tells everything again when it is back.
        Err(error) => tracing::warn!(%error, tenant = %id, "changed tenant cannot be read"),
    }
}
