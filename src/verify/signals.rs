//! Signals between sessions: cancel requests, notifications, advisory locks.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

use super::check::Check;
use super::error::Error;
use super::scene::{Scene, Way};
use super::session::Session;
use super::verdict::{Verdict, Wall};

pub(super) const CHECKS: &[Check] = &[
    Check::new("one's own cancel key, against another", Wall::Everywhere, |scene| Box::pin(cancel_keys(scene))),
    Check::new("a cancel key guessed", Wall::Everywhere, |scene| Box::pin(guessed_keys(scene))),
    Check::new("pg_cancel_backend and pg_terminate_backend", Wall::Hostile, |scene| Box::pin(backends(scene))),
    Check::new("the names of NOTIFY channels", Wall::Databases, |scene| Box::pin(channels(scene))),
    Check::new("the numbers of advisory locks", Wall::Databases, |scene| Box::pin(numbers(scene))),
];

/// CancelRequest's code (protocol, 55.7).
const CANCEL_CODE: u32 = (1234 << 16) | 5678;
/// How often it is looked whether a statement has begun to wait.
const LOOKS: u32 = 1000;

/// A statement of the victim's that waits for a lock, and who holds it.
struct Waiting {
    holder: Session,
    running: tokio::task::JoinHandle<super::session::Said>,
    pid: String,
}

impl Waiting {
    /// Begins it on a way of the proxy; it is known to wait on the server.
    async fn begin(scene: &Scene, way: Way, turn: u32) -> Result<Self, Error> {
        let key = scene.lock(turn);
        let mut holder = scene.victim(Way::Wide).await?;
        holder.must("take a lock", &format!("BEGIN; SELECT pg_advisory_xact_lock({key})")).await?;
        let mut waiting = scene.victim(way).await?;
        let lock = format!("BEGIN; SELECT pg_advisory_xact_lock({key}); COMMIT; SELECT 'done'");
        let running = tokio::spawn(async move { waiting.say(&lock).await });
        let look = format!(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
             AND classid = {turn} AND objid = {} AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            scene.number
        );
        for _ in 0..LOOKS {
            if let Some(pid) = holder.must("look who waits", &look).await?.value() {
                let pid = pid.to_owned();
                return Ok(Self { holder, running, pid });
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Err(Error::Absent("a statement that waits"))
    }

    /// Lets it go on: whether it was left alone.
    async fn ends(mut self) -> Result<bool, Error> {
        self.holder.must("give up a lock", "COMMIT").await?;
        self.holder.leave().await;
        let said = self.running.await.map_err(|_| Error::Absent("the end of a statement"))?;
        Ok(said.code.is_none() && said.text.contains("done"))
    }
}

/// The key that a client was given cancels nobody else's statement, not even on a connection that served it a moment ago.
async fn cancel_keys(scene: &Scene) -> Result<Verdict, Error> {
    for (way, turn) in [(Way::Narrow, 1), (Way::Wide, 2)] {
        let mut thief = scene.thief(way).await?;
        thief.must("use a connection", "SELECT 1").await?;
        let key = thief.cancel_token();
        // The victim has to have the thief's connection.
        let stays = if way == Way::Narrow && scene.is_one_at_a_time() {
            thief.leave().await;
            None
        } else {
            Some(thief)
        };
        let waiting = Waiting::begin(scene, way, turn).await?;
        key.cancel_query(NoTls).await.map_err(Error::postgres("ask for a cancel"))?;
        if !waiting.ends().await? {
            return Ok(Verdict::Leaks("the other tenant's statement was cancelled".to_owned()));
        }
        if let Some(thief) = stays {
            thief.leave().await;
        }
    }
    Ok(Verdict::Holds("left alone".to_owned()))
}

/// The server's own process id, which everybody can see in pg_locks, with a secret that is no one's.
async fn guessed_keys(scene: &Scene) -> Result<Verdict, Error> {
    let waiting = Waiting::begin(scene, Way::Wide, 3).await?;
    let pid: u32 = waiting.pid.parse().map_err(|_| Error::Absent("a process id"))?;
    for secret in [&[0; 4][..], &[255; 4], &pid.to_be_bytes(), &[0; 32], &[]] {
        request_cancel(scene, pid, secret).await?;
    }
    Ok(match waiting.ends().await? {
        true => Verdict::Holds("5 tried".to_owned()),
        false => Verdict::Leaks("the other tenant's statement was cancelled".to_owned()),
    })
}

async fn request_cancel(scene: &Scene, pid: u32, secret: &[u8]) -> Result<(), Error> {
    let doing = "ask for a cancel";
    let mut stream = TcpStream::connect(scene.address(Way::Wide)).await.map_err(Error::io(doing))?;
    let length = u32::try_from(12 + secret.len()).unwrap_or(u32::MAX);
    let request = [&length.to_be_bytes()[..], &CANCEL_CODE.to_be_bytes(), &pid.to_be_bytes(), secret].concat();
    stream.write_all(&request).await.map_err(Error::io(doing))?;
    // Closed without a word, or cut off.
    let _ = stream.read(&mut [0; 1]).await;
    Ok(())
}

/// PostgreSQL lets a role signal the sessions of the same role.
async fn backends(scene: &Scene) -> Result<Verdict, Error> {
    let waiting = Waiting::begin(scene, Way::Wide, 4).await?;
    let mut thief = scene.thief(Way::Wide).await?;
    let mut done = Vec::new();
    for function in ["pg_cancel_backend", "pg_terminate_backend"] {
        let said = thief.say(&format!("SELECT {function}({})", waiting.pid)).await;
        if said.value() == Some("t") {
            done.push(function);
            break;
        }
    }
    let unharmed = waiting.ends().await?;
    Ok(match done.first() {
        Some(function) => Verdict::Leaks(format!("{function} reaches the other tenant's session")),
        None if unharmed => Verdict::Holds("2 refused".to_owned()),
        None => Verdict::Leaks("the other tenant's statement was cancelled".to_owned()),
    })
}

async fn channels(scene: &Scene) -> Result<Verdict, Error> {
    let channel = format!("{}_news", scene.table);
    let mut thief = scene.thief(Way::Wide).await?;
    thief.must("listen", &format!("LISTEN {channel}")).await?;
    let mut victim = scene.victim(Way::Wide).await?;
    victim.must("notify", &format!("NOTIFY {channel}, '{}'", scene.victim.secret)).await?;
    let heard = thief.was_notified(&scene.victim.secret).await;
    thief.leave().await;
    victim.leave().await;
    Ok(match heard {
        true => Verdict::Leaks("a notification of the other tenant is heard".to_owned()),
        false => Verdict::Holds("not heard".to_owned()),
    })
}

async fn numbers(scene: &Scene) -> Result<Verdict, Error> {
    let key = scene.lock(5);
    let mut victim = scene.victim(Way::Wide).await?;
    victim.must("take a lock", &format!("BEGIN; SELECT pg_advisory_xact_lock({key})")).await?;
    let mut thief = scene.thief(Way::Wide).await?;
    let free = thief.value("try the lock", &format!("SELECT pg_try_advisory_xact_lock({key})")).await?;
    victim.must("give up a lock", "COMMIT").await?;
    Ok(match free.as_str() {
        "t" => Verdict::Holds("apart".to_owned()),
        _ => Verdict::Leaks("a lock of the other tenant keeps it waiting".to_owned()),
    })
}
