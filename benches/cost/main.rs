//! What a client, a tenant, a transaction and TLS cost, in memory, CPU time, allocations and system calls: `make bench-cost`.

mod allocations;
mod calls;
mod client;
mod clients;
#[path = "../compare/cpu.rs"]
mod cpu;
mod crowd;
mod load;
#[path = "../compare/owner.rs"]
mod owner;
#[path = "../compare/place.rs"]
#[expect(dead_code, reason = "the other benchmark has pipelines, too")]
mod place;
mod report;
#[path = "../compare/supervised.rs"]
mod supervised;
mod switch;
mod tap;
mod target;
mod tenants;
mod tls;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use allocations::Counting;
use place::Place;
use report::{Found, Report};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Files that are open beside the clients' sockets, at most.
const FILES_BESIDE: usize = 1_000;

/// Costs of clients, tenants, transactions and TLS, beside PgBouncer's where it has the like.
#[derive(Debug, Parser)]
#[command(name = "cost")]
pub(crate) struct Options {
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Idle clients.
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
    /// Rounds of what is compared by CPU time.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// pgbench's scale: 100,000 rows each.
    #[arg(long, default_value_t = 1)]
    scale: u32,
    /// PgBouncer's program, for one that is newer than the system's.
    #[arg(long, default_value = "/usr/sbin/pgbouncer")]
    pgbouncer: PathBuf,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Memory of an idle client.
    Clients,
    /// Memory of a tenant, known or used.
    Tenants,
    /// A transaction after another tenant's on the same connection.
    Switch,
    /// Queries and logins under TLS.
    Tls,
    /// Allocations of a transaction.
    Allocations,
    /// System calls of a transaction.
    Calls,
}

impl Part {
    async fn measure(self, place: &Place, options: &Options) -> Result<Found> {
        let pgbouncer = &options.pgbouncer;
        match self {
            Self::Clients => clients::measure(place, pgbouncer, options.clients),
            Self::Tenants => tenants::measure(place).await,
            Self::Switch => switch::measure(place, options.rounds).await,
            Self::Tls => tls::measure(place, pgbouncer, options.rounds),
            Self::Allocations => allocations::measure(place).await,
            Self::Calls => calls::measure(place, pgbouncer),
        }
    }
}

fn main() -> Result<()> {
    allocations::leave_out();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(allocations::leave_out)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(measure(&Options::parse()))
}

async fn measure(options: &Options) -> Result<()> {
    pgtenant::net::tls::install_provider();
    allow_files(options.clients + FILES_BESIDE)?;
    let place = Place::make(options).await?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let title = format!(
        "pgtenant {}, {}, PostgreSQL {}, {cores} cores",
        env!("CARGO_PKG_VERSION"),
        version(options)?,
        place.version
    );
    let mut report = Report { title, found: Found::default() };
    for part in Part::value_variants() {
        if options.only.is_empty() || options.only.contains(part) {
            report.add(part.measure(&place, options).await.with_context(|| format!("measure {part:?}"))?);
        }
    }
    println!("{report}");
    Ok(())
}

/// PgBouncer's name and version.
fn version(options: &Options) -> Result<String> {
    let program = options.pgbouncer.display();
    let output = Command::new(&options.pgbouncer).arg("--version").output();
    let output = output.with_context(|| format!("run {program} (Debian: apt-get install pgbouncer)"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// For this process and the proxies, which it starts.
fn allow_files(count: usize) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(most >= count as u64, "no more than {most} files may be open, {count} are needed (ulimit -n)");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the limit of open files")
}
