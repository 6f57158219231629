//! Several instances over one registry, and tenants that come again under a name that another had.

use crate::support::wire::{bind, execute, failure, parse, query, sync, value};
use crate::support::{Running, Tenant, Wire, connect, proxy, refusal, unique, until, world};

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
    world.run(&["tenant", "suspend", &tenant.slug]).await;
    for (proxy, (out, unconcerned)) in proxies.iter().zip(&mut sessions) {
        assert_eq!(failure(&out.until_ready().await).0, "57P01");
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
