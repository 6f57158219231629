//! Prepared plans, which PostgreSQL keeps by connection and not by tenant.

use std::collections::HashMap;

use super::check::Check;
use super::error::Error;
use super::scene::{Probe, Scene};
use super::session::Session;
use super::turns::Turns;
use super::verdict::{Verdict, Wall};

pub(super) const CHECKS: &[Check] = &[
    Check::new("prepared plans, tables being different", Wall::Everywhere, |scene| Box::pin(named(scene))),
    Check::new("plans inside functions", Wall::Everywhere, |scene| Box::pin(inside_functions(scene))),
];

/// Enough for PostgreSQL to settle on a generic plan (plancache.c).
const ROUNDS: usize = 7;

/// The same text, prepared by both under names that are the same, too: each gets its own rows, and its own columns.
async fn named(scene: &Scene) -> Result<Verdict, Error> {
    let text = format!("SELECT * FROM {} WHERE note <> $1::text", scene.table);
    let doing = "prepare a statement";
    let mut turns = Turns::new(scene);
    let mut statements = HashMap::new();
    for round in 0..ROUNDS {
        for probe in [&scene.victim, &scene.thief] {
            let session = turns.of(probe).await?;
            // Prepared by every session once, also where each turn is one of its own.
            let statement = match statements.remove(&probe.id).filter(|_| !scene.is_one_at_a_time()) {
                Some(statement) => statement,
                None => session.client.prepare(&text).await.map_err(Error::postgres(doing))?,
            };
            let rows = match session.client.query(&statement, &[&""]).await {
                Ok(rows) => rows,
                Err(error) => return Ok(Verdict::Leaks(format!("in round {round} another's plan breaks it: {error}"))),
            };
            let notes: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get("note")).collect();
            if notes.map_err(Error::postgres(doing))? != [probe.secret.as_str()] {
                return Ok(Verdict::Leaks(format!("in round {round} a tenant does not read just its own row")));
            }
            statements.insert(&probe.id, statement);
        }
    }
    Ok(Verdict::Holds(format!("{ROUNDS} rounds")))
}

/// A function's plans are kept for its connection: what it reads follows the tenant all the same.
async fn inside_functions(scene: &Scene) -> Result<Verdict, Error> {
    let call = format!("SELECT {}_read()", scene.table);
    let mut turns = Turns::new(scene);
    for _ in 0..ROUNDS {
        for probe in [&scene.victim, &scene.thief] {
            if let Some(leak) = reads(turns.of(probe).await?, &call, probe).await? {
                return Ok(Verdict::Leaks(leak));
            }
        }
    }
    Ok(Verdict::Holds(format!("{ROUNDS} rounds")))
}

async fn reads(session: &mut Session, call: &str, probe: &Probe) -> Result<Option<String>, Error> {
    let read = session.value("call a function", call).await?;
    Ok((read != probe.secret).then(|| "a function reads another's rows".to_owned()))
}
