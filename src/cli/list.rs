//! `pgtenant tenant list`: page by page, however many tenants there are.

use std::collections::HashMap;
use std::io::{self, Write as _};

use clap::Args;

use super::context::Context;
use super::output::{Failure, or_dash, print, print_json, remark, table};
use super::source::Source;
use super::view::{TenantView, last_used};
use crate::registry::{Activity, Filter, TenantDetails};
use crate::tenant::{Alias, ModuleName, Slug, TenantId, TenantStatus};

/// Tenants read at a time.
const PAGE: u32 = 500;
/// Most tenants in a table unless more are asked for.
const TABLE_ROWS: u32 = 200;

/// Which tenants are listed.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Most tenants that are listed; 0: all [default: 200 in a table, all with --json].
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Begin after the tenant with this slug.
    #[arg(long, value_name = "SLUG")]
    after: Option<Slug>,
    /// Only tenants with this status: provisioning, active, suspended, moving or archived.
    #[arg(long)]
    status: Option<TenantStatus>,
    /// Only tenants that subscribe to this module.
    #[arg(long)]
    module: Option<ModuleName>,
}

/// Lists tenants in the order of their slugs.
pub(super) async fn list(context: &Context, list: List) -> Result<(), Failure> {
    let source = context.source().await?;
    let limit = match list.limit {
        Some(0) => None,
        Some(limit) => Some(limit),
        None => (!context.json()).then_some(TABLE_ROWS),
    };
    let filter = Filter { status: list.status, module: list.module };
    let mut pages = Pages { source: &source, filter, after: list.after, left: limit, is_over: false };
    if context.json() {
        return print_array(context, &mut pages).await;
    }
    let (mut tenants, mut uses) = (Vec::new(), HashMap::new());
    while let Some((page, used)) = pages.next().await? {
        tenants.extend(page);
        uses.extend(used);
    }
    print_table(&tenants, &uses)?;
    if pages.left == Some(0)
        && !pages.is_over
        && let Some(last) = tenants.last()
    {
        let slug = &last.tenant.slug;
        remark(format_args!("There may be more: --after {slug} goes on, --limit 0 lists all."));
    }
    Ok(())
}

/// Shows these tenants.
pub(super) async fn print_these(context: &Context, source: &Source, tenants: &[TenantDetails]) -> Result<(), Failure> {
    let uses = source.activity(tenants).await?;
    if context.json() {
        let view = |tenant| TenantView::new(tenant, used(&uses, tenant), context.proxy());
        return Ok(print_json(&tenants.iter().map(view).collect::<Vec<_>>())?);
    }
    print_table(tenants, &uses)
}

/// Tenants as they are read.
struct Pages<'a> {
    source: &'a Source,
    filter: Filter,
    after: Option<Slug>,
    /// How many may still come; any number when absent.
    left: Option<u32>,
    /// None come after those that have been read.
    is_over: bool,
}

type Page = (Vec<TenantDetails>, HashMap<TenantId, Activity>);

impl Pages<'_> {
    async fn next(&mut self) -> Result<Option<Page>, Failure> {
        let size = self.left.map_or(PAGE, |left| left.min(PAGE));
        if size == 0 || self.is_over {
            return Ok(None);
        }
        let page = self.source.page(&self.filter, self.after.as_ref(), size).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.after = Some(last.tenant.slug.clone());
        let came = u32::try_from(page.len()).unwrap_or(u32::MAX);
        // A page that is not full is the last.
        self.is_over = came < size;
        self.left = self.left.map(|left| left.saturating_sub(came));
        let uses = self.source.activity(&page).await?;
        Ok(Some((page, uses)))
    }
}

/// Prints an array of which one page is in memory at a time.
async fn print_array(context: &Context, pages: &mut Pages<'_>) -> Result<(), Failure> {
    let mut before = "[\n";
    while let Some((page, uses)) = pages.next().await? {
        let mut out = io::stdout().lock();
        for tenant in &page {
            let view = TenantView::new(tenant, used(&uses, tenant), context.proxy());
            let text = serde_json::to_string_pretty(&view)?.replace('\n', "\n  ");
            write!(out, "{before}  {text}")?;
            before = ",\n";
        }
    }
    let end = if before == "[\n" { "[]\n" } else { "\n]\n" };
    Ok(io::stdout().lock().write_all(end.as_bytes())?)
}

fn used(uses: &HashMap<TenantId, Activity>, tenant: &TenantDetails) -> Activity {
    uses.get(&tenant.tenant.id).copied().unwrap_or_default()
}

fn print_table(tenants: &[TenantDetails], uses: &HashMap<TenantId, Activity>) -> Result<(), Failure> {
    let mut rows = table(["slug", "name", "status", "modules", "aliases", "last used", "tenant_id"]);
    for tenant in tenants {
        let modules: Vec<_> = tenant.placements.iter().map(|placement| placement.module.as_str()).collect();
        let aliases: Vec<_> = tenant.aliases.iter().map(Alias::as_str).collect();
        rows.add_row([
            tenant.tenant.slug.to_string(),
            tenant.tenant.name.clone(),
            tenant.tenant.status.to_string(),
            modules.join(", "),
            aliases.join(", "),
            or_dash(last_used(used(uses, tenant))),
            tenant.tenant.id.to_string(),
        ]);
    }
    Ok(print(rows)?)
}
