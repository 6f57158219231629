//! The program's end and its reload: what clients are told, what is finished, and that no backend stays.

use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use crate::support::wire::{failure, query, terminate, value};
use crate::support::{Child, Tenant, Watch, Wire, unique, world};

const SHUTDOWN: &str = "(PT-SHUTDOWN) terminating connection due to administrator command";

async fn serve(name: &str, sections: &str) -> (Tenant, Child, Watch) {
    let world = world().await;
    let tenant = world.tenant_in(&unique(name), &["crm"], &[]).await;
    let watch = Watch::over(&tenant, "crm").await;
    (tenant, Child::serve(world, sections).await, watch)
}

async fn is_told_of_the_shutdown(client: &mut Wire) {
    let told = failure(&client.until_ready().await);
    assert_eq!(told, ("57P01".to_owned(), SHUTDOWN.to_owned(), '-'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_transaction_is_finished_and_everyone_else_is_told() {
    let (tenant, mut child, watch) = serve("drain", "[pool]\nsize = 2").await;
    let mut working = Wire::login(child.address, &tenant, "crm").await;
    working.query("BEGIN; INSERT INTO notes (note) VALUES ('finished')").await;
    let mut idle = Wire::login(child.address, &tenant, "crm").await;
    let mut pinned = Wire::login(child.address, &tenant, "crm").await;
    pinned.query("CREATE TEMPORARY TABLE mine ()").await;
    let mut waiting = Wire::login(child.address, &tenant, "crm").await;
    waiting.send(&query("SELECT 1")).await;
    child.signal(Signal::SIGTERM);
    is_told_of_the_shutdown(&mut idle).await;
    is_told_of_the_shutdown(&mut pinned).await;
    is_told_of_the_shutdown(&mut waiting).await;
    assert!(TcpStream::connect(child.address).await.is_err(), "nobody new comes in");
    assert_eq!(working.ask("SELECT 'still here'").await, "still here");
    working.send(&query("COMMIT")).await;
    let answer = working.until_ready().await;
    assert_eq!(answer[0].body, b"COMMIT\0");
    is_told_of_the_shutdown(&mut working).await;
    assert!(child.ended().await.success());
    assert_eq!(watch.notes("finished").await, 1);
    watch.until_backends(0, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_runs_without_a_transaction_is_answered_before_the_end() {
    let (tenant, mut child, watch) = serve("drain_statement", "").await;
    watch.lock(1).await;
    let mut client = Wire::login(child.address, &tenant, "crm").await;
    client.send(&query("SELECT pg_advisory_xact_lock(1)::text || 'answered'")).await;
    watch.until_blocked(1).await;
    child.signal(Signal::SIGTERM);
    child.logged("draining").await;
    watch.unlock(1).await;
    assert_eq!(value(&client.until_ready().await), "answered");
    is_told_of_the_shutdown(&mut client).await;
    assert!(child.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_transactions_and_statements_are_ended() {
    let (tenant, mut child, watch) = serve("drain_over", "[timeouts]\ndrain = \"300ms\"").await;
    let mut running = Wire::login(child.address, &tenant, "crm").await;
    running.send(&query("SELECT pg_sleep(1000)")).await;
    let mut open = Wire::login(child.address, &tenant, "crm").await;
    open.query("BEGIN; INSERT INTO notes (note) VALUES ('never')").await;
    watch.until_backends(1, "wait_event = 'PgSleep'").await;
    child.signal(Signal::SIGTERM);
    is_told_of_the_shutdown(&mut running).await;
    is_told_of_the_shutdown(&mut open).await;
    assert!(child.ended().await.success());
    watch.until_backends(0, "true").await;
    assert_eq!(watch.notes("never").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let (tenant, mut child, watch) = serve("drain_twice", "[timeouts]\ndrain = \"1h\"").await;
    let mut open = Wire::login(child.address, &tenant, "crm").await;
    open.query("BEGIN").await;
    child.signal(Signal::SIGTERM);
    child.logged("draining").await;
    child.signal(Signal::SIGINT);
    assert!(child.ended().await.success());
    watch.until_backends(0, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_applies_to_running_sessions_and_a_broken_file_changes_nothing() {
    let (tenant, mut child, _) = serve("reload", "").await;
    let mut client = Wire::login(child.address, &tenant, "crm").await;
    child.configure("[timeouts]\nclient_idel = \"1ms\"");
    child.signal(Signal::SIGHUP);
    assert!(child.logged("not reloaded").await.contains("client_idle"), "the nearest key is named");
    assert_eq!(client.ask("SELECT 'still here'").await, "still here");
    child.configure("[log]\nformat = \"json\"\n[timeouts]\nclient_idle = \"500ms\"");
    child.signal(Signal::SIGHUP);
    child.logged("takes effect only after a restart").await;
    child.logged("reloaded").await;
    let (sqlstate, _, end) = failure(&client.until_ready().await);
    assert_eq!((sqlstate.as_str(), end), ("57P05", '-'));
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_come_and_go_while_it_stops_never_hold_it_up() {
    let (tenant, mut child, watch) = serve("drain_rush", "[pool]\nsize = 2").await;
    let address = child.address;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = Wire::login(address, &tenant, "crm").await;
        clients.push(tokio::spawn(async move {
            let mut answers = 0;
            loop {
                // The connection may be closed between two queries.
                if client.try_send(&query("SELECT 1")).await.is_err() {
                    return answers;
                }
                let answer = client.until_ready().await;
                match answer.iter().find(|message| message.kind == b'E') {
                    Some(error) => {
                        assert_eq!(error.field(b'C'), "57P01");
                        return answers;
                    }
                    None if answer.is_empty() => return answers,
                    None => answers += 1,
                }
            }
        }));
    }
    let mut last = Wire::login(address, &tenant, "crm").await;
    assert_eq!(last.ask("SELECT 'served'").await, "served");
    last.send(&terminate()).await;
    child.signal(Signal::SIGTERM);
    for client in clients {
        client.await.expect("a client that was told");
    }
    assert!(child.ended().await.success());
    watch.until_backends(0, "true").await;
}
