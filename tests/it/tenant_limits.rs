//! What one tenant may take: its own limits from the registry and those of the configuration, both while the proxy runs.

use std::time::Duration;

use futures_util::future::join_all;
use pgtenant::proxy;
use pgtenant::session::Doing;
use tokio::task::JoinSet;

use crate::limits::refused;
use crate::support::wire::{failure, query, startup};
use crate::support::{Running, Tenant, Wire, World, proxy, settings, unique, until, world};

const SHORT: Duration = Duration::from_millis(300);
const NONE_FREE: &str = "(PT-CHECKOUT) no server connection became free in 300ms";

fn limit(what: &str) -> (String, String, String) {
    ("FATAL".to_owned(), "53300".to_owned(), format!("(PT-LIMIT) {what}"))
}

async fn set(world: &World, tenant: &Tenant, settings: &[&str]) {
    world.run(&[&["tenant", "limits", &tenant.slug], settings].concat()).await;
}

/// Applies other settings to a running proxy.
fn reload(proxy: &Running, tweak: impl FnOnce(&mut proxy::Config)) {
    let mut config = settings();
    tweak(&mut config);
    proxy.proxy.reload(&config).expect("settings that can be applied");
}

/// The same for one whose pools have one connection.
fn reload_small(proxy: &Running, tweak: impl FnOnce(&mut proxy::Config)) {
    reload(proxy, |config| {
        config.pool.size = 1;
        tweak(config);
    });
}

async fn waiting(proxy: &Running) -> usize {
    proxy.proxy.snapshot().await.clients.iter().filter(|client| client.doing == Doing::Waiting).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_limits_hold_from_the_moment_they_are_set() {
    let world = world().await;
    let (tenant, other) = (world.tenant_of("own", &["crm"]).await, world.tenant_of("other", &["crm"]).await);
    let proxy = proxy(world, |_| {}).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.query("BEGIN").await;
    client.send(&query("SELECT pg_sleep(1000)")).await;
    set(world, &tenant, &["max_clients=1", "statement=200ms"]).await;
    let text = format!("tenant \"{}\" has 1 clients already (max_clients = 1)", tenant.slug);
    until("the proxy has heard of it", async || match attempt(&proxy, &tenant).await {
        Ok(_) => false,
        Err(told) => told == limit(&text),
    })
    .await;
    let (sqlstate, _, status) = failure(&client.until_ready().await);
    assert_eq!((sqlstate.as_str(), status), ("57014", 'E'), "the session goes on");
    client.query("ROLLBACK").await;
    // Nobody else is concerned, and one that leaves makes room.
    let (mut one, mut two) =
        (Wire::login(proxy.address, &other, "crm").await, Wire::login(proxy.address, &other, "crm").await);
    assert_eq!((one.ask("SELECT 1").await, two.ask("SELECT pg_sleep(0.5)").await), ("1".to_owned(), String::new()));
    drop(client);
    until("there is room", async || attempt(&proxy, &tenant).await.is_ok()).await;
    set(world, &tenant, &["max_clients=default", "idle_in_transaction=100ms"]).await;
    let mut quiet = let_in(&proxy, &tenant).await;
    quiet.query("BEGIN").await;
    assert_eq!(failure(&quiet.until_ready().await).0, "25P03");
    set(world, &tenant, &["client_idle=100ms"]).await;
    let mut quiet = let_in(&proxy, &tenant).await;
    assert_eq!(failure(&quiet.until_ready().await).0, "57P05");
    assert_eq!(one.ask("SELECT note FROM notes").await, other.slug);
    proxy.stop().await;
}

/// A login that succeeds in the end.
async fn let_in(proxy: &Running, tenant: &Tenant) -> Wire {
    let mut client = None;
    until("it is let in", async || {
        client = attempt(proxy, tenant).await.ok();
        client.is_some()
    })
    .await;
    client.expect("it is let in")
}

/// A login that may be refused.
async fn attempt(proxy: &Running, tenant: &Tenant) -> Result<Wire, (String, String, String)> {
    let startup = startup(&[("user", &tenant.user()), ("database", "crm")]);
    Wire::login_with(proxy.address, &startup, &tenant.password)
        .await
        .map_err(|error| (error.field(b'V'), error.field(b'C'), error.field(b'M')))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_logs_in_no_faster_than_it_may() {
    let world = world().await;
    let (tenant, other) = (world.tenant_of("fast", &["crm"]).await, world.tenant_of("other", &["crm"]).await);
    let proxy = proxy(world, |config| config.limits.connect_rate = 2).await;
    let mut logins = JoinSet::new();
    for _ in 0..40 {
        let (address, password) = (proxy.address, tenant.password.clone());
        let startup = startup(&[("user", &tenant.user()), ("database", "crm")]);
        logins.spawn(async move { Wire::login_with(address, &startup, &password).await.map_err(|e| e.field(b'M')) });
    }
    let (mut let_in, mut told) = (Vec::new(), Vec::new());
    while let Some(login) = logins.join_next().await {
        match login.expect("a login") {
            Ok(client) => let_in.push(client),
            Err(message) => told.push(message),
        }
    }
    let text = format!("(PT-LIMIT) tenant \"{}\" logs in more than 2 times a second (connect_rate = 2)", tenant.slug);
    assert!(let_in.len() >= 2 && told.len() >= 2 && told.iter().all(|message| *message == text), "{told:?}");
    assert!(attempt(&proxy, &other).await.is_ok());
    reload(&proxy, |_| {});
    until("there is no rate any more", async || attempt(&proxy, &tenant).await.is_ok()).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_connections_are_counted_over_all_its_places() {
    let world = world().await;
    let tenant = world.tenant_of("places", &["crm", "operations"]).await;
    let proxy = proxy(world, |config| config.pool.checkout_timeout = Duration::from_secs(2)).await;
    let mut crm = Wire::login(proxy.address, &tenant, "crm").await;
    let mut operations = Wire::login(proxy.address, &tenant, "operations").await;
    set(world, &tenant, &["max_connections=1"]).await;
    // One of the two that the logins have left is called in.
    until("it holds", async || {
        let pools = proxy.proxy.snapshot().await.pools;
        pools.iter().map(|pool| pool.stats.active + pool.stats.idle).sum::<u32>() == 1
    })
    .await;
    for _ in 0..2 {
        crm.query("BEGIN").await;
        let expected = "(PT-CHECKOUT) no server connection became free in 2s".to_owned();
        assert_eq!(failure(&operations.query("SELECT 1").await), ("53300".to_owned(), expected, 'I'));
        crm.query("COMMIT").await;
        // An idle one is given up at once for the other place.
        assert_eq!(operations.ask("SELECT note FROM notes").await, tenant.slug);
        assert_eq!(crm.ask("SELECT note FROM notes").await, tenant.slug);
    }
    crm.query("BEGIN").await;
    set(world, &tenant, &["max_connections=default"]).await;
    until("it is lifted", async || operations.query("SELECT 1").await.iter().all(|message| message.kind != b'E')).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_takes_no_more_of_a_common_pool_than_it_may() {
    let world = world().await;
    let (tenant, other) = (world.tenant_of("bounded", &["shop"]).await, world.tenant_of("other", &["shop"]).await);
    let proxy = proxy(world, |config| config.limits.max_connections = 1).await;
    let mut first = Wire::login(proxy.address, &tenant, "shop").await;
    let mut second = Wire::login(proxy.address, &tenant, "shop").await;
    let mut third = Wire::login(proxy.address, &other, "shop").await;
    for _ in 0..3 {
        first.query("BEGIN").await;
        second.send(&query("SELECT note FROM notes")).await;
        until("it waits", async || waiting(&proxy).await == 1).await;
        assert_eq!(third.ask("SELECT note FROM notes").await, other.slug, "who waits is in nobody's way");
        first.query("COMMIT").await;
        assert_eq!(crate::support::wire::value(&second.until_ready().await), tenant.slug);
    }
    first.query("BEGIN").await;
    reload(&proxy, |config| config.limits.max_connections = 2);
    assert_eq!(second.ask("SELECT note FROM notes").await, tenant.slug);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_follow_a_reload_and_keep_their_connections() {
    let world = world().await;
    let tenant = world.tenant_of("reload", &["crm"]).await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    let mut one = Wire::login(proxy.address, &tenant, "crm").await;
    let mut two = Wire::login(proxy.address, &tenant, "crm").await;
    let pid = one.ask("SELECT pg_backend_pid()").await;
    one.query("BEGIN").await;
    two.send(&query("SELECT pg_backend_pid()")).await;
    until("it waits", async || waiting(&proxy).await == 1).await;
    reload(&proxy, |config| config.pool.size = 2);
    let other = crate::support::wire::value(&two.until_ready().await);
    assert_ne!(other, pid, "the pool has grown while it waited");
    assert_eq!(one.ask("SELECT pg_backend_pid()").await, pid);
    two.query("BEGIN").await;
    reload(&proxy, |config| {
        config.pool.size = 1;
        config.pool.checkout_timeout = SHORT;
        config.pool.queue_length_max = 1;
    });
    two.query("COMMIT").await;
    assert_eq!(failure(&two.query("SELECT 1").await).1, NONE_FREE);
    one.query("COMMIT").await;
    assert_eq!(
        (one.ask("SELECT pg_backend_pid()").await, two.ask("SELECT pg_backend_pid()").await),
        (pid.clone(), pid)
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_queue_and_waits_go_before_the_configurations() {
    let world = world().await;
    let tenant = world.tenant_of("queue", &["crm"]).await;
    let proxy = proxy(world, |config| {
        config.pool.size = 1;
        config.pool.checkout_timeout = Duration::from_secs(5);
    })
    .await;
    let mut busy = Wire::login(proxy.address, &tenant, "crm").await;
    let mut waits = Wire::login(proxy.address, &tenant, "crm").await;
    busy.query("BEGIN").await;
    set(world, &tenant, &["checkout_timeout=300ms"]).await;
    until("it waits no longer", async || failure(&waits.query("SELECT 1").await).1 == NONE_FREE).await;
    // These need a connection to log in.
    set(world, &tenant, &["checkout_timeout=default", "login=250ms"]).await;
    let too_long = ("57P03".to_owned(), "(PT-UNAVAILABLE) login took too long, try again".to_owned());
    until("a login has its own time", async || {
        let (_, sqlstate, text) = refused(proxy.address, &tenant).await;
        (sqlstate, text) == too_long
    })
    .await;
    set(world, &tenant, &["login=default", "queue_length_max=1"]).await;
    let told = (
        "53300".to_owned(),
        "(PT-LIMIT) 1 clients wait for a server connection already (queue_length_max = 1)".to_owned(),
    );
    until("the queue is short", async || {
        waits.send(&query("SELECT note FROM notes")).await;
        until("it waits", async || waiting(&proxy).await == 1).await;
        let (_, sqlstate, text) = refused(proxy.address, &tenant).await;
        let is_told = (sqlstate, text) == told;
        if !is_told {
            waits.until_ready().await;
        }
        is_told
    })
    .await;
    busy.query("COMMIT").await;
    assert_eq!(crate::support::wire::value(&waits.until_ready().await), tenant.slug);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_time_outs_follow_a_reload_for_sessions_that_are_there() {
    let world = world().await;
    let tenant = world.tenant_of("followed", &["crm"]).await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.query("BEGIN").await;
    client.send(&query("SELECT pg_sleep(1000)")).await;
    reload_small(&proxy, |config| config.timeouts.statement = SHORT);
    let (sqlstate, _, status) = failure(&client.until_ready().await);
    assert_eq!((sqlstate.as_str(), status), ("57014", 'E'), "the session goes on");
    // Who logs in needs the connection that is the transaction's.
    reload_small(&proxy, |config| config.timeouts.login = Duration::from_secs(2));
    let told = refused(proxy.address, &tenant).await;
    assert_eq!((told.0.as_str(), told.1.as_str()), ("FATAL", "57P03"));
    assert_eq!(told.2, "(PT-UNAVAILABLE) login took too long, try again");
    reload_small(&proxy, |config| config.timeouts.idle_in_transaction = SHORT);
    assert_eq!(failure(&client.until_ready().await).0, "25P03");
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    reload_small(&proxy, |config| config.limits.max_clients = 1);
    let text = format!("tenant \"{}\" has 1 clients already (max_clients = 1)", tenant.slug);
    assert_eq!(attempt(&proxy, &tenant).await.err(), Some(limit(&text)));
    assert_eq!(client.ask("SELECT note FROM notes").await, tenant.slug);
    reload_small(&proxy, |config| config.timeouts.client_idle = SHORT);
    assert_eq!(failure(&client.until_ready().await).0, "57P05");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queues_bound_follows_a_reload() {
    let world = world().await;
    let tenant = world.tenant_of("shorter", &["crm"]).await;
    let proxy = proxy(world, |config| config.pool.size = 1).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Wire::login(proxy.address, &tenant, "crm").await);
    }
    let [mut busy, mut one, mut two] = <[Wire; 3]>::try_from(clients).ok().expect("three");
    busy.query("BEGIN").await;
    one.send(&query("SELECT note FROM notes")).await;
    until("it waits", async || waiting(&proxy).await == 1).await;
    reload_small(&proxy, |config| config.pool.queue_length_max = 1);
    let text = "(PT-LIMIT) 1 clients wait for a server connection already (queue_length_max = 1)".to_owned();
    assert_eq!(failure(&two.query("SELECT 1").await), ("53300".to_owned(), text, 'I'));
    reload_small(&proxy, |_| {});
    two.send(&query("SELECT note FROM notes")).await;
    until("both wait", async || waiting(&proxy).await == 2).await;
    busy.query("COMMIT").await;
    for client in [&mut one, &mut two] {
        assert_eq!(crate::support::wire::value(&client.until_ready().await), tenant.slug);
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_rate_of_logins_holds_from_the_moment_it_is_set() {
    let world = world().await;
    let (tenant, other) = (world.tenant_of("rate", &["crm"]).await, world.tenant_of("other", &["crm"]).await);
    let proxy = proxy(world, |_| {}).await;
    // What so many logins at one time that are refused are told.
    let told = async |tenant: &Tenant| {
        let attempts = (0..10).map(|_| attempt(&proxy, tenant));
        let refused = join_all(attempts).await.into_iter().filter_map(Result::err);
        refused.collect::<Vec<_>>()
    };
    assert_eq!(told(&tenant).await, [], "there is no rate");
    set(world, &tenant, &["connect_rate=1"]).await;
    let text = format!("tenant \"{}\" logs in more than 1 times a second (connect_rate = 1)", tenant.slug);
    until("it holds", async || {
        let told = told(&tenant).await;
        assert!(told.iter().all(|told| *told == limit(&text)), "{told:?}");
        !told.is_empty()
    })
    .await;
    assert_eq!(told(&other).await, [], "nobody else is concerned");
    set(world, &tenant, &["connect_rate=default"]).await;
    until("it is lifted", async || told(&tenant).await.is_empty()).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_takes_no_limit_that_no_proxy_understands() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("strict"), &["crm"], &[]).await;
    for wrong in ["max_client=1", "weight=0", "statement=soon", "max_clients=5s", "statement=5", "max_clients"] {
        let output = world.command(&["tenant", "limits", &tenant.slug, wrong]).output().await.expect("run");
        assert!(!output.status.success(), "{wrong}");
    }
    set(world, &tenant, &["max_clients=7", "statement=1m 30s", "weight=2"]).await;
    set(world, &tenant, &["weight=default"]).await;
    let shown = world.run(&["tenant", "limits", &tenant.slug, "--json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["limits"], serde_json::json!({ "max_clients": 7, "statement": "1m 30s" }));
    assert!(world.run(&["tenant", "show", &tenant.slug]).await.contains("limits: max_clients=7, statement=1m 30s"));
}
