//! Limits, time-outs, and servers in trouble: who is told what, and that everyone else goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgtenant::cluster::Cluster;
use tokio::net::TcpListener;

use crate::relay::one_connection;
use crate::support::wire::{extended, failure, query, startup, sync, value};
use crate::support::{Tenant, Watch, Wire, World, proxy, unique, until, world};

const SHORT: Duration = Duration::from_millis(200);

/// What a client that cannot log in is told: severity, SQLSTATE, text.
pub(crate) async fn refused(address: SocketAddr, tenant: &Tenant) -> (String, String, String) {
    // A setting of its own: what the server reports to those with the same settings may be known already.
    let setting = format!("-c app.own={}", unique("own"));
    let startup = startup(&[("user", &tenant.user()), ("database", "crm"), ("options", &setting)]);
    let Err(error) = Wire::login_with(address, &startup, &tenant.password).await else { panic!("was let in") };
    (error.field(b'V'), error.field(b'C'), error.field(b'M'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waited_too_long_is_told_and_goes_on() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("checkout"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| {
        config.pool.size = 1;
        config.pool.checkout_timeout = SHORT;
    })
    .await;
    let mut busy = Wire::login(proxy.address, &tenant, "crm").await;
    let mut waiting = Wire::login(proxy.address, &tenant, "crm").await;
    busy.query("BEGIN").await;
    let expected = ("53300".to_owned(), "(PT-CHECKOUT) no server connection became free in 200ms".to_owned(), 'I');
    for messages in [
        query("SELECT 1"),
        [extended("SELECT 1"), extended("SELECT 2"), query("SELECT 'skipped'"), sync()].concat(),
        query(&format!("SELECT '{}'", "x".repeat(200_000))),
        [extended(&format!("SELECT '{}'", "x".repeat(200_000))), sync()].concat(),
    ] {
        waiting.send(&messages).await;
        let answer = waiting.until_ready().await;
        assert_eq!(answer.len(), 2, "one error and one ReadyForQuery");
        assert_eq!(failure(&answer), expected);
        assert_eq!(answer[0].field(b'V'), "ERROR");
    }
    busy.query("COMMIT").await;
    assert_eq!(waiting.ask("SELECT 'served'").await, "served");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_beyond_the_queues_bound_is_told_at_once() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("queue"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| {
        config.pool.size = 1;
        config.pool.queue_length_max = 1;
    })
    .await;
    let mut busy = Wire::login(proxy.address, &tenant, "crm").await;
    let mut one = Wire::login(proxy.address, &tenant, "crm").await;
    let mut two = Wire::login(proxy.address, &tenant, "crm").await;
    busy.query("BEGIN").await;
    one.send(&query("SELECT 'in the end'")).await;
    two.send(&query("SELECT 'in the end'")).await;
    let (answer, mut queued) = tokio::select! {
        answer = one.until_ready() => (answer, two),
        answer = two.until_ready() => (answer, one),
    };
    let expected = "(PT-LIMIT) 1 clients wait for a server connection already (queue_length_max = 1)".to_owned();
    assert_eq!(failure(&answer), ("53300".to_owned(), expected, 'I'));
    busy.query("COMMIT").await;
    assert_eq!(value(&queued.until_ready().await), "in the end");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_beyond_max_clients_is_told_and_another_may_come_when_one_has_left() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("full"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| config.listen.max_clients = 2).await;
    let first = Wire::login(proxy.address, &tenant, "crm").await;
    let mut second = Wire::login(proxy.address, &tenant, "crm").await;
    let (severity, sqlstate, text) = refused(proxy.address, &tenant).await;
    assert_eq!((severity.as_str(), sqlstate.as_str()), ("FATAL", "53300"));
    assert_eq!(text, "(PT-LIMIT) 2 clients are connected already (max_clients = 2)");
    assert_eq!(second.ask("SELECT 'goes on'").await, "goes on");
    drop(first);
    until("a place is free", async || proxy.proxy.clients() == 1).await;
    let mut third = Wire::login(proxy.address, &tenant, "crm").await;
    assert_eq!(third.ask("SELECT 'let in'").await, "let in");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pool_makes_room_and_one_in_use_never_does() {
    let world = world().await;
    let one = world.tenant_in(&unique("pool_one"), &["crm"], &[]).await;
    let two = world.tenant_in(&unique("pool_two"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| config.pool.max_pools = 1).await;
    let (watch_one, watch_two) = (Watch::over(&one, "crm").await, Watch::over(&two, "crm").await);
    let mut first = Wire::login(proxy.address, &one, "crm").await;
    let mut second = Wire::login(proxy.address, &two, "crm").await;
    watch_one.until_backends(0, "true").await;
    // Each turn takes the other's pool away, and both clients stay.
    for _ in 0..3 {
        assert_eq!(first.ask("SELECT note FROM notes").await, one.slug);
        watch_two.until_backends(0, "true").await;
        assert_eq!(second.ask("SELECT note FROM notes").await, two.slug);
        watch_one.until_backends(0, "true").await;
    }
    second.query("BEGIN").await;
    let limit = "(PT-LIMIT) too many pools in use (max_pools = 1)";
    let expected = ("FATAL".to_owned(), "53300".to_owned(), limit.to_owned());
    assert_eq!(refused(proxy.address, &one).await, expected);
    let told = first.query("SELECT 1").await;
    assert_eq!(failure(&told), ("53300".to_owned(), limit.to_owned(), 'I'));
    second.query("COMMIT").await;
    assert_eq!(first.ask("SELECT note FROM notes").await, one.slug);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_killed_has_its_own_last_word() {
    let (tenant, proxy, watch) = one_connection("killed").await;
    for (before, messages) in [("SELECT 1", query("SELECT pg_sleep(1000)")), ("BEGIN", query("SELECT pg_sleep(1000)"))]
    {
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        client.query(before).await;
        client.send(&messages).await;
        watch.until_backends(1, "wait_event = 'PgSleep'").await;
        let pid = watch.backends("true").await[0];
        watch.admin.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.expect("terminate");
        let answer = client.until_ready().await;
        let text = "terminating connection due to administrator command".to_owned();
        assert_eq!(failure(&answer), ("57P01".to_owned(), text, '-'));
        assert_eq!(answer.iter().filter(|message| message.kind == b'E').count(), 1);
    }
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    for _ in 0..5 {
        let pid: i32 = client.ask("SELECT pg_backend_pid()").await.parse().expect("a number");
        watch.admin.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.expect("terminate");
        watch.until_backends(0, "true").await;
        assert_ne!(client.ask("SELECT pg_backend_pid()").await, pid.to_string(), "a dead one is never given out");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_left_alone_and_used_again_when_it_is_back() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::builder().start().await.expect("start a server")));
    let world = World::on(cluster).await;
    let tenant = world.tenant_in(&unique("down"), &["crm"], &[]).await;
    let proxy = proxy(&world, |_| {}).await;
    let mut idle = Wire::login(proxy.address, &tenant, "crm").await;
    let mut working = Wire::login(proxy.address, &tenant, "crm").await;
    working.query("BEGIN").await;
    cluster.stop().await.expect("stop");
    let answer = working.query("SELECT 1").await;
    assert_eq!(answer[0].field(b'C'), "57P01", "the server's own last word");

    // In its place, something that counts who knocks.
    let listener = TcpListener::bind((cluster.host(), cluster.port())).await.expect("take its port");
    let knocks = Arc::new(AtomicUsize::new(0));
    let counting = tokio::spawn({
        let knocks = Arc::clone(&knocks);
        async move {
            while let Ok((socket, _)) = listener.accept().await {
                knocks.fetch_add(1, Ordering::Relaxed);
                drop(socket);
            }
        }
    });
    let mut refusals = 0;
    for _ in 0..10 {
        let (severity, sqlstate, text) = refused(proxy.address, &tenant).await;
        assert_eq!((severity.as_str(), sqlstate.as_str()), ("FATAL", "08006"));
        assert!(text.starts_with("(PT-BACKEND) "), "{text}");
        refusals += 1;
    }
    while knocks.load(Ordering::Relaxed) < 4 || refusals < 200 {
        let (sqlstate, text, status) = failure(&idle.query("SELECT 1").await);
        assert_eq!((sqlstate.as_str(), status), ("08006", 'I'));
        assert!(text.starts_with("(PT-BACKEND) "), "{text}");
        refusals += 1;
    }
    let knocked = knocks.load(Ordering::Relaxed);
    assert!(knocked <= 12, "{knocked} attempts for {refusals} queries");
    counting.abort();
    assert!(counting.await.is_err());

    cluster.start().await.expect("start again");
    until("it is used again", async || !idle.query("SELECT 1").await.iter().any(|message| message.kind == b'E')).await;
    assert_eq!(idle.ask("SELECT note FROM notes").await, tenant.slug);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_say_nothing_and_statements_that_take_too_long_are_ended() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("timeouts"), &["crm"], &[]).await;
    let watch = Watch::over(&tenant, "crm").await;
    let running = proxy(world, |config| config.timeouts.idle_in_transaction = SHORT).await;
    let mut client = Wire::login(running.address, &tenant, "crm").await;
    let mut quiet = Wire::login(running.address, &tenant, "crm").await;
    client.query("BEGIN; UPDATE notes SET note = 'lost'").await;
    let text = "terminating connection due to idle-in-transaction timeout".to_owned();
    assert_eq!(failure(&client.until_ready().await), ("25P03".to_owned(), text, '-'));
    watch.until_backends(0, "state <> 'idle'").await;
    assert_eq!(quiet.ask("SELECT note FROM notes FOR UPDATE NOWAIT").await, tenant.slug);
    running.stop().await;

    let running = proxy(world, |config| config.timeouts.client_idle = SHORT).await;
    let mut client = Wire::login(running.address, &tenant, "crm").await;
    let text = "terminating connection due to idle-session timeout".to_owned();
    assert_eq!(failure(&client.until_ready().await), ("57P05".to_owned(), text, '-'));
    running.stop().await;

    let running = proxy(world, |config| config.timeouts.statement = SHORT).await;
    let mut client = Wire::login(running.address, &tenant, "crm").await;
    assert_eq!(failure(&client.query("SELECT pg_sleep(1000)").await).0, "57014");
    client.query("BEGIN").await;
    client.send(&[extended("SELECT pg_sleep(1000)"), sync()].concat()).await;
    let (sqlstate, _, status) = failure(&client.until_ready().await);
    assert_eq!((sqlstate.as_str(), status), ("57014", 'E'));
    running.stop().await;
}
