//! Hearing of changes: neither a lost notification nor a late commit goes unheard.

use std::time::{Duration, Instant};

use pgtenant::registry::{Change, Registry};
use pgtenant::tenant::{Alias, TenantId, TenantStatus};
use tokio::sync::broadcast::Receiver;

use super::fixture::{add, furnished, hear, name, open, server, suspend};

async fn heard(changes: &mut Receiver<Change>, id: TenantId) {
    hear(changes, Change::Tenant(id)).await;
}

async fn status(registry: &Registry, slug: &str) -> TenantStatus {
    registry.lookup(&name(slug)).await.unwrap().unwrap().status
}

#[tokio::test]
async fn a_suspension_is_heard_by_every_instance_within_a_second() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let (one, two) = (open(&database).await, open(&database).await);
    for registry in [&one, &two] {
        assert_eq!(status(registry, "acme").await, TenantStatus::Active);
    }
    let mut told = [one.changes(), two.changes()];
    suspend(&admin, acme.id).await;
    let since = Instant::now();
    for (registry, changes) in [&one, &two].into_iter().zip(&mut told) {
        heard(changes, acme.id).await;
        assert_eq!(registry.current(acme.id).await.unwrap().unwrap().status, TenantStatus::Suspended);
        assert_eq!(status(registry, "acme").await, TenantStatus::Suspended);
    }
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_change_whose_notification_is_lost_is_heard_by_the_poll() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let registry = open(&database).await;
    assert_eq!(status(&registry, "acme").await, TenantStatus::Active);
    let mut changes = registry.changes();
    let silently = format!(
        "BEGIN; SET LOCAL session_replication_role = replica;
         UPDATE pgtenant.tenants SET status = 'suspended', generation = nextval('pgtenant.generations');
         INSERT INTO pgtenant.changes (tenant_id) VALUES ('{}'); COMMIT",
        acme.id
    );
    let since = Instant::now();
    database.admin.batch_execute(&silently).await.unwrap();
    heard(&mut changes, acme.id).await;
    assert_eq!(status(&registry, "acme").await, TenantStatus::Suspended);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_change_that_commits_after_later_ones_is_heard() {
    let (database, admin) = furnished().await;
    let (acme, beta) = (add(&admin, "acme").await, add(&admin, "beta").await);
    let registry = open(&database).await;
    let mut changes = registry.changes();
    let late = "BEGIN; UPDATE pgtenant.tenants SET status = 'suspended' WHERE slug = 'acme'";
    database.admin.batch_execute(late).await.unwrap();
    // Has a higher number and does not wait for the one before.
    suspend(&admin, beta.id).await;
    heard(&mut changes, beta.id).await;
    assert_eq!(status(&registry, "acme").await, TenantStatus::Active);
    database.admin.batch_execute("COMMIT").await.unwrap();
    heard(&mut changes, acme.id).await;
    assert_eq!(status(&registry, "acme").await, TenantStatus::Suspended);
}

#[tokio::test]
async fn an_unknown_name_that_becomes_known_is_found_at_once() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let registry = open(&database).await;
    let mut changes = registry.changes();
    assert_eq!(registry.lookup(&name("beta")).await.unwrap(), None);
    assert_eq!(registry.lookup(&name("krn:new")).await.unwrap(), None);
    let beta = add(&admin, "beta").await;
    heard(&mut changes, beta.id).await;
    assert!(registry.lookup(&name("beta")).await.unwrap().is_some());
    let tx = admin.begin().await.unwrap();
    tx.add_alias(acme.id, &Alias::parse("krn:new").unwrap()).await.unwrap();
    tx.commit().await.unwrap();
    heard(&mut changes, acme.id).await;
    assert_eq!(registry.lookup(&name("krn:new")).await.unwrap().unwrap().id, acme.id);
}

#[tokio::test]
async fn a_tenant_made_again_under_its_old_name_is_another() {
    let (database, admin) = furnished().await;
    let first = add(&admin, "acme").await;
    let registry = open(&database).await;
    let mut changes = registry.changes();
    let old = registry.lookup(&name("acme")).await.unwrap().unwrap();
    let tx = admin.begin().await.unwrap();
    assert!(tx.delete_tenant(first.id).await.unwrap());
    tx.commit().await.unwrap();
    heard(&mut changes, first.id).await;
    assert_eq!(registry.lookup(&name("acme")).await.unwrap(), None);
    let second = add(&admin, "acme").await;
    heard(&mut changes, second.id).await;
    let new = registry.lookup(&name("acme")).await.unwrap().unwrap();
    assert_eq!(new.id, second.id);
    assert!(new.generation > old.generation);
    assert_eq!(registry.current(first.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_moves_concerns_everyone() {
    let (database, admin) = furnished().await;
    add(&admin, "acme").await;
    let registry = open(&database).await;
    registry.lookup(&name("acme")).await.unwrap().unwrap();
    let mut changes = registry.changes();
    let mut moved = server("main");
    moved.host = "elsewhere".to_owned();
    let tx = admin.begin().await.unwrap();
    tx.put_server(&moved).await.unwrap();
    tx.commit().await.unwrap();
    hear(&mut changes, Change::Everything).await;
    let found = registry.lookup(&name("acme")).await.unwrap().unwrap();
    assert_eq!(found.placements[0].server.host, "elsewhere");
}

#[tokio::test]
async fn the_change_table_does_not_grow_for_ever() {
    let (database, admin) = furnished().await;
    let acme = add(&admin, "acme").await;
    let old = "INSERT INTO pgtenant.changes (tenant_id, at) SELECT NULL, now() - interval '2 days'
        FROM generate_series(1, 20)";
    database.admin.batch_execute(old).await.unwrap();
    let count = "SELECT count(*) FROM pgtenant.changes WHERE at < now() - interval '1 day'";
    // The newer rows before them are not in the way for ever either; here they are made old.
    database.admin.batch_execute("UPDATE pgtenant.changes SET at = now() - interval '2 days'").await.unwrap();
    for _ in 0..20 {
        suspend(&admin, acme.id).await;
    }
    assert_eq!(database.admin.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 0);
}
