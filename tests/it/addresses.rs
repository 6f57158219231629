//! From where a tenant's clients may come, and what failed logins cost an address.

use std::time::Instant;

use crate::support::wire::{failure, startup};
use crate::support::{Running, Tenant, Wire, connect, proxy, refusal, unique, until, world};

async fn refused(proxy: &Running, tenant: &Tenant) -> Option<(String, String)> {
    connect(&proxy.config(tenant, "crm")).await.err().map(|error| refusal(&error))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_in_only_from_the_networks_of_the_list_and_those_inside_leave_when_theirs_is_taken_off() {
    let world = world().await;
    let (tenant, other) =
        (world.tenant_of(&unique("at"), &["crm"]).await, world.tenant_of(&unique("any"), &["crm"]).await);
    let proxy = proxy(world, |_| {}).await;
    let mut inside = Wire::login(proxy.address, &tenant, "crm").await;
    let mut unconcerned = Wire::login(proxy.address, &other, "crm").await;
    world.run(&["tenant", "allow", "add", &tenant.slug, "127.0.0.0/8"]).await;
    world.run(&["tenant", "allow", "add", &tenant.slug, "192.0.2.0/24"]).await;
    until("clients of the list come in", async || refused(&proxy, &tenant).await.is_none()).await;
    assert_eq!(inside.ask("SELECT 'stays'").await, "stays");

    world.run(&["tenant", "allow", "remove", &tenant.slug, "127.0.0.0/8"]).await;
    let (code, text, _) = failure(&inside.until_ready().await);
    assert_eq!((code.as_str(), text.split(' ').next()), ("57P01", Some("(PT-SHUTDOWN)")));
    let text = format!("(PT-ADDRESS) tenant \"{}\" has no clients at 127.0.0.1", tenant.slug);
    assert_eq!(refused(&proxy, &tenant).await, Some(("28000".to_owned(), text)));
    // Who does not have the password is not told of the list.
    let mut stranger = proxy.config(&tenant, "crm");
    stranger.password("wrong");
    assert_eq!(refusal(&connect(&stranger).await.expect_err("a refusal")).0, "28P01");
    assert_eq!(unconcerned.ask("SELECT 'undisturbed'").await, "undisturbed");

    world.run(&["tenant", "allow", "remove", &tenant.slug, "192.0.2.0/24"]).await;
    until("without a list they come from everywhere", async || refused(&proxy, &tenant).await.is_none()).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_counts_is_the_one_that_the_balancer_tells() {
    let world = world().await;
    let tenant = world.tenant_of(&unique("behind"), &["crm"]).await;
    world.run(&["tenant", "allow", "add", &tenant.slug, "192.0.2.0/24"]).await;
    let proxy = proxy(world, |config| config.listen.proxy_protocol_from = vec!["127.0.0.1".parse().unwrap()]).await;
    for (client, is_let_in) in [("192.0.2.77:5", true), ("198.51.100.1:5", false)] {
        let mut wire = Wire::open(proxy.address).await;
        let hello = startup(&[("user", &tenant.user()), ("database", "crm")]);
        wire.send(&[crate::balancer::header(client.parse().unwrap()), hello].concat()).await;
        let refused = wire.authenticate(&tenant.password).await.err();
        assert_eq!(refused.map(|error| error.field(b'C')), (!is_let_in).then(|| "28000".to_owned()), "{client}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_are_slowed_alike_whether_the_login_is_there_or_not_and_a_right_one_succeeds() {
    let world = world().await;
    let tenant = world.tenant_of(&unique("slowed"), &["crm"]).await;
    let proxy = proxy(world, |_| {}).await;
    let nobody = format!("app@{}", unique("nobody"));
    for user in [tenant.user(), nobody] {
        let mut took = Vec::new();
        for _ in 0..8 {
            let mut config = proxy.config(&tenant, "crm");
            config.user(&user).password("wrong");
            let before = Instant::now();
            let (code, text) = refusal(&connect(&config).await.expect_err("a refusal"));
            assert_eq!(
                (code, text),
                ("28P01".to_owned(), format!("password authentication failed for user \"{user}\""))
            );
            took.push(before.elapsed());
        }
        // The last of them waited for 400 ms, and no busy machine makes that shorter.
        assert!(took[7].as_millis() >= 400, "{took:?}");
    }
    assert!(refused(&proxy, &tenant).await.is_none(), "a right password is right");
    proxy.stop().await;
}
