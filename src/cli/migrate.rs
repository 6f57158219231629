//! `pgtenant migrate …`

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use comfy_table::Table;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::context::Context;
use super::output::{Failure, or_dash, print, print_json, remark, table};
use super::progress::{Progress, per_second};
use super::source::Source;
use crate::control::migrate::{
    Fleet, Halt, Outcome, Problem, Report, RunConfig, Selection, Standing, Stopped, examine, run as migrate,
};
use crate::control::{ApplyConfig, Inventory};
use crate::registry::TenantDetails;
use crate::tenant::{ModuleName, Slug, TenantName};

/// Tenants whose names stand in a table where rows are common to many.
const SLUGS_SHOWN: usize = 3;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Migrate {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Apply what tenants' places have not had yet. A tenant that fails stops no other, unless that is asked for. Safe to run again, and
    /// from several places at once. Exit code 1 if any failed or was not tried.
    Run(RunFlags),
    /// Who is on which version, who is behind, who has drifted. Exit code 0, whatever it finds; with --check 1 unless all are current.
    Status(StatusFlags),
    /// Take places as being on a version: every file up to it counts as applied, as it is now, and none is run. For places that were
    /// there before, and for files that had to be changed after they had been applied.
    Baseline(BaselineFlags),
}

#[derive(Debug, Args)]
struct SelectFlags {
    /// A tenant, by any of its names; may be repeated. Without it, all that are not archived.
    #[arg(long = "tenant", value_name = "T")]
    tenants: Vec<TenantName>,
    /// A module; may be repeated. Without it, all that have migrations.
    #[arg(long = "module", value_name = "M")]
    modules: Vec<ModuleName>,
    /// Places at a time on each server.
    #[arg(long, value_name = "N", default_value = "4")]
    jobs: NonZeroUsize,
    /// Let a file be applied after one with a higher number.
    #[arg(long)]
    any_order: bool,
}

#[derive(Debug, Args)]
struct RunFlags {
    #[command(flatten)]
    select: SelectFlags,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Migrate this tenant first, and no other if it fails.
    #[arg(long, value_name = "T")]
    canary: Option<TenantName>,
    /// Migrate so many tenants before the next begin; a wave with failures is the last, unless --max-failures allows them.
    #[arg(long, value_name = "N")]
    wave: Option<NonZeroUsize>,
    /// Begin no further place when more than N have failed.
    #[arg(long, value_name = "N")]
    max_failures: Option<usize>,
    /// How long a file waits for a lock before it gives way to whoever works there, to be tried again.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    lock_timeout: Duration,
    /// How often a file is tried that had to give way.
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
}

#[derive(Debug, Args)]
struct StatusFlags {
    #[command(flatten)]
    select: SelectFlags,
    /// Exit with code 1 unless every place is current.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
struct BaselineFlags {
    /// The number of the last file that counts as applied.
    #[arg(value_name = "VERSION")]
    number: i64,
    /// The module.
    #[arg(long, value_name = "M")]
    module: ModuleName,
    /// A tenant, by any of its names; may be repeated.
    #[arg(long = "tenant", value_name = "T", required_unless_present = "all", conflicts_with = "all")]
    tenants: Vec<TenantName>,
    /// All tenants of the module.
    #[arg(long)]
    all: bool,
}

/// A place of one tenant in JSON, as `run` leaves it.
#[derive(Serialize)]
struct ResultView<'a> {
    tenant: &'a str,
    module: &'a str,
    status: &'static str,
    applied: usize,
    duration_ms: u64,
    version: Option<i64>,
    error: Option<&'a str>,
}

/// A place of one tenant in JSON, as `status` finds it.
#[derive(Serialize)]
struct StatusView<'a> {
    tenant: &'a str,
    module: &'a str,
    status: &'static str,
    version: Option<i64>,
    latest: Option<i64>,
    pending: &'a [String],
    error: Option<&'a str>,
}

pub(super) async fn run(context: &Context, command: Migrate) -> Result<(), Failure> {
    match command.command {
        None => apply(context, command.run).await,
        Some(Command::Run(flags)) => apply(context, flags).await,
        Some(Command::Status(flags)) => status(context, flags).await,
        Some(Command::Baseline(flags)) => baseline(context, flags).await,
    }
}

/// The registry and what of it is meant.
struct Site {
    source: Source,
    inventory: Inventory,
    fleet: Fleet,
}

impl Site {
    async fn new(context: &Context, tenants: &[TenantName], modules: &[ModuleName]) -> Result<Self, Failure> {
        let source = context.source().await?;
        let inventory = source.inventory().await?;
        let mut details: Vec<TenantDetails> = Vec::new();
        for name in tenants {
            let tenant = source.tenant(name).await?;
            if details.iter().all(|known| known.tenant.id != tenant.tenant.id) {
                details.push(tenant);
            }
        }
        if tenants.is_empty() {
            details = source.tenants().await?;
        }
        let selection = Selection { named: !tenants.is_empty(), modules: modules.to_vec() };
        let fleet = Fleet::assemble(&inventory, &details, &selection)?;
        if fleet.unready > 0 {
            let unready = fleet.unready;
            remark(format_args!(
                "{unready} places are not provisioned yet; finish them with: pgtenant tenant reconcile"
            ));
        }
        if fleet.is_empty() {
            remark("There is nothing to migrate: no place of these tenants has a module with migrations.");
        }
        Ok(Self { source, inventory, fleet })
    }
}

async fn apply(context: &Context, flags: RunFlags) -> Result<(), Failure> {
    let site = Site::new(context, &flags.select.tenants, &flags.select.modules).await?;
    let canary = match &flags.canary {
        Some(name) => Some(canary(&site, name).await?),
        None => None,
    };
    let apply = ApplyConfig {
        lock_timeout: flags.lock_timeout,
        attempts_max: flags.attempts,
        any_order: flags.select.any_order,
    };
    let (jobs, wave, failures_max) = (flags.select.jobs, flags.wave, flags.max_failures);
    let config = RunConfig { jobs, apply, canary, wave, failures_max, baseline: None };
    if flags.dry_run { dry_run(context, site, &config).await } else { go(context, site, &config).await }
}

async fn baseline(context: &Context, flags: BaselineFlags) -> Result<(), Failure> {
    let site = Site::new(context, &flags.tenants, &[flags.module]).await?;
    go(context, site, &RunConfig { baseline: Some(flags.number), ..RunConfig::default() }).await
}

/// Does what is to be done at each place, and says what became of it.
async fn go(context: &Context, site: Site, config: &RunConfig) -> Result<(), Failure> {
    let total = site.fleet.len();
    let mut progress = Progress::new(total, "places");
    let halt = Halt::default();
    let signals = tokio::spawn(heed_signals(halt.clone()));
    let mut observe = |outcome: &Outcome| progress.advance(failure_line(outcome));
    let report = migrate(&site.inventory, site.fleet, config, site.source.registry(), &halt, &mut observe).await;
    signals.abort();
    let took = progress.finish();
    print_results(context, &report.outcomes)?;
    remark(summary(&report, took));
    match (report.failures(), report.untried, report.unrecorded) {
        (0, 0, None) => Ok(()),
        (0, 0, Some(error)) => Err(anyhow::Error::new(error)
            .context("all is done, but the registry could not be told; run the same again")
            .into()),
        (failed, 0, _) => Err(anyhow!("{failed} of {total} places failed").into()),
        (failed, untried, _) => Err(anyhow!("{failed} of {total} places failed, {untried} were not tried").into()),
    }
}

async fn canary(site: &Site, name: &TenantName) -> Result<Slug, Failure> {
    let slug = site.source.tenant(name).await?.tenant.slug;
    if site.fleet.has(&slug) {
        return Ok(slug);
    }
    Err(anyhow!("canary {slug} has no place among those that are to be migrated").into())
}

/// SIGINT or SIGTERM ends the run after the places that have been begun, a second one at once.
async fn heed_signals(halt: Halt) {
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        return remark("signals cannot be heeded: they end the run at once");
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if halt.is_asked() {
            // The servers roll back what was begun; the next run takes it up.
            std::process::exit(INTERRUPTED);
        }
        halt.ask();
        remark("Ending after the places that have been begun; once more (Ctrl-C) ends at once.");
    }
}

/// A shell's exit code for a command that SIGINT ended.
const INTERRUPTED: i32 = 130;

async fn dry_run(context: &Context, site: Site, config: &RunConfig) -> Result<(), Failure> {
    let mut outcomes = look(site, config).await;
    // What a run would say.
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.problem.is_none() && !outcome.pending.is_empty()) {
        outcome.applied = outcome.pending.len();
        outcome.version = outcome.version.max(outcome.latest);
    }
    if context.json() {
        print_results(context, &outcomes)?;
    } else {
        let mut rows = table(["tenant", "module", "would be", "files"]);
        for outcome in worst_last(&outcomes) {
            let files = (!outcome.pending.is_empty()).then(|| outcome.pending.join(", "));
            let result = outcome.result().to_owned();
            rows.add_row([tenants(outcome), outcome.module.to_string(), result, or_dash(files)]);
        }
        print_table(&rows, &outcomes)?;
    }
    remark("Nothing was changed.");
    match outcomes.iter().filter(|outcome| outcome.problem.is_some()).count() {
        0 => Ok(()),
        failed => Err(anyhow!("{failed} of {} places would fail", outcomes.len()).into()),
    }
}

async fn look(site: Site, config: &RunConfig) -> Vec<Outcome> {
    let mut progress = Progress::new(site.fleet.len(), "places");
    let outcomes = examine(&site.inventory, site.fleet, config, &mut |_| progress.advance(None)).await;
    progress.finish();
    outcomes
}

async fn status(context: &Context, flags: StatusFlags) -> Result<(), Failure> {
    let site = Site::new(context, &flags.select.tenants, &flags.select.modules).await?;
    let apply = ApplyConfig { any_order: flags.select.any_order, ..ApplyConfig::default() };
    let config = RunConfig { jobs: flags.select.jobs, apply, ..RunConfig::default() };
    let outcomes = look(site, &config).await;
    if context.json() {
        let view = |tenant, outcome| StatusView::new(tenant, outcome);
        print_json(&by_tenant(&outcomes, view))?;
    } else {
        let mut rows = table(["tenant", "module", "status", "version", "latest", "pending"]);
        for outcome in worst_last(&outcomes) {
            rows.add_row([
                tenants(outcome),
                outcome.module.to_string(),
                outcome.standing().as_str().to_owned(),
                or_dash(outcome.version),
                or_dash(outcome.latest),
                outcome.pending.len().to_string(),
            ]);
        }
        print_table(&rows, &outcomes)?;
    }
    let current = outcomes.iter().filter(|outcome| outcome.standing() == Standing::Current).count();
    let others = outcomes.len() - current;
    if flags.check && others > 0 {
        return Err(anyhow!("{others} of {} places are not current", outcomes.len()).into());
    }
    remark(format_args!("{current} of {} places are current.", outcomes.len()));
    Ok(())
}

impl<'a> ResultView<'a> {
    fn new(tenant: &'a str, outcome: &'a Outcome) -> Self {
        Self {
            tenant,
            module: outcome.module.as_str(),
            status: outcome.result(),
            applied: outcome.applied,
            duration_ms: u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX),
            version: outcome.version,
            error: outcome.problem.as_ref().map(Problem::text),
        }
    }
}

impl<'a> StatusView<'a> {
    fn new(tenant: &'a str, outcome: &'a Outcome) -> Self {
        Self {
            tenant,
            module: outcome.module.as_str(),
            status: outcome.standing().as_str(),
            version: outcome.version,
            latest: outcome.latest,
            pending: &outcome.pending,
            error: outcome.problem.as_ref().map(Problem::text),
        }
    }
}

/// A view of each place of each tenant, in the order of tenants and modules.
fn by_tenant<'a, V>(outcomes: &'a [Outcome], view: impl Fn(&'a str, &'a Outcome) -> V) -> Vec<V> {
    let mut places: Vec<(&str, &Outcome)> = Vec::new();
    for outcome in outcomes {
        places.extend(outcome.tenants.iter().map(|whose| (whose.slug.as_str(), outcome)));
    }
    places.sort_by_key(|(tenant, outcome)| (*tenant, outcome.module.as_str()));
    places.into_iter().map(|(tenant, outcome)| view(tenant, outcome)).collect()
}

/// Places as a person reads them: what is wrong stands last, where the eye is.
fn worst_last(outcomes: &[Outcome]) -> Vec<&Outcome> {
    let mut sorted: Vec<_> = outcomes.iter().collect();
    let slug = |outcome: &Outcome| outcome.tenants.first().map(|whose| whose.slug.clone());
    sorted.sort_by_cached_key(|outcome| (outcome.problem.is_some(), slug(outcome), outcome.module.to_string()));
    sorted
}

fn print_results(context: &Context, outcomes: &[Outcome]) -> anyhow::Result<()> {
    if context.json() {
        return print_json(&by_tenant(outcomes, ResultView::new));
    }
    let mut rows = table(["tenant", "module", "status", "applied", "version", "took"]);
    for outcome in worst_last(outcomes) {
        rows.add_row([
            tenants(outcome),
            outcome.module.to_string(),
            outcome.result().to_owned(),
            outcome.applied.to_string(),
            or_dash(outcome.version),
            format!("{} ms", outcome.duration.as_millis()),
        ]);
    }
    print_table(&rows, outcomes)
}

/// A table, and under it what is wrong: too long for a column.
fn print_table(rows: &Table, outcomes: &[Outcome]) -> anyhow::Result<()> {
    print(rows)?;
    worst_last(outcomes).into_iter().filter_map(failure_line).try_for_each(print)
}

/// Whose place it is: some of the names where it is many tenants'.
fn tenants(outcome: &Outcome) -> String {
    let slugs: Vec<_> = outcome.tenants.iter().take(SLUGS_SHOWN).map(|whose| whose.slug.as_str()).collect();
    match outcome.tenants.len().saturating_sub(SLUGS_SHOWN) {
        0 => slugs.join(", "),
        more => format!("{} and {more} more", slugs.join(", ")),
    }
}

fn failure_line(outcome: &Outcome) -> Option<String> {
    let problem = outcome.problem.as_ref()?;
    Some(format!("{}, {}: {}", tenants(outcome), outcome.module, problem.text()))
}

fn summary(report: &Report, took: Duration) -> String {
    let applied = report.outcomes.iter().filter(|outcome| outcome.result() == "applied").count();
    let (tried, failed) = (report.outcomes.len(), report.failures());
    let current = tried - applied - failed;
    let seconds = took.as_secs_f64();
    let rate = per_second(tried, took);
    let stopped = match report.stopped {
        None => "",
        Some(Stopped::Canary) => "; the canary failed, and nothing else was tried",
        Some(Stopped::Wave) => "; a wave had failures and was the last",
        Some(Stopped::Failures) => "; more failed than may",
        Some(Stopped::Asked) => "; interrupted",
    };
    format!(
        "{applied} applied, {current} current, {failed} failed in {seconds:.1} s ({rate:.0} places a second){stopped}"
    )
}
