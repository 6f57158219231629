//! What PostgreSQL says of a tenant's role holds for the tenant's clients: NOLOGIN, and passwords that have expired.

use std::time::Duration;

use pgtenant::tenant::PoolMode;

use crate::support::{World, cluster, connect, database, one, proxy, refusal, unique, until, world};

/// What is said of a role, and what its next client meets: none where it is served.
const STANDINGS: [(&str, Option<&str>); 6] = [
    ("NOLOGIN", Some("28000")),
    ("LOGIN", None),
    ("VALID UNTIL 'yesterday'", Some("28P01")),
    ("VALID UNTIL 'tomorrow'", None),
    ("VALID UNTIL 'yesterday'", Some("28P01")),
    ("VALID UNTIL 'infinity'", None),
];

/// Always asks.
const AT_ONCE: Duration = Duration::from_nanos(1);

async fn alter(role: &str, how: &str) {
    let admin = cluster().await.connect("postgres").await.expect("connect");
    admin.batch_execute(&format!("ALTER ROLE \"{role}\" {how}")).await.expect("alter the role");
}

/// What a client meets: none if it is served.
async fn met(config: &tokio_postgres::Config) -> Option<(String, String)> {
    match connect(config).await {
        Ok(client) => {
            assert_eq!(one(&client, "SELECT 1").await, "1");
            None
        }
        Err(error) => Some(refusal(&error)),
    }
}

/// The same as PostgreSQL says it itself, whose text names the role or what the client called itself.
fn said(code: &str, role: &str, user: &str) -> (String, String) {
    let text = match code {
        "28000" => format!("role \"{role}\" is not permitted to log in"),
        _ => format!("password authentication failed for user \"{user}\""),
    };
    (code.to_owned(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_log_in_or_has_expired_opens_nothing_with_the_right_password() {
    let tenant = world().await.tenant_of(&unique("expired"), &["crm"]).await;
    let role = tenant.place("crm", "role");
    for (how, refused) in STANDINGS {
        alter(role, how).await;
        // A fresh proxy, with no server connection that was opened before.
        let proxy = proxy(world().await, |_| {}).await;
        let expected = refused.map(|code| said(code, role, &tenant.user()));
        assert_eq!(met(&proxy.config(&tenant, "crm")).await, expected, "{how}");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_log_in_or_has_expired_gets_no_new_client_on_open_connections_and_those_there_go_on() {
    let tenant = world().await.tenant_of(&unique("locked"), &["crm", "operations", "ledger"]).await;
    let role = tenant.place("crm", "role").to_owned();
    for mode in [PoolMode::Transaction, PoolMode::Session] {
        let proxy = proxy(world().await, |config| {
            config.pool.mode = mode;
            config.pool.role_check_interval = AT_ONCE;
        })
        .await;
        for module in ["crm", "operations", "ledger"] {
            let config = proxy.config(&tenant, module);
            let there = connect(&config).await.expect("connect");
            // A second connection, which is idle when the next client comes.
            assert_eq!(met(&config).await, None);
            for (how, refused) in STANDINGS {
                alter(&role, how).await;
                let expected = refused.map(|code| said(code, &role, &tenant.user()));
                assert_eq!(met(&config).await, expected, "{module}, {mode:?}: {how}");
                assert_eq!(one(&there, "SELECT 1").await, "1", "{module}, {mode:?}: {how}");
            }
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_role_is_looked_at_again_after_its_time_and_not_before() {
    let tenant = world().await.tenant_of(&unique("known"), &["crm"]).await;
    let role = tenant.place("crm", "role");
    let asking = async |interval| proxy(world().await, |config| config.pool.role_check_interval = interval).await;
    let (never, rarely, often) =
        (asking(Duration::ZERO).await, asking(Duration::from_secs(3600)).await, asking(Duration::from_secs(1)).await);
    let [never_at, rarely_at, often_at] = [&never, &rarely, &often].map(|proxy| proxy.config(&tenant, "crm"));
    for config in [&never_at, &rarely_at, &often_at] {
        assert_eq!(met(config).await, None);
    }
    alter(role, "NOLOGIN").await;
    until("the role's standing is noticed", async || met(&often_at).await.is_some()).await;
    assert_eq!(met(&rarely_at).await, None, "known for an hour");
    assert_eq!(met(&never_at).await, None, "never asked");
    alter(role, "LOGIN").await;
    assert_eq!(met(&often_at).await, None, "a refusal is not remembered");
    for proxy in [never, rarely, often] {
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_common_pool_the_service_login_and_the_role_it_switches_to_are_looked_at() {
    let world = World::over(database("registry").await.url).await;
    let module = unique("switched");
    let kind =
        ["module", "add", &module, "--isolation", "schema", "--pooling", "shared", "--server", "main", "--set-role"];
    world.run(&[&kind[..], &["--database", &module]].concat()).await;
    let create = ["tenant", "create", &module, "--name", &module, "--modules", &module, "--json"];
    let made: serde_json::Value = serde_json::from_str(&world.run(&create).await).expect("JSON");
    let role = made["modules"][0]["role"].as_str().expect("a role");
    let user = format!("app@{module}");
    let proxy = proxy(&world, |config| config.pool.role_check_interval = AT_ONCE).await;
    let mut config = tokio_postgres::Config::new();
    config.host(proxy.address.ip().to_string()).port(proxy.address.port()).dbname(&module).user(&user);
    config.password(made["password"].as_str().expect("a password"));
    let there = connect(&config).await.expect("connect");
    for (how, refused) in STANDINGS {
        alter(role, how).await;
        assert_eq!(met(&config).await, refused.map(|code| said(code, role, &user)), "{how}");
    }
    let service = one(&there, "SELECT session_user").await;
    for (how, refused) in STANDINGS {
        alter(&service, how).await;
        // What is wrong with the operator's own login is no client's business.
        let expected = refused.map(|_| ("08006", "(PT-BACKEND) logging in to the tenant's server failed"));
        let expected = expected.map(|(code, text)| (code.to_owned(), text.to_owned()));
        assert_eq!(met(&config).await, expected, "the service login: {how}");
        assert_eq!(one(&there, "SELECT 1").await, "1");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_not_adopted_with_a_role_that_may_not_log_in_or_has_expired() {
    let world = world().await;
    let place = world.tenant_of(&unique("adopted"), &["crm"]).await;
    let (database, schema) = (place.place("crm", "database"), "public");
    let admin = cluster().await.connect(database).await.expect("connect");
    let role = unique("theirs");
    admin.batch_execute(&format!("CREATE ROLE \"{role}\" LOGIN PASSWORD 'of theirs'")).await.expect("a role");
    // A place that no tenant has: the database of one that is gone from the registry.
    world.run(&["tenant", "unsubscribe", &place.slug, "crm"]).await;
    let grants =
        format!("GRANT CONNECT ON DATABASE \"{database}\" TO \"{role}\"; GRANT USAGE ON SCHEMA {schema} TO \"{role}\"");
    admin.batch_execute(&grants).await.expect("grant");
    let slug = unique("adopter");
    world.run(&["tenant", "create", &slug, "--name", &slug]).await;
    let subscribe = ["tenant", "subscribe", &slug, "crm", "--existing", "--database", database, "--role", &role];
    for (how, said) in [
        ("NOLOGIN", Some("may not log in")),
        ("LOGIN VALID UNTIL 'yesterday'", Some("has expired")),
        ("VALID UNTIL 'infinity'", None),
    ] {
        admin.batch_execute(&format!("ALTER ROLE \"{role}\" {how}")).await.expect("alter the role");
        let output = world.command(&subscribe).output().await.expect("run pgtenant");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), said.is_none(), "{how}: {error}");
        assert!(error.contains(said.unwrap_or_default()), "{how}: {error}");
    }
}
