//! What commands change, clients meet: at once where they would have been let in or kept out wrongly.

use pgtenant::tenant::{TenantName, TenantStatus};

use crate::support::{self, Wire, World, connect, one, proxy, refusal, unique, wire, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_served_the_moment_it_is_made_and_the_moment_it_is_activated() {
    let world = world().await;
    let proxy = proxy(world, |_| {}).await;
    for _ in 0..3 {
        let slug = unique("prompt");
        let create = ["tenant", "create", &slug, "--name", "Prompt", "--modules", "operations", "--json"];
        let made: serde_json::Value = serde_json::from_str(&world.run(&create).await).unwrap();
        let mut config = tokio_postgres::Config::new();
        config.host(proxy.address.ip().to_string()).port(proxy.address.port()).user(format!("app@{slug}"));
        config.password(made["password"].as_str().unwrap()).dbname("operations");
        let client = connect(&config).await.unwrap_or_else(|error| panic!("made: {error:?}"));
        assert_eq!(one(&client, "SELECT 1").await, "1");
        world.run(&["tenant", "suspend", &slug]).await;
        // Whether the proxy has heard of it or not, the refusal must not outlive the suspension.
        let refused = connect(&config).await.err().map(|error| refusal(&error).0);
        assert!(refused.is_none_or(|code| code == "28000"));
        world.run(&["tenant", "activate", &slug]).await;
        connect(&config).await.unwrap_or_else(|error| panic!("activated: {error:?}"));
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_its_time_to_log_in_finds_its_tenant_suspended() {
    let world = world().await;
    let tenant = world.tenant("slow").await;
    let proxy = proxy(world, |_| {}).await;
    let mut client = Wire::open(proxy.address).await;
    client.send(&wire::startup(&[("user", &tenant.user()), ("database", "crm")])).await;
    // The proxy has looked the tenant up when it asks for the proof.
    client.stream.peek(&mut [0]).await.unwrap();
    let mut changes = proxy.registry.changes();
    world.run(&["tenant", "suspend", &tenant.slug]).await;
    let name = TenantName::parse(&tenant.slug).unwrap();
    // Other tests' tenants change, too.
    while proxy.registry.lookup(&name).await.unwrap().unwrap().status != TenantStatus::Suspended {
        changes.recv().await.unwrap();
    }
    let refused = client.authenticate(&tenant.password).await.expect_err("a refusal");
    assert_eq!((refused.field(b'C').as_str(), &refused.field(b'M')[..14]), ("28000", "(PT-SUSPENDED)"));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_led_to_a_tenant_are_read_anew_after_a_reload() {
    let world = world().await;
    let tenant = world.tenant_of("words", &["operations"]).await;
    let proxy = proxy(world, |_| {}).await;
    let log_in = async || {
        let mut client = Wire::open(proxy.address).await;
        let words = [("user", "app"), ("tenant", &tenant.slug), ("database", "operations")];
        client.send(&wire::startup(&words)).await;
        client.authenticate(&tenant.password).await.map(drop).map_err(|refused| refused.field(b'C'))
    };
    for _ in 0..3 {
        log_in().await.expect("a tenant named by a parameter");
    }
    let read_as = |parameter: &str| {
        let mut config = support::settings();
        config.identify.parameters = vec![parameter.to_owned()];
        proxy.proxy.reload(&config).expect("settings that can be applied");
    };
    read_as("customer");
    assert_eq!(log_in().await.expect_err("no tenant is named"), "28000");
    read_as("tenant");
    log_in().await.expect("a tenant named by a parameter");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_tenant_that_nobody_here_uses_costs_the_registry_nothing() {
    let registry = support::database("registry").await;
    let world = World::over(registry.url.clone()).await;
    let busy = world.tenant_of("busy", &["operations"]).await;
    let proxy = proxy(&world, |_| {}).await;
    let session = proxy.connect(&busy, "operations").await;
    // As `pgtenant migrate` or a script over all tenants would.
    let others = "INSERT INTO pgtenant.tenants (slug, name, status) SELECT 't' || n, 'T', 'active' FROM generate_series(1, 200) AS n";
    registry.admin.batch_execute(others).await.unwrap();
    world.run(&["tenant", "suspend", &busy.slug]).await;
    support::until("the suspended session has ended", async || session.is_closed()).await;
    proxy.stop().await;
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgtenant registry'";
    let count = async |sql: &str| registry.admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    support::until("the proxy has left the registry", async || count(gone).await == 0).await;
    let looked_up = count("SELECT idx_scan FROM pg_stat_user_tables WHERE relid = 'pgtenant.logins'::regclass").await;
    assert!((1..100).contains(&looked_up), "{looked_up}");
}
