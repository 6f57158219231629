//! The registry database is down: the known are served, the unknown refused, nobody is anybody else.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use pgtenant::registry::{Change, Config, Registry};
use pgtenant::tenant::{Alias, TenantStatus};

use super::fixture::{add, furnished, hear, name, open_with};
use crate::support::{self, Database};

/// Nobody gets in any more, and those who are in are thrown out.
async fn take_down(database: &Database) {
    switch(database, false).await;
    let admin = support::cluster().await.connect("postgres").await.unwrap();
    let out = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1";
    while admin.query_one(out, &[&database.name]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::task::yield_now().await;
    }
}

async fn switch(database: &Database, on: bool) {
    let admin = support::cluster().await.connect("postgres").await.unwrap();
    admin.batch_execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS {on}", database.name)).await.unwrap();
}

fn config(database: &Database, snapshot: &Path) -> Config {
    Config {
        url: Some(database.url.clone()),
        snapshot_file: Some(snapshot.to_owned()),
        timeout: Duration::from_secs(2),
        ..Config::default()
    }
}

/// Waits until the snapshot says this of a tenant.
async fn saved(path: &Path, text: &str) -> String {
    let read = async {
        loop {
            match std::fs::read_to_string(path) {
                Ok(saved) if saved.contains(text) => return saved,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("no snapshot was written")
}

#[tokio::test]
async fn known_tenants_are_served_and_unknown_ones_refused_until_it_is_back() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    add(&admin, "beta").await;
    let tx = admin.begin().await.unwrap();
    tx.add_alias(acme.id, &Alias::parse("krn:acme").unwrap()).await.unwrap();
    tx.commit().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let registry = open_with(&config(&database, &directory.path().join("snapshot"))).await;
    registry.lookup(&name("acme")).await.unwrap().unwrap();
    assert_eq!(registry.lookup(&name("nobody")).await.unwrap(), None);
    let mut changes = registry.changes();
    take_down(&database).await;

    // What is still remembered as fresh is served as such for at most a second; then the outage shows.
    let outage = async { while registry.lookup(&name("nobody")).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), outage).await.expect("unknown names stay unknown");
    for any in ["acme", "krn:acme", &acme.id.to_string()] {
        assert_eq!(registry.lookup(&name(any)).await.unwrap().unwrap().id, acme.id);
    }
    for unknown in ["beta", "nobody", "acme2"] {
        assert!(registry.lookup(&name(unknown)).await.is_err(), "{unknown}");
    }

    switch(&database, true).await;
    hear(&mut changes, Change::Everything).await;
    let answer = async { while registry.lookup(&name("beta")).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap();
    assert_eq!(registry.lookup(&name("nobody")).await.unwrap(), None);
}

#[tokio::test]
async fn a_restart_while_it_is_down_serves_from_the_snapshot() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    add(&admin, "beta").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("snapshot");
    let settings = config(&database, &path);
    let registry = open_with(&settings).await;
    let mut changes = registry.changes();
    registry.lookup(&name("acme")).await.unwrap().unwrap();
    saved(&path, "\"active\"").await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // A change of a known tenant is in it without anybody asking.
    super::fixture::suspend(&admin, acme.id).await;
    hear(&mut changes, Change::Tenant(acme.id)).await;
    let text = saved(&path, "\"suspended\"").await;
    assert!(!text.contains("beta"));
    drop(registry);
    take_down(&database).await;

    let again = Registry::open(&settings).await.unwrap();
    assert_eq!(again.lookup(&name("acme")).await.unwrap().unwrap().status, TenantStatus::Suspended);
    assert!(again.lookup(&name("beta")).await.is_err());
    // Too old, of another registry, or damaged: as if there were none.
    let too_old = Config { stale_max: Duration::from_nanos(1), ..settings.clone() };
    assert!(Registry::open(&too_old).await.unwrap().lookup(&name("acme")).await.is_err());
    let elsewhere = Config { url: Some(format!("{}_other", database.url)), ..settings.clone() };
    assert!(Registry::open(&elsewhere).await.unwrap().lookup(&name("acme")).await.is_err());
    std::fs::write(&path, "{").unwrap();
    assert!(Registry::open(&settings).await.unwrap().lookup(&name("acme")).await.is_err());
}

#[tokio::test]
async fn a_tenant_known_to_have_changed_is_not_served_from_before_the_change() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let directory = tempfile::tempdir().unwrap();
    let registry = open_with(&config(&database, &directory.path().join("snapshot"))).await;
    registry.lookup(&name("acme")).await.unwrap().unwrap();
    let mut changes = registry.changes();
    // The change is heard of; reading the tenant again fails, for its rows do not read as one.
    let spoil = "ALTER TABLE pgtenant.tenants DROP CONSTRAINT tenants_slug_check;
        UPDATE pgtenant.tenants SET slug = 'NOT A SLUG'";
    database.admin.batch_execute(spoil).await.unwrap();
    hear(&mut changes, Change::Tenant(acme.id)).await;
    assert!(registry.current(acme.id).await.is_err());
    assert!(registry.cached(&name("acme")).is_none());
}

#[tokio::test]
async fn opening_succeeds_where_nothing_listens() {
    let nowhere = Config {
        url: Some("postgres://nobody@127.0.0.1:1/nothing".to_owned()),
        timeout: Duration::from_secs(1),
        ..Config::default()
    };
    let registry = Registry::open(&nowhere).await.unwrap();
    assert!(registry.lookup(&name("acme")).await.is_err());
    assert!(Registry::open(&Config::default()).await.is_err());
}
