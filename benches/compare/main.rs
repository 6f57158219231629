//! Compares pgtenant with PgBouncer and with no proxy at all, on this machine, in interleaved rounds: `make bench`.

mod copy;
mod pgbench;
mod place;
mod report;
mod supervised;
mod target;

use anyhow::{Result, bail};
use clap::Parser;

use place::Place;
use report::{Report, Run};
use target::{Target, Targets};

/// Throughput, latency and proxy CPU of pgtenant beside PgBouncer and direct PostgreSQL.
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
    /// Connections of either proxy's pool.
    #[arg(long, default_value_t = 70)]
    pool_size: u32,
    /// pgbench's scale: 100,000 rows each.
    #[arg(long, default_value_t = 5)]
    scale: u32,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// `pgbench -S` with a protocol of its `-M`, by a number of clients.
    Select(&'static str, u32),
    /// `COPY … TO STDOUT` of 20,000 rows, by a number of clients.
    Copy(u32),
    /// `pgbench -S -C`: a connection for each query, by a number of clients.
    Connect(u32),
}

impl Workload {
    const ALL: [Self; 11] = [
        Self::Select("simple", 1),
        Self::Select("simple", 16),
        Self::Select("simple", 64),
        Self::Select("extended", 1),
        Self::Select("extended", 16),
        Self::Select("extended", 64),
        Self::Select("prepared", 1),
        Self::Select("prepared", 16),
        Self::Select("prepared", 64),
        Self::Copy(4),
        Self::Connect(8),
    ];

    fn name(self) -> String {
        match self {
            Self::Select(mode, clients) => format!("select {mode}, {clients}"),
            Self::Copy(clients) => format!("copy out, {clients}"),
            Self::Connect(clients) => format!("connect and query, {clients}"),
        }
    }

    /// Named statements need a proxy that carries them from one server connection to another.
    fn is_prepared(self) -> bool {
        matches!(self, Self::Select("prepared", _))
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
                if workload.is_prepared() && !target.carries_statements {
                    continue;
                }
                let run = run(&place, target, *workload, options.seconds).await?;
                eprintln!("round {} of {}: {:24} {:10} {run}", round + 1, options.rounds, workload.name(), target.name);
                report.add(round, *workload, target.name, run);
            }
        }
    }
    println!("{report}");
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
    let before = target.cpu()?;
    let measured = match workload {
        Workload::Select(mode, clients) => pgbench::run(place, target, &["-S", "-M", mode], clients, seconds)?,
        Workload::Connect(clients) => pgbench::run(place, target, &["-S", "-C"], clients, seconds)?,
        Workload::Copy(clients) => copy::run(place, target, clients, seconds).await?,
    };
    let used = target.cpu()?.zip(before).map(|(after, before)| after - before);
    Ok(Run { cpu: used, ..measured })
}
