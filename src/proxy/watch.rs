//! Follows changes of the registry into running sessions and pools.

use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;

use super::Shared;
use super::worker::Command;
use crate::registry::Change;
use crate::tenant::TenantId;

/// Passes every change on to all threads, until the registry is closed.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut changes = shared.registry.changes();
    loop {
        match changes.recv().await {
            Ok(Change::Tenant(id)) => tenant_changed(&shared, id).await,
            // What was missed could have been anything.
            Ok(Change::Everything) | Err(RecvError::Lagged(_)) => everything_changed(&shared).await,
            Err(RecvError::Closed) => return,
        }
    }
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

async fn everything_changed(shared: &Shared) {
    for worker in &shared.workers {
        let (reply, tenants) = oneshot::channel();
        worker.tell(Command::Tenants(reply));
        // A thread that ends has no tenants any more.
        for id in tenants.await.unwrap_or_default() {
            tenant_changed(shared, id).await;
        }
    }
}
