//! Settings of a session: taken back, left behind, and poisoned by programs that mean no harm.

use super::check::Check;
use super::error::Error;
use super::scene::{Probe, Scene, Way};
use super::verdict::{Verdict, Wall};

pub(super) const CHECKS: &[Check] = &[
    Check::new("RESET ALL and DISCARD ALL", Wall::Everywhere, |scene| Box::pin(resets(scene))),
    Check::new("SET LOCAL, ROLLBACK and savepoints", Wall::Everywhere, |scene| Box::pin(rollbacks(scene))),
    Check::new("pg_dump's empty search_path", Wall::Everywhere, |scene| Box::pin(pg_dump(scene))),
    Check::new("settings left behind", Wall::Everywhere, |scene| Box::pin(left_behind(scene))),
];

const RESETS: [&[&str]; 8] = [
    &["RESET ALL"],
    &["DISCARD ALL"],
    &["RESET search_path"],
    &["SET search_path TO DEFAULT"],
    &["SET search_path = pg_catalog", "RESET ALL"],
    &["BEGIN", "RESET ALL", "COMMIT"],
    &["BEGIN", "RESET ALL", "ROLLBACK"],
    &["BEGIN", "SAVEPOINT a", "RESET ALL", "ROLLBACK TO a", "COMMIT"],
];

/// A client that resets everything is back in its own place, and nowhere else.
async fn resets(scene: &Scene) -> Result<Verdict, Error> {
    for statements in RESETS {
        for (probe, other) in [(&scene.thief, &scene.victim), (&scene.victim, &scene.thief)] {
            if let Some(amiss) = after(scene, probe, other, statements).await? {
                return Ok(Verdict::Leaks(amiss));
            }
        }
    }
    Ok(Verdict::Holds(format!("{} ways", RESETS.len())))
}

/// What is set and taken back leaves the client, and the next one, where they were.
const ROLLBACKS: [&[&str]; 4] = [
    &["BEGIN", "SET search_path = pg_catalog", "ROLLBACK"],
    &["BEGIN", "SET LOCAL search_path = pg_catalog", "COMMIT"],
    &["BEGIN", "SAVEPOINT a", "SET search_path = pg_catalog", "ROLLBACK TO a", "COMMIT"],
    &["BEGIN; SET search_path = pg_catalog; SELECT 1/0", "ROLLBACK"],
];

async fn rollbacks(scene: &Scene) -> Result<Verdict, Error> {
    for statements in ROLLBACKS {
        if let Some(amiss) = after(scene, &scene.victim, &scene.thief, statements).await? {
            return Ok(Verdict::Leaks(amiss));
        }
    }
    Ok(Verdict::Holds(format!("{} ways", ROLLBACKS.len())))
}

/// What is amiss for a client after its statements, or for another tenant's that comes after it.
async fn after(scene: &Scene, probe: &Probe, other: &Probe, statements: &[&str]) -> Result<Option<String>, Error> {
    let words = statements.join("; ");
    let mut session = scene.narrow_session(probe).await?;
    for statement in statements {
        session.say(statement).await;
    }
    let own = scene.amiss(&mut session, probe).await;
    session.leave().await;
    if let Some(amiss) = own {
        return Ok(Some(format!("after {words} it {amiss}")));
    }
    let mut next = scene.narrow_session(other).await?;
    let others = scene.amiss(&mut next, other).await;
    next.leave().await;
    Ok(others.map(|amiss| format!("after another's {words} a tenant {amiss}")))
}

/// `pg_dump` empties the path and goes; whoever comes next, of whichever tenant, has its own again.
async fn pg_dump(scene: &Scene) -> Result<Verdict, Error> {
    for next in [&scene.thief, &scene.victim] {
        let mut dump = scene.victim(Way::Narrow).await?;
        dump.must("empty the path", "SELECT pg_catalog.set_config('search_path', '', false)").await?;
        let emptied = dump.value("ask for the path", "SHOW search_path").await?;
        dump.leave().await;
        let mut session = scene.narrow_session(next).await?;
        if let Some(amiss) = scene.amiss(&mut session, next).await {
            return Ok(Verdict::Leaks(format!("with search_path {emptied:?} left, the next client {amiss}")));
        }
        session.leave().await;
    }
    Ok(Verdict::Holds("the next client has its own path".to_owned()))
}

const LEFT: [&str; 7] = [
    "SET TimeZone = 'Pacific/Chatham'",
    "SET DateStyle = 'SQL, DMY'",
    "SET default_transaction_read_only = on",
    "SET statement_timeout = '3h'",
    "SET row_security = on",
    "SET work_mem = '3MB'",
    "SET search_path = pg_catalog",
];

async fn left_behind(scene: &Scene) -> Result<Verdict, Error> {
    const SHOWN: &str = "SELECT concat_ws('|', current_setting('TimeZone'), current_setting('DateStyle'), \
        current_setting('default_transaction_read_only'), current_setting('statement_timeout'), current_setting('work_mem'), \
        current_setting('verify.secret', true))";
    let mut plain = scene.thief(Way::Narrow).await?;
    let before = plain.value("ask for settings", SHOWN).await?;
    plain.leave().await;
    for vanishes in [false, true] {
        let mut session = scene.victim(Way::Narrow).await?;
        for statement in LEFT {
            session.must("change a setting", statement).await?;
        }
        session.must("set a parameter", &format!("SET verify.secret = '{}'", scene.victim.secret)).await?;
        if vanishes {
            session.vanish().await
        } else {
            session.leave().await
        }
        let mut next = scene.thief(Way::Narrow).await?;
        let now = next.value("ask for settings", SHOWN).await?;
        let amiss = scene.amiss(&mut next, &scene.thief).await;
        next.leave().await;
        if now.trim_end_matches('|') != before.trim_end_matches('|') {
            return Ok(Verdict::Leaks(format!("finds {now} instead of {before}")));
        }
        if let Some(amiss) = amiss {
            return Ok(Verdict::Leaks(format!("the next client {amiss}")));
        }
    }
    Ok(Verdict::Holds(format!("{} settings", LEFT.len() + 1)))
}
