//! From what the registry asks for to what is there: places made or dropped, tenants activated when they are whole.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::error::Error;
use super::order::Inventory;
use super::provision::{Provisioned, provision};
use super::removal::{drop_place, drop_roles};
use super::steps::Steps;
use super::tenants::{Control, chain};
use crate::registry::{LogEntry, PlacementRow, PlacementStatus, PlacementVersion, TenantDetails};
use crate::tenant::{TenantId, TenantName, TenantStatus};

/// Tenants that are worked on at one time.
const TENANTS_AT_ONCE: usize = 4;

/// What going over tenants came to.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// The tenants that were gone over, as they are now, by their slugs.
    pub tenants: Vec<TenantDetails>,
    /// What failed, with the tenant's id.
    pub failures: Vec<(TenantId, Error)>,
}

impl Control {
    /// Makes what the registry asks for and is not there yet, and drops what it wants gone: of one tenant (going over what is
    /// there too), or of all, each whatever becomes of the others.
    ///
    /// # Errors
    /// [`Error::NoTenant`], and the registry's. What stops a tenant is in the result.
    pub async fn reconcile(&self, name: Option<&TenantName>) -> Result<Reconciled, Error> {
        match name {
            Some(name) => self.reconcile_these(vec![self.tenant(name).await?.tenant.id], true).await,
            None => {
                let unready = self.registry.unready_tenants().await?;
                self.reconcile_these(unready.iter().map(|tenant| tenant.tenant.id).collect(), false).await
            }
        }
    }

    /// The same of these tenants; with `all`, of their places that are there, too.
    ///
    /// # Errors
    /// The registry's.
    pub async fn reconcile_these(&self, ids: Vec<TenantId>, all: bool) -> Result<Reconciled, Error> {
        let inventory = Arc::new(self.inventory().await?);
        let mut waiting = ids.into_iter();
        let mut running = JoinSet::new();
        let mut done = Reconciled::default();
        loop {
            while running.len() < TENANTS_AT_ONCE
                && let Some(id) = waiting.next()
            {
                let (control, inventory) = (self.clone(), Arc::clone(&inventory));
                running.spawn(async move { (id, control.reconcile_one(&inventory, id, all).await) });
            }
            let Some(ended) = running.join_next().await else { break };
            let (id, outcome) = ended.map_err(Error::Task)?;
            match outcome {
                Ok((tenant, failure)) => {
                    done.failures.extend(failure.map(|error| (id, error)));
                    done.tenants.extend(tenant);
                }
                Err(error) => done.failures.push((id, error)),
            }
        }
        done.tenants.sort_by(|a, b| a.tenant.slug.cmp(&b.tenant.slug));
        Ok(done)
    }

    /// One tenant as it is afterwards, if it is still there, and what stopped it.
    async fn reconcile_one(
        &self,
        inventory: &Inventory,
        id: TenantId,
        all: bool,
    ) -> Result<(Option<TenantDetails>, Option<Error>), Error> {
        let name = TenantName::from(id);
        let (_alone, tenant) = match self.alone(&name).await {
            // Gone since it was listed.
            Err(Error::NoTenant { .. }) => return Ok((None, None)),
            alone => alone?,
        };
        let failure = self.finish(inventory, &tenant, all).await.err();
        Ok((self.registry.tenant(&name).await?, failure))
    }

    /// Makes the places of a tenant that are asked for and not there (with `all`, goes over those that are there too), drops those
    /// that are to go, each whatever becomes of the others, and activates the tenant when none is left. The caller holds the
    /// tenant's lock. Nothing is made for an archived tenant.
    ///
    /// # Errors
    /// [`Error::Place`] of the first place that could not be made or dropped.
    pub(super) async fn finish(&self, inventory: &Inventory, tenant: &TenantDetails, all: bool) -> Result<(), Error> {
        let archived = tenant.tenant.status == TenantStatus::Archived;
        let mut failed = None;
        for placement in tenant.placements.iter().filter(|placement| placement.managed) {
            let done = match placement.status {
                PlacementStatus::Dropping => self.drop_one(inventory, tenant.tenant.id, placement).await,
                PlacementStatus::Provisioning if !archived => self.make(inventory, tenant, placement).await,
                PlacementStatus::Ready if all && !archived => self.make(inventory, tenant, placement).await,
                PlacementStatus::Provisioning | PlacementStatus::Ready => Ok(()),
            };
            if let Err(error) = done {
                failed.get_or_insert(error);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => self.settle(tenant.tenant.id).await,
        }
    }

    async fn make(&self, inventory: &Inventory, tenant: &TenantDetails, placement: &PlacementRow) -> Result<(), Error> {
        let module = &placement.module;
        tracing::info!(tenant = %tenant.tenant.slug, %module, server = %placement.server, "provisioning");
        let mut steps = match placement.status {
            PlacementStatus::Provisioning => Steps::recorded(&self.registry, line(tenant, placement)),
            PlacementStatus::Ready | PlacementStatus::Dropping => Steps::unrecorded(),
        };
        let made = match inventory.place(tenant, placement) {
            Ok(place) => Box::pin(provision(&place, &mut steps)).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(Provisioned { version, .. }) => {
                let transaction = self.registry.begin().await?;
                transaction.set_placement_status(tenant.tenant.id, module, PlacementStatus::Ready).await?;
                if version.is_some() {
                    let (tenant_id, module) = (tenant.tenant.id, module.clone());
                    // The steps have logged it.
                    let known = PlacementVersion { tenant_id, module, version, applied: 0, error: None };
                    transaction.record_versions(&[known]).await?;
                }
                Ok(transaction.commit().await?)
            }
            Err(error) => self.failed(tenant, placement, steps.at(), "provision", error).await,
        }
    }

    /// Drops a place that is marked to go, with the roles that only it needed, and forgets it.
    pub(super) async fn drop_one(
        &self,
        inventory: &Inventory,
        id: TenantId,
        placement: &PlacementRow,
    ) -> Result<(), Error> {
        // As it is now: what was dropped before it is not beside it any more.
        let tenant = self.by_id(id).await?;
        let module = &placement.module;
        tracing::info!(tenant = %tenant.tenant.slug, %module, server = %placement.server, "dropping");
        if let Err(error) = drop_objects(inventory, &tenant, placement).await {
            return self.failed(&tenant, placement, None, "drop", error).await;
        }
        let transaction = self.registry.begin().await?;
        transaction.remove_placement(id, module).await?;
        if tenant.tenant.default_module.as_ref() == Some(module) {
            transaction.set_default_module(id, None).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Notes a failure in the log, and says whose it is.
    async fn failed(
        &self,
        tenant: &TenantDetails,
        placement: &PlacementRow,
        step: Option<&'static str>,
        doing: &'static str,
        error: Error,
    ) -> Result<(), Error> {
        let (step, detail) = (step.map(str::to_owned), Some(chain(&error)));
        let line = LogEntry { step, detail, status: "failed".to_owned(), ..line(tenant, placement) };
        self.registry.write_log(&line).await?;
        let (tenant, module) = (tenant.tenant.slug.to_string(), placement.module.to_string());
        Err(Error::Place { doing, tenant, module, source: Box::new(error) })
    }

    /// Activates a tenant that was being provisioned, if all its places are there by now.
    async fn settle(&self, id: TenantId) -> Result<(), Error> {
        let transaction = self.registry.begin().await?;
        if transaction.lock_tenant(id).await? != Some(TenantStatus::Provisioning) {
            return Ok(());
        }
        let tenant = self.by_id(id).await?;
        if tenant.placements.iter().all(|placement| placement.status == PlacementStatus::Ready) {
            transaction.set_status(id, TenantStatus::Active, Duration::ZERO).await?;
            transaction.commit().await?;
        }
        Ok(())
    }
}

async fn drop_objects(inventory: &Inventory, tenant: &TenantDetails, placement: &PlacementRow) -> Result<(), Error> {
    let place = inventory.place(tenant, placement)?;
    // The adopted places of a tenant that is deleted stay where they are, and need nothing of ours.
    let deleted = tenant.tenant.status == TenantStatus::Archived;
    let others = || {
        let stays = |other: &&PlacementRow| other.module != placement.module && (other.managed || !deleted);
        tenant.placements.iter().filter(stays).filter(|other| other.server == placement.server)
    };
    drop_place(&place, !others().any(|other| other.database == placement.database)).await?;
    // The last place on a server may be one that is reached by the service login: the tenant's roles were for those before it.
    if others().next().is_none() {
        drop_roles(&place).await?;
    }
    Ok(())
}

/// A line of the module log about a tenant's place.
fn line(tenant: &TenantDetails, placement: &PlacementRow) -> LogEntry {
    LogEntry {
        tenant_id: tenant.tenant.id,
        tenant_slug: Some(tenant.tenant.slug.to_string()),
        module: placement.module.to_string(),
        server: Some(placement.server.to_string()),
        database: Some(placement.database.to_string()),
        schema: placement.schema.clone(),
        status: String::new(),
        step: None,
        detail: None,
        logged_at: None,
    }
}
