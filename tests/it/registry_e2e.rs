//! What is changed in the registry, and what becomes of clients while it is down, seen through a running proxy.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pgtenant::cluster::Cluster;
use pgtenant::proxy::Proxy;
use pgtenant::registry::{self, Admin, Registry};
use pgtenant::tenant::TenantName;
use serde_json::Value;

use crate::support::wire::startup;
use crate::support::{Message, Running, Tenant, Wire, World, cluster, database, proxy, settings, unique, until, world};

/// Every instance follows a change within a second; a machine that runs all tests at once may take a little longer.
const PROMPT: Duration = Duration::from_secs(4);
const PLACES: [&str; 3] = ["operations", "shop", "ledger"];

async fn login(proxy: &Running, user: &str, module: &str, password: &str) -> Result<Wire, Message> {
    Wire::login_with(proxy.address, &startup(&[("user", user), ("database", module)]), password).await
}

/// SQLSTATE and text of a refused login.
async fn refusal(proxy: &Running, user: &str, module: &str, password: &str) -> (String, String) {
    let refused = login(proxy, user, module, password).await.err().expect("a refusal");
    (refused.field(b'C'), refused.field(b'M'))
}

/// The tenant's own row, by the session's own pool.
async fn note(session: &mut Wire) -> String {
    session.value("SELECT string_agg(note, ',') FROM notes").await
}

/// Reads a session to its end; the SQLSTATE of its last word.
async fn last_word(session: &mut Wire) -> String {
    let mut word = String::new();
    while let Some(message) = session.receive().await {
        if message.kind == b'E' {
            word = message.field(b'C');
        }
    }
    word
}

/// Starts a proxy over any registry.
async fn serve(registry: registry::Config) -> Running {
    let registry = Registry::open(&registry).await.unwrap();
    let proxy = Proxy::start(settings(), registry.clone()).await.unwrap();
    let address = proxy.tcp_address().unwrap();
    Running { proxy, address, registry }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_is_out_at_once_on_every_proxy_and_nobody_else_is() {
    let world = world().await;
    let (tenant, other) = (world.tenant_of("suspended", &PLACES).await, world.tenant_of("spared", &PLACES).await);
    let proxies = [proxy(world, |_| {}).await, proxy(world, |_| {}).await];
    let (mut sessions, mut spared) = (Vec::new(), Vec::new());
    for proxy in &proxies {
        for module in PLACES {
            sessions.push(Wire::login(proxy.address, &tenant, module).await);
            let mut busy = Wire::login(proxy.address, &tenant, module).await;
            busy.run("BEGIN; INSERT INTO notes (note) VALUES ('never committed')").await;
            sessions.push(busy);
            spared.push(Wire::login(proxy.address, &other, module).await);
        }
    }
    world.run(&["tenant", "suspend", &tenant.slug]).await;
    let suspended = Instant::now();
    for session in &mut sessions {
        assert_eq!(last_word(session).await, "57P01");
    }
    assert!(suspended.elapsed() < PROMPT, "{:?}", suspended.elapsed());
    for proxy in &proxies {
        let (code, text) = refusal(proxy, &tenant.user(), "shop", &tenant.password).await;
        assert_eq!((code.as_str(), text), ("28000", format!("(PT-SUSPENDED) tenant \"{}\" is suspended", tenant.slug)));
    }
    for session in &mut spared {
        assert_eq!(note(session).await, other.slug);
    }
    world.run(&["tenant", "activate", &tenant.slug]).await;
    for proxy in proxies {
        for module in PLACES {
            assert_eq!(note(&mut Wire::login(proxy.address, &tenant, module).await).await, tenant.slug);
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_sessions_of_a_suspended_tenant_end_after_its_grace() {
    let world = world().await;
    let tenant = world.tenant_of("graced", &PLACES).await;
    let proxy = proxy(world, |_| {}).await;
    let refused = async || login(&proxy, &tenant.user(), "shop", &tenant.password).await.is_err();
    let mut session = Wire::login(proxy.address, &tenant, "shop").await;
    let mut busy = Wire::login(proxy.address, &tenant, "operations").await;
    busy.run("BEGIN").await;
    // Activated in time: nobody notices.
    world.run(&["tenant", "suspend", &tenant.slug, "--grace", "2s"]).await;
    let over = Instant::now() + Duration::from_secs(3);
    until("new sessions are refused", &refused).await;
    assert_eq!(note(&mut session).await, tenant.slug);
    world.run(&["tenant", "activate", &tenant.slug]).await;
    until("the grace would be over", async || Instant::now() > over).await;
    assert_eq!(note(&mut session).await, tenant.slug, "activated again");
    // Not activated: they end, in transactions too.
    world.run(&["tenant", "suspend", &tenant.slug, "--grace", "3s"]).await;
    let suspended = Instant::now();
    until("new sessions are refused", &refused).await;
    assert_eq!(note(&mut session).await, tenant.slug, "in the grace");
    assert_eq!(note(&mut busy).await, tenant.slug, "in the grace");
    assert_eq!(last_word(&mut session).await, "57P01");
    assert_eq!(last_word(&mut busy).await, "57P01");
    let ended = suspended.elapsed();
    assert!(ended > Duration::from_secs(2) && ended < Duration::from_secs(3) + PROMPT, "{ended:?}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_password_fails_as_soon_as_there_is_a_new_one() {
    let world = world().await;
    let tenant = world.tenant_of("rotated", &PLACES).await;
    let proxy = proxy(world, |_| {}).await;
    let user = tenant.user();
    let mut running = Wire::login(proxy.address, &tenant, "operations").await;
    assert_eq!(note(&mut running).await, tenant.slug);
    let printed = world.run(&["tenant", "login", "password", &tenant.slug, "app", "--json"]).await;
    let changed = Instant::now();
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let password = printed["password"].as_str().unwrap();
    // Until the proxy has heard of it, it asks for the old proof.
    until("the new password is good", async || login(&proxy, &user, "shop", password).await.is_ok()).await;
    assert!(changed.elapsed() < PROMPT, "{:?}", changed.elapsed());
    for module in PLACES {
        let session = login(&proxy, &user, module, password).await;
        let mut session = session.unwrap_or_else(|error| panic!("{}", error.field(b'M')));
        assert_eq!(note(&mut session).await, tenant.slug);
    }
    for module in PLACES {
        let wrong = ("28P01".to_owned(), format!("password authentication failed for user \"{user}\""));
        assert_eq!(refusal(&proxy, &user, module, &tenant.password).await, wrong);
    }
    // A session of before goes on, and its pool opens connections with the new login's key.
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    let admin = cluster().await.connect("postgres").await.unwrap();
    login(&proxy, &user, "operations", password).await.unwrap_or_else(|error| panic!("{}", error.field(b'M')));
    let role = tenant.place("operations", "role");
    admin.execute(terminate, &[&role]).await.unwrap();
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
    until("its connections are gone", async || admin.query_one(gone, &[&role]).await.unwrap().get::<_, i64>(0) == 0)
        .await;
    assert_eq!(note(&mut running).await, tenant.slug);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_changed_while_a_client_proves_the_old_one_does_not_let_it_in() {
    let world = world().await;
    let tenant = world.tenant_of("late", &["operations"]).await;
    let proxy = proxy(world, |_| {}).await;
    let user = tenant.user();
    let mut slow = Wire::open(proxy.address).await;
    slow.send(&startup(&[("user", &user), ("database", "operations")])).await;
    // The proxy has read the old verifier when it asks for the proof.
    slow.stream.peek(&mut [0]).await.unwrap();
    world.run(&["tenant", "login", "password", &tenant.slug, "app"]).await;
    until("the change is known", async || login(&proxy, &user, "operations", &tenant.password).await.is_err()).await;
    slow.authenticate(&tenant.password).await.expect_err("a refusal");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_is_unsubscribed_is_no_database_any_more() {
    let world = world().await;
    let tenant = world.tenant_of("leaving", &PLACES).await;
    let proxy = proxy(world, |_| {}).await;
    let mut leaving = Wire::login(proxy.address, &tenant, "shop").await;
    let mut staying = Wire::login(proxy.address, &tenant, "operations").await;
    world.run(&["tenant", "unsubscribe", &tenant.slug, "shop"]).await;
    assert_eq!(last_word(&mut leaving).await, "57P01");
    let (code, text) = refusal(&proxy, &tenant.user(), "shop", &tenant.password).await;
    assert_eq!(
        (code.as_str(), text),
        ("3D000", format!("(PT-NOMODULE) tenant \"{}\" has no database \"shop\"", tenant.slug))
    );
    assert_eq!(note(&mut staying).await, tenant.slug);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_made_again_under_the_same_name_gets_nothing_of_the_old_one() {
    let world = world().await;
    let slug = unique("reborn");
    let old = world.tenant_in(&slug, &PLACES, &[]).await;
    let proxy = proxy(world, |_| {}).await;
    let mut sessions = Vec::new();
    for module in PLACES {
        let mut session = Wire::login(proxy.address, &old, module).await;
        session.run("INSERT INTO notes (note) VALUES ('of the old one')").await;
        session.run("CREATE TEMP TABLE mine AS SELECT 'of the old one'::text AS note").await;
        sessions.push(session);
        // Leaves a connection in the pool.
        assert_eq!(note(&mut Wire::login(proxy.address, &old, module).await).await, format!("{slug},of the old one"));
    }
    world.run(&["tenant", "delete", &slug, "--drop-data"]).await;
    for session in &mut sessions {
        assert_eq!(last_word(session).await, "57P01");
    }
    let new = world.tenant_in(&slug, &PLACES, &[]).await;
    assert_ne!(new.id, old.id);
    for module in PLACES {
        let mut session = Wire::login(proxy.address, &new, module).await;
        assert_eq!(note(&mut session).await, slug, "{module}");
        assert_eq!(session.run("SELECT * FROM mine").await.code(), "42P01", "{module}");
        let refused = refusal(&proxy, &old.user(), module, &old.password).await;
        assert_eq!(refused.0, "28P01", "{module}: {}", refused.1);
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn known_tenants_go_on_while_the_registry_is_down_and_unknown_ones_wait() {
    let store = Cluster::builder().start().await.unwrap();
    let world = World::over(store.superuser_url("postgres")).await;
    let (known, unknown) = (world.tenant_of("known", &PLACES).await, world.tenant_of("unknown", &PLACES).await);
    let registry =
        Registry::open(&registry::Config { url: Some(world.registry.clone()), ..Default::default() }).await.unwrap();
    let mut config = settings();
    config.identify.default_tenant = Some(known.slug.clone());
    let proxy = Proxy::start(config, registry.clone()).await.unwrap();
    let proxy = Running { address: proxy.tcp_address().unwrap(), proxy, registry };
    let mut session = Wire::login(proxy.address, &known, "operations").await;
    store.stop().await.unwrap();
    // Also after the proxy has noticed.
    for _ in 0..3 {
        assert_eq!(note(&mut session).await, known.slug);
        for module in PLACES {
            assert_eq!(note(&mut Wire::login(proxy.address, &known, module).await).await, known.slug, "{module}");
        }
        assert_eq!(refusal(&proxy, &known.user(), "shop", "wrong").await.0, "28P01");
        for user in [unknown.user(), "app@nobody".to_owned(), format!("app@{}", unknown.id)] {
            let (code, text) = refusal(&proxy, &user, "operations", &unknown.password).await;
            assert_eq!(code, "57P03", "{user}: {text}");
            assert!(text.starts_with("(PT-UNAVAILABLE) "), "{text}");
        }
    }
    store.start().await.unwrap();
    until("the registry is back", async || login(&proxy, &unknown.user(), "shop", &unknown.password).await.is_ok())
        .await;
    world.run(&["tenant", "suspend", &known.slug]).await;
    assert_eq!(last_word(&mut session).await, "57P01", "changes are followed again");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn known_tenants_survive_a_restart_while_the_registry_is_down() {
    let store = Cluster::builder().start().await.unwrap();
    let world = World::over(store.superuser_url("postgres")).await;
    let (known, unknown) =
        (world.tenant_of("known", &["operations"]).await, world.tenant_of("unknown", &["operations"]).await);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("snapshot.json");
    let config =
        registry::Config { url: Some(world.registry.clone()), snapshot_file: Some(file.clone()), ..Default::default() };
    let proxy = serve(config.clone()).await;
    assert_eq!(note(&mut Wire::login(proxy.address, &known, "operations").await).await, known.slug);
    let holds = |text: &str| std::fs::read_to_string(&file).is_ok_and(|content| content.contains(text));
    until("the snapshot is written", async || holds(&known.slug)).await;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!holds(&known.password) && !holds(&unknown.slug));
    proxy.stop().await;
    store.stop().await.unwrap();
    let proxy = serve(config).await;
    assert_eq!(note(&mut Wire::login(proxy.address, &known, "operations").await).await, known.slug);
    assert_eq!(refusal(&proxy, &known.user(), "operations", "wrong").await.0, "28P01");
    assert_eq!(refusal(&proxy, &unknown.user(), "operations", &unknown.password).await.0, "57P03");
    proxy.stop().await;
    // Without the snapshot nobody is known.
    let proxy = serve(registry::Config { url: Some(world.registry.clone()), ..Default::default() }).await;
    assert_eq!(refusal(&proxy, &known.user(), "operations", &known.password).await.0, "57P03");
    proxy.stop().await;
}

/// Writes what the registry database says as a registry file.
async fn export(world: &World, path: &Path) -> String {
    let admin = Admin::connect(&world.registry).await.unwrap();
    let text = admin.contents().await.unwrap().to_toml().unwrap();
    std::fs::write(path, &text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_file_serves_the_same_tenants_and_is_read_again_on_reload() {
    let world = World::over(database("registry").await.url).await;
    let tenant = world.tenant_of("filed", &PLACES).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tenants.toml");
    let first = export(&world, &path).await;
    let later = world.tenant_of("later", &PLACES).await;
    let proxy = serve(registry::Config { file: Some(path.clone()), ..Default::default() }).await;
    let mut sessions = Vec::new();
    for module in PLACES {
        let mut session = Wire::login(proxy.address, &tenant, module).await;
        assert_eq!(note(&mut session).await, tenant.slug, "{module}");
        sessions.push(session);
    }
    assert_eq!(refusal(&proxy, &later.user(), "shop", &later.password).await.0, "28P01");
    export(&world, &path).await;
    proxy.registry.reload().await.unwrap();
    let mut kept = Wire::login(proxy.address, &later, "shop").await;
    assert_eq!(note(&mut kept).await, later.slug);
    // One that cannot be right changes nothing.
    std::fs::write(&path, format!("{first}\nnonsense = 1")).unwrap();
    assert!(proxy.registry.reload().await.is_err());
    assert_eq!(note(&mut kept).await, later.slug);
    for session in &mut sessions {
        assert_eq!(note(session).await, tenant.slug, "unchanged, and not disturbed");
    }
    // Suspended, then gone.
    world.run(&["tenant", "suspend", &tenant.slug]).await;
    export(&world, &path).await;
    proxy.registry.reload().await.unwrap();
    for session in &mut sessions {
        assert_eq!(last_word(session).await, "57P01");
    }
    assert_eq!(refusal(&proxy, &tenant.user(), "shop", &tenant.password).await.0, "28000");
    std::fs::write(&path, &first).unwrap();
    proxy.registry.reload().await.unwrap();
    assert_eq!(last_word(&mut kept).await, "57P01", "it is in the file no more");
    assert_eq!(refusal(&proxy, &later.user(), "shop", &later.password).await.0, "28P01");
    assert!(proxy.registry.lookup(&TenantName::parse(&later.slug).unwrap()).await.unwrap().is_none());
    assert_eq!(note(&mut Wire::login(proxy.address, &tenant, "shop").await).await, tenant.slug, "active again");
    proxy.stop().await;
}

/// A tenant of one test is never seen by its id under another name.
#[tokio::test(flavor = "multi_thread")]
async fn an_alias_taken_away_names_its_tenant_no_more_and_may_name_another() {
    let world = world().await;
    let (first, second) =
        (world.tenant_of("first", &["operations"]).await, world.tenant_of("second", &["operations"]).await);
    let proxy = proxy(world, |_| {}).await;
    let alias = format!("krn:shared:name:{}", first.slug);
    let user = format!("app@{alias}");
    let serves = async |tenant: &Tenant| match login(&proxy, &user, "operations", &tenant.password).await {
        Ok(mut session) => note(&mut session).await == tenant.slug,
        Err(_) => false,
    };
    assert!(!serves(&first).await);
    world.run(&["tenant", "alias", "add", &first.slug, &alias]).await;
    until("the alias names the first", async || serves(&first).await).await;
    world.run(&["tenant", "alias", "remove", &first.slug, &alias]).await;
    world.run(&["tenant", "alias", "add", &second.slug, &alias]).await;
    until("the alias names the second", async || serves(&second).await).await;
    assert!(!serves(&first).await);
    proxy.stop().await;
}
