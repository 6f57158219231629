//! Compares pgtenant with PgBouncer, with no proxy at all and, where asked to, with other proxies, on this machine, in interleaved rounds:
//! `make bench`.

mod chart;
mod copy;
mod cpu;
mod owner;
mod peers;
mod pgbench;
mod place;
mod report;
mod supervised;
mod target;
mod targets;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;

use place::Place;
use report::{Report, Run};
use target::Target;
use targets::Targets;

/// Throughput, latency and proxy CPU of pgtenant beside PgBouncer, direct PostgreSQL and other proxies.
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub(crate) struct Options {
    /// Rounds; each runs every workload once with every target, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Length of one run.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Only workloads with this in their name (as in the table), such as "simple" or "copy".
    #[arg(long, default_value = "")]
    only: String,
    /// Connections of each proxy's pool.
    #[arg(long, default_value_t = 70)]
    pool_size: u32,
    /// pgbench's scale: 100,000 rows each.
    #[arg(long, default_value_t = 5)]
    scale: u32,
    /// PgBouncer's program, for one that is newer than the system's.
    #[arg(long, default_value = "/usr/sbin/pgbouncer")]
    pgbouncer: PathBuf,
    /// Odyssey's program, which then takes part.
    #[arg(long)]
    odyssey: Option<PathBuf>,
    /// HAProxy's program, which then takes part as a relay that knows nothing of what it carries.
    #[arg(long)]
    haproxy: Option<PathBuf>,
    /// Writes the table there as well.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Draws the proxies' CPU beside PgBouncer's there, as SVG.
    #[arg(long)]
    chart: Option<PathBuf>,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// `pgbench -S` with a protocol of its `-M`, by a number of clients.
    Select(&'static str, u32),
    /// pgbench's own transaction, like TPC-B's, by a number of clients.
    Update(u32),
    /// Twenty selects in one pipeline, by a number of clients.
    Pipeline(u32),
    /// `COPY … TO STDOUT` of 20,000 rows, by a number of clients.
    Copy(u32),
    /// `pgbench -S -C`: a connection for each query, by a number of clients.
    Connect(u32),
}

impl Workload {
    const ALL: [Self; 13] = [
        Self::Select("simple", 1),
        Self::Select("simple", 16),
        Self::Select("simple", 64),
        Self::Select("extended", 1),
        Self::Select("extended", 16),
        Self::Select("extended", 64),
        Self::Select("prepared", 1),
        Self::Select("prepared", 16),
        Self::Select("prepared", 64),
        Self::Update(16),
        Self::Pipeline(16),
        Self::Copy(4),
        Self::Connect(8),
    ];

    fn name(self) -> String {
        match self {
            Self::Select(mode, clients) => format!("select {mode}, {clients}"),
            Self::Update(clients) => format!("TPC-B-like, {clients}"),
            Self::Pipeline(clients) => format!("pipelines of 20, {clients}"),
            Self::Copy(clients) => format!("copy out, {clients}"),
            Self::Connect(clients) => format!("connect and query, {clients}"),
        }
    }

    /// Named statements need a proxy that carries them from one server connection to another.
    fn is_prepared(self) -> bool {
        matches!(self, Self::Select("prepared", _))
    }

    /// Whether its clients parse the same unnamed statements again and again.
    fn is_parsed(self) -> bool {
        matches!(self, Self::Select("extended", _) | Self::Pipeline(_))
    }

    /// Whether a target takes part.
    fn is_for(self, target: &Target) -> bool {
        (!self.is_prepared() || target.carries_statements) && (self.is_parsed() || !target.keeps_statements)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let workloads: Vec<_> = Workload::ALL.into_iter().filter(|w| w.name().contains(&options.only)).collect();
    if workloads.is_empty() {
        let names = Workload::ALL.map(Workload::name).join("; ");
        bail!("no workload is named like {:?}; there are: {names}", options.only);
    }
    let place = Place::make(&options).await?;
    let targets = Targets::start(&place, &options).await?;
    let mut report = Report::new(&place, &targets, &options);
    for round in 0..options.rounds {
        for workload in &workloads {
            for target in in_turn(targets.all(), round) {
                if !workload.is_for(target) {
                    continue;
                }
                let run = run(&place, target, *workload, options.seconds).await?;
                eprintln!("round {} of {}: {:24} {:10} {run}", round + 1, options.rounds, workload.name(), target.name);
                report.add(round, *workload, target.name, run);
            }
        }
    }
    println!("{report}");
    if let Some(path) = &options.markdown {
        std::fs::write(path, report.to_string()).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &options.chart {
        std::fs::write(path, chart::draw(&report)).with_context(|| format!("write {}", path.display()))?;
    }
    match report.errors() {
        0 => Ok(()),
        errors => bail!("{errors} errors; see above"),
    }
}

/// Everyone goes first equally often: the first of a round meets the coldest caches.
fn in_turn(targets: &[Target], round: u32) -> impl Iterator<Item = &Target> {
    let first = round as usize % targets.len().max(1);
    targets[first..].iter().chain(&targets[..first])
}

async fn run(place: &Place, target: &Target, workload: Workload, seconds: u32) -> Result<Run> {
    let before = (target.cpu()?, place.server()?);
    let measured = match workload {
        Workload::Select(mode, clients) => pgbench::run(place, target, &["-S", "-M", mode], clients, seconds)?,
        Workload::Update(clients) => pgbench::run(place, target, &[], clients, seconds)?,
        Workload::Pipeline(clients) => {
            let script = place.pipeline.display().to_string();
            pgbench::run(place, target, &["-M", "extended", "-f", &script], clients, seconds)?
        }
        Workload::Connect(clients) => pgbench::run(place, target, &["-S", "-C"], clients, seconds)?,
        Workload::Copy(clients) => copy::run(place, target, clients, seconds).await?,
    };
    let used = target.cpu()?.zip(before.0).map(|(after, before)| after - before);
    if target.connects_each {
        place.wait_for_children(before.1.children).await?;
    }
    let server_cpu = place.server()?.cpu.saturating_sub(before.1.cpu);
    Ok(Run { cpu: used, server_cpu, ..measured })
}
