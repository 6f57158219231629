//! The places that a run goes to: which they are, and in which stages.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use super::super::error::Error;
use super::super::files::{self, MigrationFiles};
use super::super::order::Inventory;
use super::super::place::Place;
use super::super::tenants::chain;
use super::outcome::{Outcome, Problem, Whose};
use crate::registry::{ModuleRow, PlacementRow, PlacementStatus, TenantDetails};
use crate::tenant::{DatabaseName, Isolation, ModuleName, ServerName, Slug, TenantStatus};

/// Which of the tenants' places are meant.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Whether the tenants were named: then each must have a place that can be migrated, and archived ones are not passed over.
    pub named: bool,
    /// The modules; all that have migrations when empty.
    pub modules: Vec<ModuleName>,
}

/// The places to be migrated.
#[derive(Debug)]
pub struct Fleet {
    targets: Vec<Target>,
    /// Places that are not provisioned yet and were passed over.
    pub unready: usize,
    /// Tenants that are archived or being moved and were passed over.
    pub inactive: usize,
}

/// One place to be migrated.
#[derive(Debug)]
pub(super) struct Target {
    tenants: Vec<Whose>,
    module: ModuleName,
    pub(super) server: ServerName,
    pub(super) database: DatabaseName,
    common: bool,
    /// What there is to do, or why that cannot even be tried.
    pub(super) work: Result<Work, String>,
}

/// What there is to do at a place.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) place: Place,
    /// Whether pgtenant made it; else its owner is whoever the server says.
    pub(super) managed: bool,
    pub(super) files: MigrationFiles,
}

impl Target {
    /// Whose place it is in the first place.
    fn lead(&self) -> Option<&Slug> {
        self.tenants.first().map(|whose| &whose.slug)
    }

    /// Nothing done yet.
    pub(super) fn outcome(&self) -> Outcome {
        let files = self.work.as_ref().map(|work| &work.files);
        Outcome {
            tenants: self.tenants.clone(),
            module: self.module.clone(),
            common: self.common,
            applied: 0,
            version: None,
            latest: files.ok().and_then(|files| files.last()).map(|file| file.version),
            pending: Vec::new(),
            problem: self.work.as_ref().err().cloned().map(Problem::Failed),
            duration: Duration::ZERO,
        }
    }
}

impl Fleet {
    /// The places of these tenants.
    ///
    /// # Errors
    /// A module that is not there or has no migrations, and of named tenants one that does not have the module.
    pub fn assemble(inventory: &Inventory, tenants: &[TenantDetails], selection: &Selection) -> Result<Self, Error> {
        for name in &selection.modules {
            if inventory.module(name)?.migrations.is_none() {
                return Err(Error::NoMigrations { module: name.to_string() });
            }
        }
        let mut assembly =
            Assembly { inventory, selection, files: HashMap::new(), common: HashMap::new(), fleet: Self::empty() };
        for tenant in tenants {
            assembly.add(tenant)?;
        }
        Ok(assembly.fleet)
    }

    const fn empty() -> Self {
        Self { targets: Vec::new(), unready: 0, inactive: 0 }
    }

    /// How many places there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Whether a tenant has a place in it.
    #[must_use]
    pub fn has(&self, tenant: &Slug) -> bool {
        self.targets.iter().any(|target| target.tenants.iter().any(|whose| whose.slug == *tenant))
    }

    /// The places in the stages in which they are migrated: the canary's, then those of so many tenants at a time.
    pub(super) fn stages(self, canary: Option<&Slug>, wave: Option<NonZeroUsize>) -> Vec<Vec<Target>> {
        let is_canary = |target: &Target| target.tenants.iter().any(|whose| Some(&whose.slug) == canary);
        let (first, rest): (Vec<_>, Vec<_>) = self.targets.into_iter().partition(is_canary);
        let mut stages = vec![first];
        let (mut tenants, mut last) = (0, None);
        for target in rest {
            let lead = target.lead().cloned();
            if last != lead || last.is_none() {
                let full = wave.is_some_and(|wave| tenants % wave == 0);
                if full || tenants == 0 {
                    stages.push(Vec::new());
                }
                tenants += 1;
                last = lead;
            }
            if let Some(stage) = stages.last_mut() {
                stage.push(target);
            }
        }
        stages.retain(|stage| !stage.is_empty());
        stages
    }
}

/// A fleet on its way.
struct Assembly<'a> {
    inventory: &'a Inventory,
    selection: &'a Selection,
    /// Each module's files, read once; a directory that is not as it must be fails the places of its module alone.
    files: HashMap<&'a ModuleName, Result<MigrationFiles, String>>,
    /// Where among the targets each common place is.
    common: HashMap<(ServerName, DatabaseName, Option<String>, ModuleName), usize>,
    fleet: Fleet,
}

impl<'a> Assembly<'a> {
    fn add(&mut self, tenant: &TenantDetails) -> Result<(), Error> {
        let Selection { named, modules } = self.selection;
        let slug = &tenant.tenant.slug;
        if let Some(module) = modules.iter().find(|module| tenant.placements.iter().all(|p| p.module != **module))
            && *named
        {
            return Err(Error::NotSubscribed { tenant: slug.to_string(), module: module.to_string() });
        }
        let status = tenant.tenant.status;
        if status == TenantStatus::Moving || status == TenantStatus::Archived && !named {
            if *named {
                return Err(Error::Inactive { tenant: slug.to_string(), status });
            }
            self.fleet.inactive += 1;
            return Ok(());
        }
        for placement in &tenant.placements {
            let module = self.inventory.module(&placement.module)?;
            let meant = modules.is_empty() || modules.contains(&placement.module);
            let Some(directory) = module.migrations.as_deref().filter(|_| meant) else { continue };
            match placement.status {
                PlacementStatus::Provisioning if !named => self.fleet.unready += 1,
                PlacementStatus::Dropping if !named => {}
                PlacementStatus::Provisioning | PlacementStatus::Dropping | PlacementStatus::Ready => {
                    self.place(tenant, placement, module, directory);
                }
            }
        }
        Ok(())
    }

    fn place(&mut self, tenant: &TenantDetails, placement: &PlacementRow, module: &'a ModuleRow, directory: &str) {
        let whose = Whose { id: tenant.tenant.id, slug: tenant.tenant.slug.clone() };
        let common = placement.isolation == Isolation::Shared;
        let work = self.work(tenant, placement, module, directory);
        if common && work.is_ok() {
            let (server, database) = (placement.server.clone(), placement.database.clone());
            let key = (server, database, placement.schema.clone(), placement.module.clone());
            match self.common.get(&key) {
                Some(at) => return self.fleet.targets[*at].tenants.push(whose),
                None => drop(self.common.insert(key, self.fleet.targets.len())),
            }
        }
        self.fleet.targets.push(Target {
            tenants: vec![whose],
            module: placement.module.clone(),
            server: placement.server.clone(),
            database: placement.database.clone(),
            common,
            work,
        });
    }

    fn work(
        &mut self,
        tenant: &TenantDetails,
        placement: &PlacementRow,
        module: &'a ModuleRow,
        directory: &str,
    ) -> Result<Work, String> {
        check_ready(tenant, placement).map_err(|error| chain(&error))?;
        let place = self.inventory.place(tenant, placement).map_err(|error| chain(&error))?;
        let read = || files::read(Path::new(directory)).map_err(|error| chain(&error));
        let files = self.files.entry(&module.name).or_insert_with(read).clone()?;
        Ok(Work { place, managed: placement.managed, files })
    }
}

/// A place that is being made gets its migrations with that, and one on its way out none.
fn check_ready(tenant: &TenantDetails, placement: &PlacementRow) -> Result<(), Error> {
    let (tenant, module) = (tenant.tenant.slug.to_string(), placement.module.to_string());
    match placement.status {
        PlacementStatus::Ready => Ok(()),
        PlacementStatus::Provisioning => Err(Error::NotWhole { tenant, module }),
        PlacementStatus::Dropping => Err(Error::BeingDropped { tenant, module }),
    }
}
