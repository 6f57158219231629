//! Peers that are there and do nothing: clients that take no bytes, or few, and server processes that answer nothing.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::frozen::Frozen;
use crate::support::wire::{failure, query};
use crate::support::{Child, Watch, Wire, proxy, until, world};

/// A time-out that is soon over.
const SHORT: Duration = Duration::from_millis(300);
/// More than all buffers between a server and a client have room for.
const LARGE: &str = "SELECT repeat('x', 1000000) FROM generate_series(1, 32)";
/// The bytes of its values.
const LARGE_BYTES: usize = 32_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_gives_its_connection_back_with_its_transaction_undone() {
    let world = world().await;
    let tenant = world.tenant_of("takes_nothing", &["crm"]).await;
    let watch = Watch::over(&tenant, "crm").await;
    let running = proxy(world, |config| {
        config.pool.size = 1;
        config.timeouts.client_write = SHORT;
    })
    .await;
    for before in ["SELECT 1", "BEGIN; UPDATE notes SET note = 'lost'"] {
        let mut silent = Wire::login(running.address, &tenant, "crm").await;
        silent.query(before).await;
        silent.send(&query(LARGE)).await;
        // The only connection is the silent one's until that is ended.
        watch.until_backends(1, "wait_event = 'ClientWrite'").await;
        let mut next = Wire::login(running.address, &tenant, "crm").await;
        assert_eq!(next.ask("SELECT note FROM notes FOR UPDATE NOWAIT").await, tenant.slug, "after {before}");
        drop(next);
        until("nobody is left", async || running.proxy.clients() == 0).await;
        drop(silent);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_process_that_answers_nothing_holds_up_its_own_client_only() {
    let world = world().await;
    let tenant = world.tenant_of("answers_nothing", &["crm"]).await;
    let watch = Watch::over(&tenant, "crm").await;
    let running = proxy(world, |config| {
        config.pool.size = 2;
        config.timeouts.statement = SHORT;
    })
    .await;
    let mut held = Wire::login(running.address, &tenant, "crm").await;
    held.send(&query("SELECT pg_backend_pid() FROM pg_sleep(1000)")).await;
    watch.until_backends(1, "wait_event = 'PgSleep'").await;
    let frozen = Frozen::one(watch.backends("wait_event = 'PgSleep'").await[0]);
    for _ in 0..3 {
        let mut other = Wire::login(running.address, &tenant, "crm").await;
        assert_eq!(other.ask("SELECT note FROM notes").await, tenant.slug);
    }
    // Its time-out is over long before the other's statement is: the cancel request finds nobody.
    let mut other = Wire::login(running.address, &tenant, "crm").await;
    assert_eq!(failure(&other.query("SELECT pg_sleep(1000)").await).0, "57014");
    drop(frozen);
    assert_eq!(failure(&held.until_ready().await).0, "57014");
    assert_eq!(held.ask("SELECT note FROM notes").await, tenant.slug, "it goes on");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_whose_server_process_answers_nothing_is_found_and_replaced() {
    let world = world().await;
    let tenant = world.tenant_of("idle_frozen", &["crm"]).await;
    let watch = Watch::over(&tenant, "crm").await;
    let mut child = Child::serve(world, "[pool]\nsize = 1\nhealth_check_interval = \"100ms\"\n").await;
    let mut client = Wire::login(child.address, &tenant, "crm").await;
    let process: i32 = client.ask("SELECT pg_backend_pid()").await.parse().unwrap();
    let frozen = Frozen::one(process);
    child.logged("idle server connection is dead").await;
    assert_ne!(client.ask("SELECT pg_backend_pid()").await, process.to_string());
    drop(frozen);
    watch.until_backends(0, &format!("pid = {process}")).await;
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_read_slowly_cost_no_more_memory_than_their_buffers() {
    const CLIENTS: usize = 24;
    /// For each: both of a session's buffers, what its engine has received, and its share of everything else.
    const KIB_EACH: u64 = 1024;
    let world = world().await;
    let tenant = world.tenant_of("reads_slowly", &["crm"]).await;
    let watch = Watch::over(&tenant, "crm").await;
    let child = Child::serve(world, &format!("[pool]\nsize = {CLIENTS}\n")).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Wire::login(child.address, &tenant, "crm").await);
    }
    let before = child.memory_kib_max();
    for client in &mut clients {
        client.send(&query(LARGE)).await;
    }
    watch.until_backends(CLIENTS, "wait_event = 'ClientWrite'").await;
    // A little of each answer, in turns: every one of them moves, and none is read to its end.
    let mut piece = vec![0; 1 << 16];
    for _ in 0..16 {
        for client in &mut clients {
            client.stream.read_exact(&mut piece).await.unwrap();
        }
    }
    watch.until_backends(CLIENTS, "wait_event = 'ClientWrite'").await;
    let grown = child.memory_kib_max() - before;
    assert!(grown < KIB_EACH * CLIENTS as u64, "{grown} KiB for {CLIENTS} answers of {LARGE_BYTES} bytes");
    // Who goes on reading gets all of it.
    let mut last = clients.pop().unwrap();
    let mut read = 16 << 16;
    while read < LARGE_BYTES {
        let more = last.stream.read(&mut piece).await.unwrap();
        assert!(more > 0, "ended after {read} bytes");
        read += more;
    }
    drop((last, clients));
    watch.until_backends(0, "state <> 'idle'").await;
    assert!(child.stop().await.success());
}
