//! What clients and proxy say to each other after login, message by message.

use std::time::Duration;

use pgtenant::tenant::TenantName;

use crate::support::wire::{bind, execute, message, parse, query, sync};
use crate::support::{Wire, proxy, world};

#[tokio::test(flavor = "multi_thread")]
async fn simple_and_extended_messages_are_answered_as_by_postgresql() {
    let world = world().await;
    let tenant = world.tenant("talk").await;
    let proxy = proxy(world, |_| {}).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    client.send(&query("SELECT 1; SELECT 2")).await;
    assert_eq!(client.kinds().await, "TDCTDCZ");
    client.send(&[parse("", "SELECT 1"), bind(""), execute(), sync()].concat()).await;
    assert_eq!(client.kinds().await, "12DCZ");
    client.send(&[parse("", "SELECT nothing"), bind(""), execute(), query("SELECT 1"), sync()].concat()).await;
    assert_eq!(client.kinds().await, "EZ", "after an error everything is skipped up to Sync");
    client.send(&query("SELECT 1/0")).await;
    let answers = client.until_ready().await;
    assert_eq!(answers[0].field(b'C'), "22012");
    client.send(&message(b'X', b"")).await;
    assert!(client.is_closed().await);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_knows_a_tenant_after_a_login() {
    let world = world().await;
    let tenant = world.tenant("cached").await;
    let proxy = proxy(world, |_| {}).await;
    let name = TenantName::parse(&tenant.slug).expect("a name");
    assert!(proxy.registry.cached(&name).is_none(), "nobody has asked yet");
    // Late word of the tenant's own making, or a late poll, makes the proxy ask again: one login is not always enough.
    let known = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let _client = Wire::login(proxy.address, &tenant, "crm").await;
            if let Some(known) = proxy.registry.cached(&name) {
                return known.expect("a tenant");
            }
        }
    });
    assert_eq!(known.await.expect("a tenant that is remembered").slug.as_str(), tenant.slug);
    proxy.stop().await;
}
