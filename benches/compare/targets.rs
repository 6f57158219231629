//! Everyone who takes part in a comparison.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::Options;
use crate::peers;
use crate::place::{Place, ROLE};
use crate::target::{Target, start_pgbouncer, start_pgtenant};

/// Everyone who takes part.
pub(crate) struct Targets {
    all: Vec<Target>,
    /// The other proxies and their versions, for the report.
    pub(crate) peers: String,
}

impl Targets {
    pub(crate) async fn start(place: &Place, options: &Options) -> Result<Self> {
        let (pgbouncer, carries_statements) = pgbouncer_version(&options.pgbouncer)?;
        let direct = place.cluster.port();
        let mut all = vec![
            Target {
                name: "postgres",
                port: direct,
                user: ROLE,
                carries_statements: true,
                keeps_statements: false,
                connects_each: true,
                process: None,
            },
            start_pgbouncer(place, options, carries_statements)?.ready().await?,
            start_pgtenant(place, options, "pgtenant", "")?.ready().await?,
            start_pgtenant(place, options, "pgtenant, epoll", "engine = 'epoll'\n")?.ready().await?,
            start_pgtenant(place, options, "pgtenant, keeping", "")?.ready().await?,
        ];
        let mut peers = format!("PgBouncer {pgbouncer}");
        if let Some(program) = &options.odyssey {
            all.push(peers::start_odyssey(place, options, program)?.ready().await?);
            write!(peers, ", Odyssey {}", peers::version(program, "--version", "odyssey ")?)?;
        }
        if let Some(program) = &options.haproxy {
            all.push(peers::start_haproxy(place, program)?.ready().await?);
            write!(peers, ", HAProxy {}", peers::version(program, "-v", "HAProxy version ")?)?;
        }
        Ok(Self { all, peers })
    }

    pub(crate) fn all(&self) -> &[Target] {
        &self.all
    }
}

/// Its version, and whether that carries prepared statements in transaction mode (1.21 was the first to).
fn pgbouncer_version(program: &Path) -> Result<(String, bool)> {
    let version =
        peers::version(program, "--version", "PgBouncer ").context("PgBouncer (Debian: apt-get install pgbouncer)")?;
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let carries = numbers.next().zip(numbers.next()) >= Some((1, 21));
    Ok((version, carries))
}
