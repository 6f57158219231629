//! Several instances over one registry, and tenants that come again under a name that another had.

use std::time::Duration;

use pgtenant::session::{CANCEL_QUESTION_BYTES, cancel_proof};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::support::wire::{bind, cancel, execute, failure, parse, query, sync, value};
use crate::support::{Running, Tenant, Watch, Wire, World, connect, database, proxy, refusal, unique, until, world};

async fn two() -> [Running; 2] {
    let world = world().await;
    [proxy(world, |_| {}).await, proxy(world, |_| {}).await]
}

async fn is_refused(proxy: &Running, tenant: &Tenant, code: &str) -> bool {
    match connect(&proxy.config(tenant, "crm")).await {
        Ok(_) => false,
        Err(error) => refusal(&error).0 == code,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_is_out_on_every_instance_and_back_when_it_is_activated() {
    let world = world().await;
    let (tenant, other) =
        (world.tenant_of(&unique("out"), &["crm"]).await, world.tenant_of(&unique("in"), &["crm"]).await);
    let proxies = two().await;
    let mut sessions = Vec::new();
    for proxy in &proxies {
        sessions
            .push((Wire::login(proxy.address, &tenant, "crm").await, Wire::login(proxy.address, &other, "crm").await));
    }
    let before = std::time::Instant::now();
    world.run(&["tenant", "suspend", &tenant.slug]).await;
    for (proxy, (out, unconcerned)) in proxies.iter().zip(&mut sessions) {
        assert_eq!(failure(&out.until_ready().await).0, "57P01");
        println!("out {:?} after the command was started", before.elapsed());
        assert!(is_refused(proxy, &tenant, "28000").await, "the instance that ended it has heard of it");
        assert_eq!(unconcerned.ask("SELECT 'undisturbed'").await, "undisturbed");
    }
    world.run(&["tenant", "activate", &tenant.slug]).await;
    for proxy in &proxies {
        until("the tenant is served again", async || connect(&proxy.config(&tenant, "crm")).await.is_ok()).await;
    }
    for proxy in proxies {
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_suspended_tenant_go_on_for_the_grace_on_every_instance_and_new_ones_do_not_come_in() {
    let world = world().await;
    let tenant = world.tenant_of(&unique("grace"), &["crm"]).await;
    let proxies = two().await;
    let mut sessions = Vec::new();
    for proxy in &proxies {
        let mut session = Wire::login(proxy.address, &tenant, "crm").await;
        session.query("BEGIN").await;
        sessions.push(session);
    }
    world.run(&["tenant", "suspend", &tenant.slug, "--grace", "1h"]).await;
    for (proxy, session) in proxies.iter().zip(&mut sessions) {
        until("new sessions are refused", async || is_refused(proxy, &tenant, "28000").await).await;
        assert_eq!(session.ask("SELECT 'goes on'").await, "goes on");
    }
    // A shorter grace takes the place of the longer one.
    world.run(&["tenant", "suspend", &tenant.slug, "--grace", "100ms"]).await;
    for session in &mut sessions {
        assert_eq!(failure(&session.until_ready().await).0, "57P01");
    }
    for proxy in proxies {
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_comes_again_under_the_same_name_meets_nothing_of_the_one_before() {
    const MODULES: [&str; 3] = ["crm", "operations", "shop"];
    const NOTE: &str = "SELECT note FROM notes";
    let world = world().await;
    let slug = unique("again");
    let proxies = two().await;
    let before = world.tenant_in(&slug, &MODULES, &[]).await;
    let mut sessions = Vec::new();
    for proxy in &proxies {
        for module in MODULES {
            let mut session = Wire::login(proxy.address, &before, module).await;
            session.send(&[parse("kept", NOTE), sync()].concat()).await;
            assert_eq!(session.kinds().await, "1Z");
            session.ask("UPDATE notes SET note = 'of the one before'").await;
            sessions.push(session);
        }
    }
    world.run(&["tenant", "delete", &slug, "--drop-data"]).await;
    let after = world.tenant_in(&slug, &MODULES, &[]).await;
    assert_ne!(before.id, after.id);
    for session in &mut sessions {
        session.until_ended().await;
    }
    for proxy in &proxies {
        for module in MODULES {
            let old = connect(&proxy.config(&before, module)).await.expect_err("the old password");
            assert_eq!(refusal(&old).0, "28P01");
            let mut session = Wire::login(proxy.address, &after, module).await;
            assert_eq!(session.ask(NOTE).await, slug, "{module}");
            session.send(&[bind("kept"), execute(), sync()].concat()).await;
            assert_eq!(failure(&session.until_ready().await).0, "26000", "a statement of the one before");
            session.send(&[parse("kept", NOTE), bind("kept"), execute(), sync()].concat()).await;
            assert_eq!(value(&session.until_ready().await), slug);
            session
                .send(&query("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%one before%'"))
                .await;
            assert_eq!(value(&session.until_ready().await), "0");
        }
    }
    for proxy in proxies {
        proxy.stop().await;
    }
}

/// Two instances over a registry of their own, which know of each other, a tenant, and a look into the registry.
async fn acquainted() -> ([Running; 2], Tenant, Client) {
    let registry = database("registry").await;
    let world = World::over(registry.url.clone()).await;
    let tenant = world.tenant_of(&unique("met"), &["crm"]).await;
    let instance = || proxy(&world, |config| config.listen.peer_address = Some("127.0.0.1:0".to_owned()));
    let proxies = [instance().await, instance().await];
    let present = "SELECT count(*) FROM pgtenant.instances";
    until("both are there", async || {
        registry.admin.query_one(present, &[]).await.expect("count").get::<_, i64>(0) == 2
    })
    .await;
    (proxies, tenant, registry.admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_finds_its_session_through_any_instance() {
    let ([here, there], tenant, registry) = acquainted().await;
    for long in [false, true] {
        let version = if long { 196_610 } else { 196_608 };
        let user = tenant.user();
        let startup = crate::support::wire::startup_of(version, &[("user", &user), ("database", "crm")]);
        let mut client = Wire::login_with(there.address, &startup, &tenant.password).await.expect("log in");
        client.send(&query("SELECT pg_sleep(1000)")).await;
        // One that comes before the query does nothing, so it is sent until one came after.
        while timeout(Duration::from_millis(20), client.stream.peek(&mut [0])).await.is_err() {
            cancel(here.address, client.process_id, &client.secret).await;
        }
        assert_eq!(failure(&client.until_ready().await).0, "57014");
        assert_eq!(client.ask("SELECT 'goes on'").await, "goes on");
    }
    here.stop().await;
    there.stop().await;
    let left: i64 = registry.query_one("SELECT count(*) FROM pgtenant.instances", &[]).await.unwrap().get(0);
    assert_eq!(left, 0, "who ends says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_forged_or_repeated_between_instances_cancels_anything() {
    let ([here, there], tenant, registry) = acquainted().await;
    let watch = Watch::over(&tenant, "crm").await;
    watch.lock(1).await;
    let mut client = Wire::login(there.address, &tenant, "crm").await;
    client.send(&query("SELECT pg_advisory_xact_lock(1)::text || 'done'")).await;
    watch.until_blocked(1).await;
    let (process_id, secret) = (client.process_id, client.secret.clone());
    let wrong: Vec<u8> = secret.iter().map(|byte| byte ^ 1).collect();
    cancel(here.address, process_id, &wrong).await;
    cancel(here.address, process_id ^ 1, &secret).await;
    let addresses = registry.query("SELECT address FROM pgtenant.instances", &[]).await.unwrap();
    let mut proofs = Vec::new();
    for address in addresses.iter().map(|row| row.get::<_, &str>(0)) {
        let question = asked(&mut TcpStream::connect(address).await.unwrap()).await;
        // A proof for a question of another connection, a key instead of a proof, half a request, and more than a request.
        proofs.push(cancel_proof(process_id, &secret, &question).as_ref().to_vec());
        let mut key = secret.clone();
        key.resize(32, 0);
        for answer in [&proofs[0][..], &key, &wrong, &[0; 1000]] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            asked(&mut stream).await;
            stream.write_all(&[&process_id.to_be_bytes()[..], answer].concat()).await.unwrap();
            stream.shutdown().await.unwrap();
            // Closed or reset: nothing is answered.
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
        }
    }
    watch.until_blocked(1).await;
    watch.unlock(1).await;
    assert_eq!(value(&client.until_ready().await), "done");
    here.stop().await;
    there.stop().await;
}

async fn asked(stream: &mut TcpStream) -> [u8; CANCEL_QUESTION_BYTES] {
    let mut question = [0; CANCEL_QUESTION_BYTES];
    stream.read_exact(&mut question).await.expect("a question");
    question
}
