//! Health of idle server connections: a connection whose server is gone without a word is found by asking.

use std::rc::Rc;
use std::time::Duration;

use super::pools::Pools;
use super::query::simple;

/// How long the answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks each idle connection that was neither used nor asked for this long; closes those that do not answer. One at a time a
/// pool, so that a check takes no connections from clients that could have used them.
pub async fn check_idle(pools: Rc<Pools>, interval: Duration) {
    for (_, pool) in pools.list() {
        while let Some(mut server) = pool.take_unchecked(interval) {
            match simple(&mut server.stream, "", ANSWER_TIMEOUT).await {
                Ok(outcome) => {
                    server.note_parameters(outcome.parameters);
                    server.checkin_checked();
                }
                Err(error) => {
                    tracing::info!(endpoint = %server.endpoint(), %error, "idle server connection is dead");
                }
            }
        }
    }
}
