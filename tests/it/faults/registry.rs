//! A registry that takes connections and questions, and answers none.

use std::time::Duration;

use pgtenant::cluster::Cluster;
use pgtenant::proxy::Proxy;
use pgtenant::registry::{self, Registry};

use super::frozen::Frozen;
use crate::support::wire::startup;
use crate::support::{Message, Running, Tenant, Wire, World, settings, until};

/// How long a question to the registry may take.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Known tenants are asked for again after this.
const TTL: Duration = Duration::from_millis(50);
const PLACES: [&str; 2] = ["crm", "shop"];

async fn login(proxy: &Running, tenant: &Tenant, user: &str, module: &str) -> Result<Wire, Message> {
    Wire::login_with(proxy.address, &startup(&[("user", user), ("database", module)]), &tenant.password).await
}

#[tokio::test(flavor = "multi_thread")]
async fn known_tenants_are_served_while_the_registry_says_nothing_and_unknown_ones_are_told_to_try_again() {
    let store = Cluster::builder().start().await.unwrap();
    let world = World::over(store.superuser_url("postgres")).await;
    let (known, unknown) = (world.tenant_of("known", &PLACES).await, world.tenant_of("unknown", &PLACES).await);
    let config = registry::Config {
        url: Some(world.registry.clone()),
        timeout: TIMEOUT,
        cache_ttl: TTL,
        negative_ttl: TTL,
        ..Default::default()
    };
    let registry = Registry::open(&config).await.unwrap();
    let proxy = Proxy::start(settings(), registry.clone()).await.unwrap();
    let proxy = Running { address: proxy.tcp_address().unwrap(), proxy, registry };
    let mut session = Wire::login(proxy.address, &known, "crm").await;

    let silent = Frozen::family(store.server_pid().unwrap());
    for _ in 0..2 {
        assert_eq!(session.ask("SELECT note FROM notes").await, known.slug);
        for module in PLACES {
            let mut client = Wire::login(proxy.address, &known, module).await;
            assert_eq!(client.ask("SELECT note FROM notes").await, known.slug, "{module}");
        }
        for user in [unknown.user(), "app@nobody".to_owned()] {
            let refused = login(&proxy, &unknown, &user, "crm").await.err().expect("a refusal");
            assert_eq!(refused.field(b'C'), "57P03", "{user}");
        }
    }
    // Many at once wait for no turn: more than the registry has connections.
    let crowd = (0..16).map(|_| async {
        let refused = login(&proxy, &unknown, &unknown.user(), "shop").await.err().expect("a refusal");
        refused.field(b'C')
    });
    assert_eq!(futures_util::future::join_all(crowd).await, ["57P03"; 16]);
    drop(silent);

    until("unknown tenants are found", async || login(&proxy, &unknown, &unknown.user(), "shop").await.is_ok()).await;
    assert_eq!(session.ask("SELECT note FROM notes").await, known.slug);
    world.run(&["tenant", "suspend", &known.slug]).await;
    let mut last = String::new();
    while let Some(message) = session.receive().await {
        last = message.field(b'C');
    }
    assert_eq!(last, "57P01", "changes are followed again");
    proxy.stop().await;
}
