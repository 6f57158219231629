//! `pgtenant demo`: temporary PostgreSQL servers, a registry, three tenants and the proxy, from nothing and gone at the end.

mod check;
mod site;
mod visit;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::site::Site;
use super::context::Context;
use super::output::{Failure, print, remark, table};

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Check that every tenant sees its own rows and nobody else's, in every way of naming it, print a table, and end.
    #[arg(long)]
    once: bool,
    /// The proxy's port [default: 6432, or a free one where that is taken].
    #[arg(long, value_name = "N")]
    port: Option<u16>,
}

pub(super) async fn run(context: &Context, demo: Demo) -> Result<(), Failure> {
    // Before anything is started: from here on an interrupt ends the demo in order, with nothing left behind.
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupted = std::pin::pin!(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    remark("Starting two PostgreSQL servers, a registry, three tenants and the proxy …");
    let site = tokio::select! {
        site = Site::start(demo.port) => site?,
        () = &mut interrupted => return Ok(()),
    };
    let outcome = tokio::select! {
        outcome = visit(context, &site, demo.once) => outcome,
        () = &mut interrupted => Ok(()),
    };
    if outcome.is_ok() && !demo.once {
        interrupted.await;
    }
    remark("Cleaning up …");
    site.stop().await;
    outcome
}

/// Shows the site, or checks it.
async fn visit(context: &Context, site: &Site, once: bool) -> Result<(), Failure> {
    if once { check::run(context, site).await } else { Ok(introduce(site)?) }
}

/// What there is, and what to try.
fn introduce(site: &Site) -> anyhow::Result<()> {
    let mut rows = table(["tenant", "isolation", "server", "database", "schema", "role"]);
    for tenant in &site.tenants {
        let place = &tenant.details.placements[0];
        rows.add_row([
            tenant.slug().to_owned(),
            place.isolation.to_string(),
            place.server.to_string(),
            place.database.to_string(),
            place.schema.clone().unwrap_or_else(|| "public".to_owned()),
            place.role.as_ref().map(ToString::to_string).unwrap_or_default(),
        ]);
    }
    print(rows)?;
    print("\nOne connection string each; psql and every driver take them as they are:")?;
    for tenant in &site.tenants {
        print(format_args!("  psql '{}'", site.url(tenant)))?;
    }
    let acme = &site.tenants[0];
    let (port, password) = (site.port, acme.password.expose());
    print("\nThings to try:")?;
    for line in [
        "-- in any of them: the same tables, everyone's own rows".to_owned(),
        "  SELECT * FROM revenue;".to_owned(),
        "-- naming the tenant in other ways".to_owned(),
        format!("  PGPASSWORD={password} psql \"host=127.0.0.1 port={port} user=app dbname=shop options='-c tenant=acme'\""),
        format!("  PGPASSWORD={password} psql \"host=127.0.0.1 port={port} user=acme dbname=shop\""),
        format!("  PGPASSWORD={password} psql \"host=127.0.0.1 port={port} user=app dbname=acme/shop\""),
        format!("  PGPASSWORD={password} psql \"host=acme.{} hostaddr=127.0.0.1 port={port} user=app dbname=shop sslmode=require\"", site::SNI_SUFFIX),
        "-- breaking out, as initech, whose rows share their tables with others'".to_owned(),
        "  SET pgtenant.tenant_id = '…'; RESET ALL; SET ROLE postgres; SET search_path = public; SELECT * FROM products;".to_owned(),
        "-- the control plane, in another terminal".to_owned(),
        format!("  export PGTENANT_REGISTRY='{}' PGTENANT_PROXY=127.0.0.1:{port}", site.registry_url),
        "  pgtenant tenant list".to_owned(),
        "  pgtenant tenant suspend globex     # its sessions end within a second".to_owned(),
        "  pgtenant tenant activate globex".to_owned(),
        "  pgtenant tenant create umbrella --name Umbrella --modules shop".to_owned(),
    ] {
        print(line)?;
    }
    print("\nCtrl-C ends the demo and removes everything.")
}
