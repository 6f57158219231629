//! Memory of an idle client that has logged in and has run a query.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client;
use crate::load;
use crate::place::Place;
use crate::report::{Found, Row};
use crate::target::{ENGINES, Memory, Target};

/// Those that were there before: with them everything is in place that does not grow with clients.
const WARM: usize = 100;
/// Clients that log in at one time.
const TOGETHER: usize = 16;
/// How long clients have been idle when memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);

/// For half of the clients and for all of them, through either engine and PgBouncer.
pub(crate) fn measure(place: &Place, pgbouncer: &Path, clients: usize) -> Result<Found> {
    let steps = [clients / 2, clients];
    let beside = grown(Target::pgbouncer(place, pgbouncer, "")?, &steps)?;
    let mut found = Found::default();
    for engine in ENGINES {
        let memory = grown(Target::with_engine(place, engine)?, &steps)?;
        for ((count, own), (_, other)) in memory.into_iter().zip(&beside) {
            let what = |kind: &str| format!("idle client of {count}, KiB {kind}, {}", engine.name());
            let resident = Row::alone(what("resident"), own.resident, 2, "2");
            found.rows.push(resident.beside("PgBouncer", other.resident, 2));
            let proportional = Row::alone(what("proportional"), own.proportional, 2, "2");
            found.rows.push(proportional.beside("PgBouncer", other.proportional, 2));
        }
    }
    Ok(found)
}

/// What each client costs once there are so many.
fn grown(target: Target, steps: &[usize]) -> Result<Vec<(usize, Memory)>> {
    let query = client::query("SELECT abalance FROM pgbench_accounts WHERE aid = 7");
    let log_in = |count| load::log_in(&target.login, count, TOGETHER, &query).with_context(|| target.said());
    let _warm = log_in(WARM)?;
    thread::sleep(SETTLE);
    let before = target.memory()?;
    let (mut clients, mut memory) = (Vec::new(), Vec::new());
    for step in steps {
        clients.extend(log_in(step - clients.len())?);
        thread::sleep(SETTLE);
        memory.push((*step, target.memory()?.since(before, *step)));
        eprintln!("{}: {step} clients", target.name);
    }
    Ok(memory)
}
