//! A look at the server from outside: what runs in a tenant's database, and locks to hold things up with.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::postgres::cluster;
use super::world::Tenant;

/// Longest wait until something is so.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until something is so; fails when it does not come.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "still not so: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// A superuser in a tenant's database.
pub(crate) struct Watch {
    pub(crate) admin: Client,
}

impl Watch {
    /// In the database of a tenant's module.
    pub(crate) async fn over(tenant: &Tenant, module: &str) -> Self {
        let database = tenant.module(module)["database"].as_str().expect("a database");
        Self { admin: cluster().await.connect(database).await.expect("connect") }
    }

    /// The process ids of the tenant's sessions of which this SQL condition on `pg_stat_activity` holds.
    pub(crate) async fn backends(&self, condition: &str) -> Vec<i32> {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' \
             AND usename <> 'postgres' AND ({condition}) ORDER BY backend_start"
        );
        self.admin.query(&sql, &[]).await.expect("look").iter().map(|row| row.get(0)).collect()
    }

    /// Waits until the condition holds of exactly so many of the tenant's sessions.
    pub(crate) async fn until_backends(&self, count: usize, condition: &str) {
        until(&format!("{count} with {condition}"), async || self.backends(condition).await.len() == count).await;
    }

    /// Waits until so many sessions wait for an advisory lock.
    pub(crate) async fn until_blocked(&self, count: usize) {
        self.until_backends(count, "wait_event_type = 'Lock'").await;
    }

    /// Holds an advisory lock until it is given up.
    pub(crate) async fn lock(&self, number: i64) {
        self.admin.execute("SELECT pg_advisory_lock($1)", &[&number]).await.expect("lock");
    }

    /// Gives it up.
    pub(crate) async fn unlock(&self, number: i64) {
        let unlocked = self.admin.query_one("SELECT pg_advisory_unlock($1)", &[&number]).await.expect("unlock");
        assert!(unlocked.get::<_, bool>(0));
    }

    /// How many notes are there like this.
    pub(crate) async fn notes(&self, like: &str) -> i64 {
        let row = self.admin.query_one("SELECT count(*) FROM notes WHERE note LIKE $1", &[&like]).await.expect("count");
        row.get(0)
    }
}
