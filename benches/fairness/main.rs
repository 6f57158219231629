//! What a crowd of one tenant does to another's latency on a server that has only so many connections for both, through pgtenant and
//! through PgBouncer: `make bench-fairness`.

#[path = "../compare/cpu.rs"]
#[expect(dead_code, reason = "the other benchmark asks for the server's CPU time, too")]
mod cpu;
mod load;
#[path = "../compare/owner.rs"]
mod owner;
mod place;
#[path = "../compare/supervised.rs"]
mod supervised;
mod target;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;

use load::{Load, Measured};
use place::{Place, Tenant};
use target::Target;

/// Latency of a quiet tenant alone and beside a crowd.
#[derive(Debug, Parser)]
#[command(name = "fairness")]
pub(crate) struct Options {
    /// Clients of the crowd's tenant.
    #[arg(long, default_value_t = 500)]
    crowd: usize,
    /// Clients of the quiet tenant.
    #[arg(long, default_value_t = 5)]
    quiet: usize,
    /// Connections that the server has for both.
    #[arg(long, default_value_t = 20)]
    connections: u32,
    /// Length of each measurement, after one second of settling.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much more a quiet tenant may wait beside a crowd.
const RATIO_MAX: f64 = 2.0;
/// What clients do: keep a connection for some time without using a processor, so that connections are what is scarce; and what keeps a processor busy.
const QUERIES: [(&str, &str); 2] = [("10 ms each", "SELECT pg_sleep(0.01)"), ("as fast as it goes", "SELECT 1")];

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let place = Place::make(options.connections).await?;
    let targets = Target::start_all(&place, &options).await?;
    println!(
        "{} clients of one tenant beside {} of another, {} connections for both; PostgreSQL {}, PgBouncer {}",
        options.crowd,
        options.quiet,
        options.connections,
        place.version,
        target::pgbouncer_version()?
    );
    let mut worst: f64 = 0.0;
    for (at, (what, sql)) in QUERIES.into_iter().enumerate() {
        println!("\n{what}: {sql}");
        println!(
            "{:38} {:>15} {:>19} {:>7} {:>11} {:>10}",
            "", "alone p50 p99", "beside p50 p99", "ratio", "crowd tx/s", "proxy CPU"
        );
        for target in &targets {
            let (alone, beside, crowd, cpu) = measure(target, &options, sql).await?;
            let ratio = beside.p99.as_secs_f64() / alone.p99.as_secs_f64();
            println!(
                "{:38} {:>6.1} {:>5.1} ms {:>8.1} {:>7.1} ms {ratio:>7.2} {:>11.0} {:>9.0}%",
                target.name,
                millis(alone.p50),
                millis(alone.p99),
                millis(beside.p50),
                millis(beside.p99),
                crowd.rate,
                cpu.as_secs_f64() * 100.0 / options.seconds as f64,
            );
            if at == 0 && target.is_pgtenant {
                worst = ratio;
            }
        }
    }
    ensure!(worst <= RATIO_MAX, "the crowd raised the other tenant's p99 {worst:.2} times");
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The quiet tenant alone, the same beside the crowd, the crowd, and the proxy's CPU time meanwhile.
async fn measure(
    target: &Target,
    options: &Options,
    sql: &'static str,
) -> Result<(Measured, Measured, Measured, Duration)> {
    let (settle, length) = (Duration::from_secs(1), Duration::from_secs(options.seconds));
    let quiet = Load::start(target, Tenant::Quiet, options.quiet, sql).await?;
    tokio::time::sleep(settle).await;
    let alone = quiet.measure(length).await;
    let crowd = Load::start(target, Tenant::Crowd, options.crowd, sql).await?;
    tokio::time::sleep(settle).await;
    let before = target.cpu()?;
    let (beside, crowds) = tokio::join!(quiet.measure(length), crowd.measure(length));
    let cpu = target.cpu()?.saturating_sub(before);
    crowd.stop().await?;
    quiet.stop().await?;
    Ok((alone, beside, crowds, cpu))
}
