//! `pgtenant demo --once`: puts data in as every tenant, reads it back in every way of naming it, and tries to break out.

use anyhow::anyhow;
use serde::Serialize;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::super::context::Context;
use super::super::output::{Failure, print, print_json, table};
use super::site::{DEFAULT_TENANT, DemoTenant, Site};
use super::visit::{Naming, connect, connect_with};
use crate::tenant::quote_literal;

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct Check {
    check: String,
    tenant: String,
    holds: bool,
    detail: String,
}

pub(super) async fn run(context: &Context, site: &Site) -> Result<(), Failure> {
    let mut checks = Vec::new();
    for (naming, form) in Naming::ALL {
        for tenant in &site.tenants {
            if naming != Naming::Nothing || tenant.slug() == DEFAULT_TENANT {
                checks.push(judge(form, tenant, own_rows_only(site, tenant, naming).await));
            }
        }
    }
    for tenant in &site.tenants {
        checks.push(judge("a wrong password is refused", tenant, wrong_password(site, tenant).await));
        checks.push(judge("SET, RESET and SET ROLE break no wall", tenant, hostile_settings(site, tenant).await));
        checks.push(judge("others' places are closed", tenant, others_places(site, tenant).await));
    }
    let broken = checks.iter().filter(|check| !check.holds).count();
    report(context, site, &checks)?;
    match broken {
        0 => Ok(()),
        n => Err(anyhow!("{n} of {} checks do not hold", checks.len()).into()),
    }
}

fn judge(check: &str, tenant: &DemoTenant, outcome: anyhow::Result<String>) -> Check {
    let (holds, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(error) => (false, Failure::from(error).to_string()),
    };
    Check { check: check.to_owned(), tenant: tenant.slug().to_owned(), holds, detail }
}

fn report(context: &Context, site: &Site, checks: &[Check]) -> anyhow::Result<()> {
    if context.json() {
        return print_json(&checks);
    }
    let mut header = vec!["".to_owned()];
    header.extend(site.tenants.iter().map(|tenant| {
        let place = &tenant.details.placements[0];
        format!("{} ({} on {})", tenant.slug(), place.isolation, place.server)
    }));
    let mut rows = table([]);
    rows.set_header(header);
    let mut names: Vec<&str> = Vec::new();
    for check in checks {
        if !names.contains(&check.check.as_str()) {
            names.push(&check.check);
        }
    }
    for name in names {
        let mut row = vec![name.to_owned()];
        for tenant in &site.tenants {
            let check = checks.iter().find(|check| check.check == name && check.tenant == tenant.slug());
            row.push(
                check.map_or_else(String::new, |check| {
                    format!("{} {}", if check.holds { "✓" } else { "✗" }, check.detail)
                }),
            );
        }
        rows.add_row(row);
    }
    print(rows)
}

/// The tenant's products, seen through the proxy, are its own: all of them, and no others.
async fn own_rows_only(site: &Site, tenant: &DemoTenant, naming: Naming) -> anyhow::Result<String> {
    let client = connect(site, tenant, naming).await?;
    let seen = products(&client).await?;
    let mut own: Vec<_> = tenant.products.iter().map(ToString::to_string).collect();
    own.sort_unstable();
    if seen == own { Ok(format!("{} rows", seen.len())) } else { Err(anyhow!("sees {seen:?}")) }
}

async fn products(client: &Client) -> anyhow::Result<Vec<String>> {
    let rows = client.query("SELECT name FROM products ORDER BY name COLLATE \"C\"", &[]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

async fn wrong_password(site: &Site, tenant: &DemoTenant) -> anyhow::Result<String> {
    match connect_with(site, tenant, Naming::UserAt, "wrong").await {
        Ok(_) => Err(anyhow!("logged in")),
        Err(error) => match error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code) {
            Some(code) if *code == SqlState::INVALID_PASSWORD => Ok(code.code().to_owned()),
            _ => Err(error),
        },
    }
}

/// Whatever a session sets of itself, it sees no other tenant's rows.
async fn hostile_settings(site: &Site, tenant: &DemoTenant) -> anyhow::Result<String> {
    let mut tries =
        vec!["RESET ALL".to_owned(), "DISCARD ALL".to_owned(), "SET ROLE NONE".to_owned(), "RESET ROLE".to_owned()];
    for other in site.tenants.iter().filter(|other| other.slug() != tenant.slug()) {
        let place = &other.details.placements[0];
        tries.push(format!("SET pgtenant.tenant_id = {}", quote_literal(&other.details.tenant.id.to_string())));
        tries.push(format!("SET search_path = \"{}\"", place.schema.as_deref().unwrap_or("public")));
        if let Some(role) = &place.role {
            tries.push(format!("SET ROLE {}", role.quoted()));
            tries.push(format!("SET SESSION AUTHORIZATION {}", role.quoted()));
        }
    }
    tries.push("SET ROLE postgres".to_owned());
    tries.push("SET row_security = off".to_owned());
    for statement in &tries {
        let client = connect(site, tenant, Naming::UserAt).await?;
        let accepted = client.batch_execute(statement).await.is_ok();
        for seen in products(&client).await.unwrap_or_default() {
            if !tenant.products.contains(&seen.as_str()) {
                return Err(anyhow!(
                    "after {statement} ({}) sees {seen}",
                    if accepted { "accepted" } else { "refused" }
                ));
            }
        }
    }
    Ok(format!("{} tried", tries.len()))
}

/// Other tenants' tables by their full names, and their modules by theirs, are refused.
async fn others_places(site: &Site, tenant: &DemoTenant) -> anyhow::Result<String> {
    let client = connect(site, tenant, Naming::UserAt).await?;
    let mut refused = 0;
    for other in site.tenants.iter().filter(|other| other.slug() != tenant.slug()) {
        let place = &other.details.placements[0];
        let own = &tenant.details.placements[0];
        let Some(schema) = place.schema.as_ref().filter(|schema| own.schema.as_ref() != Some(*schema)) else {
            continue;
        };
        for statement in [
            format!("SELECT * FROM \"{schema}\".products"),
            format!("INSERT INTO \"{schema}\".products (name, price) VALUES ('x', 1)"),
            format!("CREATE TABLE \"{schema}\".x (n int)"),
            "COPY (SELECT 1) TO PROGRAM 'true'".to_owned(),
        ] {
            if client.batch_execute(&statement).await.is_ok() {
                return Err(anyhow!("{statement} was done"));
            }
            refused += 1;
        }
    }
    Ok(format!("{refused} refused"))
}
