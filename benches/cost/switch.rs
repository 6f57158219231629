//! What it costs that a shared connection goes from one tenant to another.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client::{self, Client};
use crate::crowd::{Crowd, QUESTION};
use crate::load;
use crate::place::Place;
use crate::report::{Found, Row, micros_each};
use crate::tap::Tap;
use crate::target::{Settings, Target};

/// Tenants, each with one client: far more than the pool has connections, so that none finds the one that it had before.
const TENANTS: usize = 1_000;
/// Clients that ask at one time.
const TOGETHER: usize = 16;
/// Transactions of each client in one round.
const TIMES: usize = 20;
/// Rounds until nearly every connection has served nearly every tenant, and what PostgreSQL keeps of their tables is there.
const WARMING_ROUNDS: usize = 4;
/// Transactions of each client that are looked at one by one.
const WATCHED: usize = 2;

/// What some rounds used.
#[derive(Default)]
struct Used {
    proxy: Duration,
    server: Duration,
    transactions: u64,
}

impl Used {
    fn add(&mut self, place: &Place, target: &Target, clients: &mut [Client], query: &[u8]) -> Result<()> {
        let before = (target.cpu()?, place.server()?.cpu);
        self.transactions += load::ask(clients, TOGETHER, TIMES, query).with_context(|| target.said())?;
        self.proxy += target.cpu()?.saturating_sub(before.0);
        self.server += place.server()?.cpu.saturating_sub(before.1);
        Ok(())
    }
}

/// As many clients, once of as many tenants and once of one, in turn.
pub(crate) async fn measure(place: &Place, rounds: usize) -> Result<Found> {
    let crowd = Crowd::make(place, TENANTS).await?;
    let target = start(place, &crowd, "crowd", place.cluster.port())?;
    let mut switching = clients(&target, &crowd, TENANTS, TENANTS)?;
    let mut staying = clients(&target, &crowd, TENANTS, 1)?;
    let query = client::query(QUESTION);
    load::ask(&mut staying, TOGETHER, TIMES / 10, &query).with_context(|| target.said())?;
    let mut first = Used::default();
    first.add(place, &target, &mut switching, &query)?;
    for _ in 1..WARMING_ROUNDS {
        load::ask(&mut switching, TOGETHER, TIMES, &query).with_context(|| target.said())?;
    }
    let (mut switched, mut stayed) = (Used::default(), Used::default());
    for round in 0..rounds {
        // Whoever goes second finds what the first has left, both equally often.
        if round.is_multiple_of(2) {
            switched.add(place, &target, &mut switching, &query)?;
            stayed.add(place, &target, &mut staying, &query)?;
        } else {
            stayed.add(place, &target, &mut staying, &query)?;
            switched.add(place, &target, &mut switching, &query)?;
        }
        eprintln!("tenant switch: round {} of {rounds}", round + 1);
    }
    let each_of = |used: &Used, of: fn(&Used) -> Duration| micros_each(of(used), used.transactions);
    let row = |whose: &str, of: fn(&Used) -> Duration, goal| {
        let each = |used: &Used| each_of(used, of);
        let what = format!("CPU of {whose} for a transaction after another tenant's, µs");
        Row::alone(what, each(&switched), 1, goal).beside("after its own", each(&stayed), 1)
    };
    let share = switches(&mut switching)?;
    let turns = (turns(place, &crowd, TENANTS)?, turns(place, &crowd, 1)?);
    let rows = vec![
        row("the proxy", |used| used.proxy, "ratio 1.5"),
        row("PostgreSQL", |used| used.server, "ratio 1.5"),
        row("both", |used| used.proxy + used.server, "ratio 1.5"),
        Row::alone("round trips to the server for a transaction after another tenant's", turns.0, 2, "1").beside(
            "after its own",
            turns.1,
            2,
        ),
    ];
    let notes = vec![format!(
        "{TENANTS} clients, {TOGETHER} at one time, on one pool of 20: of as many tenants {:.0} % of the transactions got another tenant's \
         connection; beside them as many clients of one tenant. Before, each client of its own tenant asked {} times, in the first {TIMES} of which PostgreSQL took {:.1} µs a \
         transaction: a connection that meets a tenant's table for the first time reads what there is to know of it. A round trip is counted whenever the proxy sends after the server has.",
        share * 100.0,
        WARMING_ROUNDS * TIMES,
        each_of(&first, |used| used.server),
    )];
    Ok(Found { rows, notes })
}

fn start(place: &Place, crowd: &Crowd, name: &str, port: u16) -> Result<Target> {
    let file = format!("{name}-tenants.toml");
    place.write(&file, &crowd.registry(place, port)?)?;
    let registry = format!("file = '{file}'");
    // What the proxy asks in the background is not what is measured.
    let pool = "role_check_interval = '0s'\n";
    Target::pgtenant(place, name, &Settings { registry: Some(&registry), pool, ..Settings::default() })
}

fn clients(target: &Target, crowd: &Crowd, count: usize, tenants: usize) -> Result<Vec<Client>> {
    let each = |n: usize| Client::login(&target.login_of(crowd.user(n % tenants)), None);
    (0..count).map(each).collect::<Result<_>>().with_context(|| target.said())
}

/// The part of transactions that got the connection on which another client's was before.
fn switches(clients: &mut [Client]) -> Result<f64> {
    let mut last = HashMap::new();
    let (mut switches, mut all) = (0_u32, 0_u32);
    let which = client::query("SELECT pg_backend_pid()");
    for _ in 0..WATCHED {
        for (number, client) in clients.iter_mut().enumerate() {
            let connection = client.value(&which)?;
            all += 1;
            switches += u32::from(last.insert(connection, number).is_some_and(|before| before != number));
        }
    }
    Ok(f64::from(switches) / f64::from(all))
}

/// Round trips to the server for each transaction of so many tenants.
fn turns(place: &Place, crowd: &Crowd, tenants: usize) -> Result<f64> {
    let query = client::query(QUESTION);
    let tap = Tap::open(place.cluster.port())?;
    let target = start(place, crowd, "tapped", tap.port)?;
    let mut clients = clients(&target, crowd, TOGETHER, tenants)?;
    load::ask(&mut clients, 1, 1, &query).with_context(|| target.said())?;
    let before = tap.turns();
    let transactions = load::ask(&mut clients, 1, TIMES, &query).with_context(|| target.said())?;
    Ok((tap.turns() - before) as f64 / transactions as f64)
}
