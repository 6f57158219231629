//! Hears of changes: NOTIFY wakes it, the change table tells it what has changed.
//!
//! Each poll passes the transaction snapshot of the poll before and gets the rows of the transactions that were not visible
//! in it. So a transaction that took its number early and commits late is not missed, and, other than with numbers given out
//! under a lock, no writer ever waits for another's commit: a suspension must not wait for somebody's open transaction.
//! Snapshots compare only within one server's history, so every new connection (perhaps to a promoted standby) starts over and
//! puts everything in doubt.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};
use tracing::{info, warn};
use uuid::Uuid;

use super::connect::Target;
use super::database::Database;
use super::error::RegistryError;
use super::queries;
use crate::tenant::TenantId;

/// Waits between attempts to connect: the first, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Watches until it is aborted.
pub(super) async fn run(database: Arc<Database>, target: Target, poll_interval: Duration, patience: Duration) {
    let mut retry = RETRY_FIRST;
    let mut told = false;
    loop {
        let started = Instant::now();
        let Err(error) = watch(&database, &target, poll_interval, patience, &mut told).await;
        if !told {
            warn!(
                error = &error as &dyn std::error::Error,
                "the registry cannot be reached; known tenants are served from memory"
            );
            told = true;
        }
        // One that held for a while was a good connection: begin anew.
        retry = if started.elapsed() > RETRY_MAX { RETRY_FIRST } else { (retry * 2).min(RETRY_MAX) };
        sleep(retry.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
    }
}

/// One connection's worth of watching; ends only by failing.
async fn watch(
    database: &Arc<Database>,
    target: &Target,
    poll_interval: Duration,
    patience: Duration,
    told: &mut bool,
) -> Result<std::convert::Infallible, RegistryError> {
    let wake = Arc::new(Notify::new());
    let late = |doing| move |_| RegistryError::Timeout { doing, after: patience };
    let connecting = connect(target, Arc::clone(&wake));
    let client = timeout(patience, connecting).await.map_err(late("connect to the registry"))??;
    let listening = timeout(patience, client.batch_execute(queries::LISTEN)).await;
    listening.map_err(late("listen for changes"))?.map_err(RegistryError::query("listen for changes"))?;
    let mut snapshot = None;
    loop {
        let at = Instant::now();
        let news = timeout(patience, poll(&client, snapshot.as_deref())).await.map_err(late("read the changes"))??;
        if news.everything || snapshot.is_none() {
            database.everything_changed();
        }
        if !news.tenants.is_empty() {
            database.changed(&news.tenants);
        }
        snapshot = Some(news.snapshot);
        // As of its beginning: a change that came while it ran may not be in it.
        database.polled(at);
        if std::mem::take(told) {
            info!("the registry can be reached again");
        }
        tokio::select! {
            () = wake.notified() => {}
            () = sleep(poll_interval) => {}
        }
    }
}

/// What one poll brings.
struct News {
    snapshot: String,
    everything: bool,
    tenants: Vec<TenantId>,
}

async fn poll(client: &Client, since: Option<&str>) -> Result<News, RegistryError> {
    let doing = "read the changes";
    let row = client.query_typed_one(queries::CHANGES, &[(&since, Type::TEXT)]).await;
    let row = row.map_err(RegistryError::query(doing))?;
    let read = || {
        let ids: Vec<Uuid> = row.try_get(2)?;
        let tenants = ids.into_iter().map(TenantId).collect();
        Ok(News { snapshot: row.try_get(0)?, everything: row.try_get(1)?, tenants })
    };
    read().map_err(|source| RegistryError::Query { doing, source })
}

async fn connect(target: &Target, wake: Arc<Notify>) -> Result<Client, RegistryError> {
    let refused = RegistryError::query("connect to the registry");
    match target.tls() {
        Some(tls) => {
            let (client, connection) = target.config().connect(tls).await.map_err(refused)?;
            tokio::spawn(drive(connection, wake));
            Ok(client)
        }
        None => {
            let (client, connection) = target.config().connect(NoTls).await.map_err(refused)?;
            tokio::spawn(drive(connection, wake));
            Ok(client)
        }
    }
}

/// Moves the connection's bytes until it ends, which it does when its client is dropped. Its end wakes the watcher, too: the
/// next poll then fails at once.
async fn drive<S, T>(mut connection: Connection<S, T>, wake: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            wake.notify_one();
        }
    }
    wake.notify_one();
}
