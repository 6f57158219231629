//! What a client leaves on its connection, however it goes, and the next tenant's client finds there.

use super::check::Check;
use super::error::Error;
use super::scene::{Scene, Way};
use super::session::Session;
use super::turns::Turns;
use super::verdict::{Verdict, Wall};

pub(super) const CHECKS: &[Check] = &[
    Check::new("two tenants in turn", Wall::Everywhere, |scene| Box::pin(turns(scene))),
    Check::new("temporary tables left behind", Wall::Everywhere, |scene| Box::pin(left(scene, TEMPORARY))),
    Check::new("prepared statements left behind", Wall::Everywhere, |scene| Box::pin(left(scene, PREPARED))),
    Check::new("cursors left behind", Wall::Everywhere, |scene| Box::pin(left(scene, CURSORS))),
    Check::new("sequence state left behind", Wall::Everywhere, |scene| Box::pin(left(scene, SEQUENCES))),
    Check::new("state made inside a function", Wall::Everywhere, |scene| Box::pin(left(scene, FUNCTIONS))),
    Check::new("LISTEN left behind", Wall::Everywhere, |scene| Box::pin(listening(scene))),
    Check::new("advisory locks left behind", Wall::Everywhere, |scene| Box::pin(locks(scene))),
    Check::new("errors in the first message of a turn", Wall::Everywhere, |scene| Box::pin(errors(scene))),
    Check::new("a client that vanishes in a transaction", Wall::Everywhere, |scene| Box::pin(vanishing(scene))),
    Check::new("COPY broken off", Wall::Everywhere, |scene| Box::pin(copies(scene))),
];

/// What is done, and where the next client looks for it. The secret must not show; what is looked for must not be there.
struct Leaving {
    deeds: &'static [&'static str],
    /// These fail for the next client, or show nothing.
    nothing: &'static [&'static str],
}

const TEMPORARY: Leaving = Leaving {
    deeds: &[
        "CREATE TEMP TABLE {table} AS SELECT '{secret}'::text AS note",
        "CREATE TEMP TABLE leftover AS SELECT '{secret}'::text AS note",
        "CREATE TEMP SEQUENCE leftover_numbers",
        "CREATE FUNCTION pg_temp.leftover() RETURNS text LANGUAGE sql AS 'SELECT ''{secret}''::text'",
    ],
    nothing: &[
        "SELECT note FROM pg_temp.{table}",
        "SELECT note FROM leftover",
        "SELECT nextval('leftover_numbers')",
        "SELECT pg_temp.leftover()",
        "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    ],
};
const PREPARED: Leaving = Leaving {
    deeds: &["PREPARE leftover AS SELECT '{secret}'::text", "EXECUTE leftover"],
    nothing: &["EXECUTE leftover", "SELECT name FROM pg_prepared_statements"],
};
const CURSORS: Leaving = Leaving {
    deeds: &["DECLARE leftover CURSOR WITH HOLD FOR SELECT note FROM {table}"],
    nothing: &["FETCH ALL FROM leftover", "SELECT name FROM pg_cursors WHERE is_holdable"],
};
const SEQUENCES: Leaving =
    Leaving { deeds: &["SELECT nextval('{table}_id_seq')", "SELECT setseed(0.5)"], nothing: &["SELECT lastval()"] };
const FUNCTIONS: Leaving = Leaving {
    deeds: &["SELECT {table}_leave('{secret}')"],
    nothing: &[
        "SELECT note FROM leftover",
        "EXECUTE leftover",
        "SELECT name FROM pg_prepared_statements",
        "SELECT pg_listening_channels()",
        "SELECT lastval()",
        "SELECT nullif(current_setting('verify.leftover', true), '') AS x WHERE current_setting('verify.leftover', true) <> ''",
        "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    ],
};

async fn left(scene: &Scene, leaving: Leaving) -> Result<Verdict, Error> {
    for vanishes in [false, true] {
        let mut session = scene.victim(Way::Narrow).await?;
        for deed in leaving.deeds {
            let deed = scene.aimed(deed).replace("{secret}", &scene.victim.secret);
            session.must("leave something behind", &deed).await?;
        }
        if vanishes {
            session.vanish().await
        } else {
            session.leave().await
        }
        let mut next = scene.thief(Way::Narrow).await?;
        for look in leaving.nothing {
            let said = next.say(&scene.aimed(look)).await;
            if said.code.is_none() && !said.rows.is_empty() || said.text.contains(&scene.victim.secret) {
                return Ok(Verdict::Leaks(format!("{look} finds {}", said.summary())));
            }
        }
        if let Some(amiss) = scene.amiss(&mut next, &scene.thief).await {
            return Ok(Verdict::Leaks(format!("the next client {amiss}")));
        }
        next.leave().await;
    }
    Ok(Verdict::Holds("gone with its client".to_owned()))
}

/// Both tenants in turn, by both protocols.
async fn turns(scene: &Scene) -> Result<Verdict, Error> {
    const ROUNDS: usize = 5;
    const PID: &str = "SELECT pg_backend_pid()";
    let mut turns = Turns::new(scene);
    let mut pids = Vec::new();
    for _ in 0..ROUNDS {
        for probe in [&scene.victim, &scene.thief] {
            let session = turns.of(probe).await?;
            if let Some(amiss) = scene.amiss(session, probe).await {
                return Ok(Verdict::Leaks(format!("in its turn a tenant {amiss}")));
            }
            if let Some(amiss) = by_extended(scene, session, &probe.secret).await? {
                return Ok(Verdict::Leaks(amiss));
            }
            pids.push(session.value("ask for the process", PID).await?);
        }
    }
    pids.sort_unstable();
    pids.dedup();
    if !scene.has_common_connections() && pids.len() < 2 {
        return Ok(Verdict::Leaks("one server connection serves both".to_owned()));
    }
    Ok(Verdict::Holds(format!("{ROUNDS} rounds over {} server connections", pids.len())))
}

async fn by_extended(scene: &Scene, session: &Session, secret: &str) -> Result<Option<String>, Error> {
    let doing = "read one's own table by the extended protocol";
    let rows = session.client.query_typed(&scene.notes(), &[]).await.map_err(Error::postgres(doing))?;
    let notes: Vec<String> =
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(Error::postgres(doing))?;
    Ok((notes != [secret])
        .then(|| format!("by the extended protocol a tenant reads {} rows, and not just its own", notes.len())))
}

/// A registration to listen ends with its client: nothing that is sent later reaches the next one.
async fn listening(scene: &Scene) -> Result<Verdict, Error> {
    let channel = format!("{}_left", scene.table);
    for vanishes in [false, true] {
        let mut session = scene.victim(Way::Narrow).await?;
        session.must("listen", &format!("LISTEN {channel}")).await?;
        if vanishes {
            session.vanish().await
        } else {
            session.leave().await
        }
        let mut next = scene.thief(Way::Narrow).await?;
        if !next.must("ask what one listens to", "SELECT pg_listening_channels()").await?.rows.is_empty() {
            return Ok(Verdict::Leaks("the next client listens to another's channel".to_owned()));
        }
        let mut sender = scene.victim(Way::Wide).await?;
        sender.must("notify", &format!("NOTIFY {channel}, '{}'", scene.victim.secret)).await?;
        if next.was_notified(&scene.victim.secret).await {
            return Ok(Verdict::Leaks("the next client is notified for another".to_owned()));
        }
        sender.leave().await;
        next.leave().await;
    }
    Ok(Verdict::Holds("gone with its client".to_owned()))
}

/// A lock of the session ends with its client, too, however that goes.
async fn locks(scene: &Scene) -> Result<Verdict, Error> {
    const ATTEMPTS: u32 = 500;
    let key = scene.lock(6);
    let mut other = scene.victim(Way::Wide).await?;
    for vanishes in [false, true] {
        let mut session = scene.victim(Way::Narrow).await?;
        session.must("take a lock", &format!("SELECT pg_advisory_lock({key})")).await?;
        if vanishes {
            session.vanish().await
        } else {
            session.leave().await
        }
        let mut next = scene.thief(Way::Narrow).await?;
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
        if next.value("ask for locks", held).await? != "0" {
            return Ok(Verdict::Leaks("the next client holds another's lock".to_owned()));
        }
        next.leave().await;
        // With connections of their own, nobody waits for the lock's end before this.
        let free = format!("SELECT pg_try_advisory_xact_lock({key})");
        let mut attempt = 0;
        while other.value("try the lock", &free).await? != "t" {
            attempt += 1;
            if attempt == ATTEMPTS {
                return Ok(Verdict::Leaks("the lock outlives its client".to_owned()));
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    other.leave().await;
    Ok(Verdict::Holds("gone with its client".to_owned()))
}

const WRONG: [&[&str]; 5] = [
    &["SELECT 1/0"],
    &["SELECT note FROM nowhere"],
    &["SELECT 1; SELECT 1/0; SELECT 2"],
    &["BEGIN; SELECT 1/0", "COMMIT"],
    &["nonsense"],
];

/// An error in what comes with the tenant's context takes neither of the two elsewhere.
async fn errors(scene: &Scene) -> Result<Verdict, Error> {
    let mut turns = Turns::new(scene);
    for statements in WRONG {
        let session = turns.of(&scene.victim).await?;
        for statement in statements {
            session.say(statement).await;
        }
        for probe in [&scene.thief, &scene.victim] {
            let session = turns.of(probe).await?;
            if let Some(amiss) = scene.amiss(session, probe).await {
                return Ok(Verdict::Leaks(format!("after {} a tenant {amiss}", statements[0])));
            }
        }
    }
    Ok(Verdict::Holds(format!("{} errors", WRONG.len())))
}

/// A transaction whose client is gone is gone, too, and nobody goes on with it.
async fn vanishing(scene: &Scene) -> Result<Verdict, Error> {
    let insert = format!("INSERT INTO {} (note) VALUES ('never committed')", scene.table);
    let ways: [&[&str]; 4] = [
        &["BEGIN", &insert],
        &["BEGIN", &insert, "SELECT 1/0"],
        &["BEGIN", "SAVEPOINT a", &insert],
        &["BEGIN; SET LOCAL search_path = pg_catalog"],
    ];
    for statements in ways {
        let mut session = scene.victim(Way::Narrow).await?;
        for statement in statements {
            session.say(statement).await;
        }
        session.vanish().await;
        if let Some(leak) = nothing_came_of_it(scene).await? {
            return Ok(Verdict::Leaks(leak));
        }
    }
    // In the middle of a statement, with its answer to come.
    let session = scene.victim(Way::Narrow).await?;
    let running =
        tokio::time::timeout(std::time::Duration::from_millis(50), session.client.simple_query("SELECT pg_sleep(60)"));
    if running.await.is_ok() {
        return Err(Error::Absent("a statement that takes its time"));
    }
    session.vanish().await;
    Ok(match nothing_came_of_it(scene).await? {
        Some(leak) => Verdict::Leaks(leak),
        None => Verdict::Holds(format!("{} ways", ways.len() + 1)),
    })
}

async fn nothing_came_of_it(scene: &Scene) -> Result<Option<String>, Error> {
    for probe in [&scene.thief, &scene.victim] {
        let mut next = scene.narrow_session(probe).await?;
        if let Some(amiss) = scene.amiss(&mut next, probe).await {
            return Ok(Some(format!("the next client {amiss}")));
        }
        next.leave().await;
    }
    Ok(None)
}

/// A client that goes in the middle of a copy leaves neither rows nor a connection on which answers are owed.
async fn copies(scene: &Scene) -> Result<Verdict, Error> {
    let out = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 20000)) TO STDOUT";
    let doing = "begin to copy";
    let mut session = scene.victim(Way::Narrow).await?;
    session.begin_copy_out(out).await.map_err(Error::postgres(doing))?;
    session.vanish().await;
    if let Some(leak) = nothing_came_of_it(scene).await? {
        return Ok(Verdict::Leaks(leak));
    }
    // PostgreSQL refuses to copy into a table with row policies.
    if scene.has_common_tables() {
        return Ok(Verdict::Holds("out".to_owned()));
    }
    let mut session = scene.victim(Way::Narrow).await?;
    let into = format!("COPY {} (note) FROM STDIN", scene.table);
    session.begin_copy_in(&into, "never committed\n").await.map_err(Error::postgres(doing))?;
    session.vanish().await;
    Ok(match nothing_came_of_it(scene).await? {
        Some(leak) => Verdict::Leaks(leak),
        None => Verdict::Holds("in and out".to_owned()),
    })
}
