//! What the servers' catalogs say of the tenants that are there already, as findings beside those of the probes.

use std::sync::Arc;

use super::plan::Plan;
use crate::control::{Audited, Inventory, audit, chain};
use crate::registry::ModuleRow;
use crate::tenant::{Isolation, ModuleName, Pooling, Server};
use crate::verify::{Finding, Outcome};

/// Looks at every module, or those that are asked for, on every server of the plan.
pub(super) async fn audit_all(inventory: &Inventory, plan: &Plan, wanted: &[ModuleName]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let asked = |module: &&ModuleRow| wanted.is_empty() || wanted.contains(&module.name);
    for module in inventory.modules.iter().filter(asked) {
        for server in &plan.servers {
            findings.extend(audit_one(server, module).await);
        }
    }
    findings
}

async fn audit_one(server: &Arc<Server>, module: &ModuleRow) -> Vec<Finding> {
    let audits = match audit(server, module).await {
        Ok(audits) => audits,
        Err(error) => {
            let unknown = Audited { check: "the tenants that are there", count: None, breaches: vec![chain(&error)] };
            return vec![finding(server, module, &unknown)];
        }
    };
    // Another server than the module's own may have nothing of it.
    let is_there = module.server.as_ref() == Some(&server.name) || audits[0].count.is_some();
    audits.iter().filter(|_| is_there).map(|audited| finding(server, module, audited)).collect()
}

fn finding(server: &Server, module: &ModuleRow, audited: &Audited) -> Finding {
    let (result, what) = match (audited.breaches.as_slice(), audited.count) {
        ([], None) => (Outcome::NotApplicable, "nothing is there".to_owned()),
        ([], Some(count)) => (Outcome::Holds, format!("{count} looked at")),
        (breaches, _) => (Outcome::Leaks, breaches.join("; ")),
    };
    Finding {
        check: audited.check,
        pooling: if module.isolation == Isolation::Database { Pooling::PerTenant } else { module.pooling },
        isolation: module.isolation,
        pool_mode: None,
        result,
        detail: format!("module {} on server {}: {what}", module.name, server.name),
        is_broken: result == Outcome::Leaks,
    }
}
