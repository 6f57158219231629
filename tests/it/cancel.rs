//! Cancel requests: they reach the statement of the session whose key they show, and nobody else's ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgtenant::tenant::PoolMode;
use tokio::time::timeout;

use crate::relay::one_connection;
use crate::support::wire::{cancel, extended, failure, query, startup_of, sync, value};
use crate::support::{Watch, Wire, proxy, unique, world};

const SLEEP: &str = "SELECT pg_sleep(1000)";
const CANCELED: &str = "canceling statement due to user request";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cancels_its_own_running_statement_and_goes_on() {
    let (tenant, proxy, watch) = one_connection("cancel").await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    for (messages, status) in [
        (query(SLEEP), 'I'),
        ([extended(SLEEP), extended("SELECT 1"), sync()].concat(), 'I'),
        ([query("BEGIN"), query(SLEEP)].concat(), 'E'),
    ] {
        client.send(&messages).await;
        watch.until_backends(1, "wait_event = 'PgSleep'").await;
        cancel(proxy.address, client.process_id, &client.secret).await;
        if status == 'E' {
            assert_eq!(client.kinds().await, "CZ");
        }
        assert_eq!(failure(&client.until_ready().await), ("57014".to_owned(), CANCELED.to_owned(), status));
    }
    client.ask("ROLLBACK").await;
    assert_eq!(client.ask("SELECT 'goes on'").await, "goes on");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_session_mode_or_with_a_long_key_cancels_too() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("cancel_session"), &["crm"], &[]).await;
    let watch = Watch::over(&tenant, "crm").await;
    let proxy = proxy(world, |config| config.pool.mode = PoolMode::Session).await;
    let user = tenant.user();
    for (version, key_bytes) in [(196_608, 4), (196_610, 32)] {
        let startup = startup_of(version, &[("user", &user), ("database", "crm")]);
        let mut client = Wire::login_with(proxy.address, &startup, &tenant.password).await.expect("log in");
        assert_eq!(client.secret.len(), key_bytes);
        client.send(&query(SLEEP)).await;
        watch.until_backends(1, "wait_event = 'PgSleep'").await;
        // A key of the right length, but not the right one.
        let mut wrong = client.secret.clone();
        wrong[0] ^= 1;
        cancel(proxy.address, client.process_id, &wrong).await;
        watch.until_backends(1, "wait_event = 'PgSleep'").await;
        cancel(proxy.address, client.process_id, &client.secret).await;
        assert_eq!(failure(&client.until_ready().await).0, "57014");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_or_anothers_key_cancels_nothing() {
    let (tenant, proxy, watch) = one_connection("cancel_wrong").await;
    watch.lock(1).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    let other = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&query("SELECT pg_advisory_xact_lock(1)::text || 'done'")).await;
    watch.until_blocked(1).await;
    let backend = watch.backends("wait_event_type = 'Lock'").await[0];
    let wrong = client.secret.iter().map(|byte| byte ^ 0x55).collect::<Vec<u8>>();
    for (process_id, secret) in [
        (client.process_id, &wrong),
        (client.process_id, &other.secret),
        (other.process_id, &other.secret),
        (other.process_id, &client.secret),
        (backend, &client.secret),
        (0, &Vec::new()),
        (client.process_id, &[client.secret.clone(), vec![0]].concat()),
    ] {
        cancel(proxy.address, process_id, secret).await;
    }
    assert_eq!(watch.backends("wait_event_type = 'Lock'").await, [backend]);
    watch.unlock(1).await;
    assert_eq!(value(&client.until_ready().await), "done");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_a_connection_can_cancel_that() {
    let (tenant, proxy, _) = one_connection("cancel_queued").await;
    let mut busy = Wire::login(proxy.address, &tenant, "crm").await;
    busy.query("BEGIN").await;
    let mut queued = Wire::login(proxy.address, &tenant, "crm").await;
    for messages in [query("SELECT 1"), [extended("SELECT 1"), extended("SELECT 2"), sync()].concat()] {
        queued.send(&messages).await;
        // One that comes before the query does nothing, so it is sent until one came after.
        while timeout(Duration::from_millis(20), queued.stream.peek(&mut [0])).await.is_err() {
            cancel(proxy.address, queued.process_id, &queued.secret).await;
        }
        assert_eq!(failure(&queued.until_ready().await), ("57014".to_owned(), CANCELED.to_owned(), 'I'));
    }
    queued.send(&query("SELECT 'served'")).await;
    assert_eq!(busy.ask("SELECT 'undisturbed'").await, "undisturbed");
    busy.query("COMMIT").await;
    assert_eq!(value(&queued.until_ready().await), "served");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_between_statements_is_harmless() {
    let (tenant, proxy, _) = one_connection("cancel_idle").await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    for in_transaction in [false, true] {
        if in_transaction {
            client.query("BEGIN").await;
        }
        for _ in 0..20 {
            cancel(proxy.address, client.process_id, &client.secret).await;
            // The thread of the session sees the request before anything that another login brings it.
            drop(Wire::login(proxy.address, &tenant, "crm").await);
            assert_eq!(client.ask("SELECT 'unharmed'").await, "unharmed");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cancels_never_hits_another_clients_statement() {
    const CANCELS: usize = 300;
    let world = world().await;
    let tenant = world.tenant_in(&unique("cancel_storm"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| config.pool.size = 2).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut victims = Vec::new();
    for number in 0..4 {
        let mut victim = Wire::login(proxy.address, &tenant, "crm").await;
        let over = Arc::clone(&over);
        victims.push(tokio::spawn(async move {
            let mut answers = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = victim.ask(&format!("SELECT pg_sleep(0.001)::text || '{number}'")).await;
                assert_eq!(answer, number.to_string());
                answers += 1;
            }
            answers
        }));
    }
    let mut attacker = Wire::login(proxy.address, &tenant, "crm").await;
    let (process_id, secret) = (attacker.process_id, attacker.secret.clone());
    let statements = {
        let over = Arc::clone(&over);
        tokio::spawn(async move {
            let mut canceled = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = attacker.query("SELECT pg_sleep(0.003)").await;
                canceled += usize::from(answer.iter().any(|message| message.kind == b'E'));
            }
            canceled
        })
    };
    for _ in 0..CANCELS {
        cancel(proxy.address, process_id, &secret).await;
    }
    over.store(true, Ordering::Relaxed);
    for victim in victims {
        assert!(victim.await.expect("no statement of a victim is cancelled") > 0);
    }
    assert!(statements.await.expect("the attacker") > 0, "no cancel hit anything: the test shows nothing");
    proxy.stop().await;
}
