//! `pgtenant registry verify`

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;

use super::sources::Sources;
use crate::cli::context::Context;
use crate::cli::output::{Failure, or_dash, print, print_json, remark, table};
use crate::control::import::{Compared, Finding};
use crate::control::{Problem, inspect};

/// What the registry is compared with; without a source, the servers themselves.
#[derive(Debug, Args)]
pub(in crate::cli) struct Verify {
    #[command(flatten)]
    sources: Sources,
}

/// The servers' word on the registry's places, in JSON.
#[derive(Serialize)]
struct Places {
    places: usize,
    findings: Vec<Problem>,
}

pub(super) async fn run(context: &Context, verify: Verify) -> Result<(), Failure> {
    let found = if verify.sources.is_empty() { places(context).await? } else { sources(context, verify).await? };
    match found {
        0 => Ok(()),
        1 => Err(anyhow!("one thing differs").into()),
        n => Err(anyhow!("{n} things differ").into()),
    }
}

/// Compares with old registries; how many things differ.
async fn sources(context: &Context, verify: Verify) -> Result<usize, Failure> {
    let sources = verify.sources.parse().await?;
    let verified = context.control().await?.verify_sources(&sources).await?;
    if context.json() {
        print_json(&verified)?;
        return Ok(verified.findings.len());
    }
    let mut rows =
        table(["module", "server", "database", "tenants: source", "registry", "subscriptions: source", "registry"]);
    for counts in &verified.sources {
        let Compared {
            module,
            server,
            database,
            source_tenants,
            registry_tenants,
            source_subscriptions,
            registry_placements,
        } = counts;
        let numbers = [source_tenants, registry_tenants, source_subscriptions, registry_placements];
        let [a, b, c, d] = numbers.map(ToString::to_string);
        rows.add_row([module, server, database, &a, &b, &c, &d]);
    }
    print(rows)?;
    if verified.findings.is_empty() {
        print("Every tenant of the sources is in the registry just so, and its schema is there.")?;
        return Ok(0);
    }
    let mut rows = table(["module", "tenant", "what", "source", "registry"]);
    for Finding { module, tenant, what, source, registry } in &verified.findings {
        rows.add_row([module, tenant, *what, &or_dash(source.as_ref()), &or_dash(registry.as_ref())]);
    }
    print(rows)?;
    Ok(verified.findings.len())
}

/// Looks for every place on its server; how many things are wrong.
async fn places(context: &Context) -> Result<usize, Failure> {
    let source = context.source().await?;
    let (inventory, tenants) = (source.inventory().await?, source.tenants().await?);
    for server in inventory.servers.iter().filter(|server| server.admin_secret.is_none()) {
        remark(format_args!("server {} has no admin secret; its places were not looked at", server.name));
    }
    let findings = inspect(&inventory, &tenants).await;
    let places = tenants.iter().map(|tenant| tenant.placements.len()).sum();
    let found = findings.len();
    if context.json() {
        print_json(&Places { places, findings })?;
        return Ok(found);
    }
    if findings.is_empty() {
        print(format_args!("{} tenants, {places} places: nothing is missing.", tenants.len()))?;
        return Ok(0);
    }
    let mut rows = table(["what", "problem"]);
    for Problem { what, problem } in &findings {
        rows.add_row([what, problem]);
    }
    print(rows)?;
    Ok(found)
}
