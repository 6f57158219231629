//! One import taken back: what it made goes, what it changed is again what it was, unless something came after that depends on it.

use serde::Serialize;

use super::super::error::Error;
use super::super::tenants::Control;
use super::error::ImportError;
use super::options::TURN;
use super::outcome::Touched;
use crate::registry::{Contents, Edit, Edits, TenantDetails, differences};

/// Why an import cannot be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// What was changed since: a tenant by its slug, or a server or module.
    pub what: String,
    /// How.
    pub detail: String,
}

/// What a rollback came to.
#[derive(Debug, Default, Serialize)]
pub struct RolledBack {
    /// The import; none when there is none.
    pub import: Option<i64>,
    /// Whether it had been taken back before.
    pub already: bool,
    /// What was removed.
    pub removed: Touched,
    /// What is again as it was before.
    pub restored: Touched,
    /// What stands against it; nothing was changed then.
    pub obstacles: Vec<Obstacle>,
}

impl Control {
    /// Takes back an import: the last one, or that with this number. One that was taken back before stays so.
    ///
    /// # Errors
    /// [`ImportError::NoImport`], and the registry's. What stands against it is in the result.
    pub async fn roll_back(&self, import: Option<i64>) -> Result<RolledBack, Error> {
        let _turn = self.registry.lock(TURN).await?;
        let transaction = self.registry.begin().await?;
        let Some(record) = transaction.lock_import(import).await? else {
            return match import {
                Some(import) => Err(ImportError::NoImport { import }.into()),
                None => Ok(RolledBack::default()),
            };
        };
        let mut outcome = RolledBack { import: Some(record.id), ..RolledBack::default() };
        if record.rolled_back_at.is_some() {
            outcome.already = true;
            return Ok(outcome);
        }
        let done = transaction.imported(record.id).await?;
        for edit in &done.tenants {
            let Some(left) = &edit.to else { continue };
            let now = transaction.tenant(left.tenant.id).await?;
            outcome.obstacles.extend(since(left, now.as_ref()));
        }
        outcome.obstacles.extend(still_used(&done, &self.registry.contents().await?));
        if !outcome.obstacles.is_empty() {
            return Ok(outcome);
        }
        let undo = turned(done);
        transaction.roll_back(record.id, &undo).await?;
        transaction.commit().await?;
        for edit in &undo.tenants {
            note(&mut outcome, edit, |tenant| tenant.tenant.slug.to_string(), |names| &mut names.tenants);
        }
        for edit in &undo.modules {
            note(&mut outcome, edit, |module| module.name.to_string(), |names| &mut names.modules);
        }
        for edit in &undo.servers {
            note(&mut outcome, edit, |server| server.name.to_string(), |names| &mut names.servers);
        }
        Ok(outcome)
    }
}

/// How a tenant differs from what the import left.
fn since(left: &TenantDetails, now: Option<&TenantDetails>) -> Vec<Obstacle> {
    let what = left.tenant.slug.to_string();
    match now {
        None => Vec::new(),
        Some(now) => differences(left, now)
            .into_iter()
            .map(|difference| Obstacle { what: what.clone(), detail: difference.to_string() })
            .collect(),
    }
}

/// Servers and modules that the import made or changed and that are not as it left them, or that others use by now.
fn still_used(done: &Edits, now: &Contents) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut obstacle = |what: String, detail: String| found.push(Obstacle { what, detail });
    let goes = |tenant: &TenantDetails| {
        let made = |edit: &Edit<TenantDetails>| {
            edit.from.is_none() && edit.to.as_ref().is_some_and(|to| to.tenant.id == tenant.tenant.id)
        };
        done.tenants.iter().any(made)
    };
    let stays: Vec<&TenantDetails> = now.tenants.iter().filter(|tenant| !goes(tenant)).collect();
    for edit in &done.modules {
        let Some(left) = &edit.to else { continue };
        let what = format!("module {}", left.name);
        match now.modules.iter().find(|module| module.name == left.name) {
            Some(module) if module != left => obstacle(what, "was changed".to_owned()),
            None => obstacle(what, "was removed".to_owned()),
            Some(_) if edit.from.is_some() => {}
            Some(_) => {
                let users = stays.iter().filter(|t| t.placements.iter().any(|place| place.module == left.name)).count();
                if users > 0 {
                    obstacle(what, format!("is used by {users} tenants that this import did not make"));
                }
            }
        }
    }
    for edit in &done.servers {
        let Some(left) = &edit.to else { continue };
        let what = format!("server {}", left.name);
        match now.servers.iter().find(|server| server.name == left.name) {
            Some(server) if server != left => obstacle(what, "was changed".to_owned()),
            None => obstacle(what, "was removed".to_owned()),
            Some(_) if edit.from.is_some() => {}
            Some(_) => {
                let made = |name| {
                    done.modules.iter().any(|m| m.from.is_none() && m.to.as_ref().is_some_and(|m| m.name == name))
                };
                let modules = now.modules.iter().filter(|module| module.server.as_ref() == Some(&left.name));
                let modules = modules.filter(|module| !made(module.name.clone())).count();
                let users = stays.iter().filter(|t| t.placements.iter().any(|place| place.server == left.name)).count();
                if users + modules > 0 {
                    obstacle(
                        what,
                        format!("is used by {users} tenants and {modules} modules that this import did not make"),
                    );
                }
            }
        }
    }
    found
}

fn turned(done: Edits) -> Edits {
    Edits {
        servers: done.servers.into_iter().map(Edit::turned).collect(),
        modules: done.modules.into_iter().map(Edit::turned).collect(),
        tenants: done.tenants.into_iter().map(Edit::turned).collect(),
    }
}

fn note<T>(
    outcome: &mut RolledBack,
    edit: &Edit<T>,
    name: impl Fn(&T) -> String,
    list: impl Fn(&mut Touched) -> &mut Vec<String>,
) {
    match (&edit.from, &edit.to) {
        (_, Some(to)) => list(&mut outcome.restored).push(name(to)),
        (Some(from), None) => list(&mut outcome.removed).push(name(from)),
        (None, None) => {}
    }
}
