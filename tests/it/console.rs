//! The admin console: what it shows, what it does, and who may.

use std::time::Duration;

use pgtenant::auth::Verifier;
use pgtenant::console::{Role, User};
use pgtenant::proxy::Request;
use pgtenant::tenant::PoolMode;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::support::wire::{failure, parse, query, startup, sync, value};
use crate::support::{Running, Watch, Wire, connect, proxy, refusal, unique, until, world};

const PASSWORD: &str = "of the console";

fn users() -> Vec<User> {
    let user = |name: &str, role| User { name: name.to_owned(), verifier: Verifier::generate(PASSWORD, 4096), role };
    vec![user("ops", Role::Admin), user("exporter", Role::Stats)]
}

async fn console_as(running: &Running, user: &str, password: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host(running.address.ip().to_string()).port(running.address.port());
    config.user(user).password(password).dbname("pgtenant");
    connect(&config).await
}

async fn console(running: &Running) -> Client {
    console_as(running, "ops", PASSWORD).await.expect("connect to the console")
}

async fn rows(client: &Client, command: &str) -> Vec<SimpleQueryRow> {
    let messages = client.simple_query(command).await.expect("an answer");
    messages
        .into_iter()
        .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None })
        .collect()
}

async fn refused(client: &Client, command: &str) -> (String, String) {
    refusal(&client.simple_query(command).await.expect_err("a refusal"))
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_clients_servers_and_counters_are_shown_as_pgbouncer_names_them() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("shown"), &["crm", "shop"], &[]).await;
    let proxy = proxy(world, |config| {
        config.console.users = users();
        config.limits.max_clients = 50;
    })
    .await;
    let startup = startup(&[("user", &tenant.user()), ("database", "crm"), ("application_name", "teller")]);
    let mut client = Wire::login_with(proxy.address, &startup, &tenant.password).await.expect("log in");
    let mut shop = Wire::login(proxy.address, &tenant, "shop").await;
    for _ in 0..3 {
        client.query("SELECT 1").await;
    }
    client.query("BEGIN").await;
    let pid = client.ask("SELECT pg_backend_pid()").await;
    shop.query("LISTEN news").await;
    let ops = console(&proxy).await;

    let pools = rows(&ops, "SHOW POOLS").await;
    let crm = pools.iter().find(|row| row.get("module") == Some("crm")).expect("the pool");
    assert_eq!(crm.get("database"), Some(tenant.place("crm", "database")));
    assert_eq!(
        (crm.get("tenant"), crm.get("cl_active"), crm.get("sv_active")),
        (Some(tenant.slug.as_str()), Some("1"), Some("1"))
    );
    assert_eq!(
        (crm.get("cl_waiting"), crm.get("maxwait"), crm.get("pool_mode")),
        (Some("0"), Some("0"), Some("transaction"))
    );
    let common = pools.iter().find(|row| row.get("module") == Some("shop")).expect("the pool");
    assert_eq!(common.get("tenant"), Some(""), "it is all tenants'");

    let clients = rows(&ops, "show clients;").await;
    let shown = clients.iter().find(|row| row.get("application_name") == Some("teller")).expect("the client");
    assert_eq!((shown.get("state"), shown.get("user")), (Some("idle in transaction"), Some(tenant.user().as_str())));
    assert_eq!(shown.get("addr"), Some("127.0.0.1"));
    assert_eq!(shown.get("link"), Some(pid.as_str()));
    let servers = rows(&ops, "SHOW SERVERS").await;
    let server = servers.iter().find(|row| row.get("remote_pid") == Some(&pid)).expect("the connection");
    assert_eq!((server.get("state"), server.get("link")), (Some("active"), shown.get("ptr")));

    let stats = rows(&ops, "SHOW STATS").await;
    let counted = stats.iter().find(|row| row.get("module") == Some("crm")).expect("the counters");
    let number = |name: &str| counted.get(name).expect(name).parse::<i64>().expect("a number");
    assert_eq!((number("total_xact_count"), number("total_query_count")), (3, 5));
    assert!(number("total_received") > 60 && number("total_sent") > 100 && number("total_query_time") > 0);

    until("the server was asked", async || rows(&ops, "SHOW PINS").await.len() == 1).await;
    let pins = rows(&ops, "SHOW PINS").await;
    assert_eq!((pins[0].get("tenant"), pins[0].get("reason")), (Some(tenant.slug.as_str()), Some("listen")));
    let lists = rows(&ops, "SHOW LISTS").await;
    let used = lists.iter().find(|row| row.get("list") == Some("used_clients")).expect("the list");
    assert_eq!(used.get("items"), Some("2"), "the console is no client");
    let tenants = rows(&ops, "SHOW TENANTS").await;
    assert_eq!((tenants.len(), tenants[0].get("clients")), (1, Some("2")));
    assert_eq!((tenants[0].get("max_clients"), tenants[0].get("max_servers")), (Some("50"), Some("0")));
    let databases = rows(&ops, "SHOW DATABASES").await;
    let standing = ["server", "server_max_connections", "server_waiting"].map(|column| databases[0].get(column));
    assert_eq!(standing, [Some("main"), Some("0"), Some("0")]);
    let used = databases[0].get("server_connections").and_then(|used| used.parse::<u32>().ok());
    assert!(used.is_some_and(|used| used > 0), "{used:?}");
    let config = rows(&ops, "SHOW CONFIG").await;
    let size = config.iter().find(|row| row.get("key") == Some("pool.size")).expect("the setting");
    assert_eq!((size.get("value"), size.get("default"), size.get("changeable")), (Some("4"), Some("10"), Some("yes")));
    for topic in ["VERSION", "HELP", "DATABASES", "TOTALS", "USERS"] {
        assert!(!rows(&ops, &format!("SHOW {topic}")).await.is_empty(), "{topic}");
    }
    assert_eq!(refused(&ops, "SHOW NOTHING").await.0, "42601");
    assert_eq!(refused(&ops, "SELECT 1").await.0, "42601");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_is_for_its_own_users_each_in_their_role() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("role"), &["crm"], &[]).await;
    let running = proxy(world, |config| config.console.users = users()).await;
    for (user, password) in [
        ("ops", "wrong"),
        ("nobody", PASSWORD),
        (tenant.user().as_str(), tenant.password.as_str()),
        ("ops", &tenant.password),
    ] {
        let error = console_as(&running, user, password).await.expect_err("no way in");
        let expected = format!("password authentication failed for user \"{user}\"");
        assert_eq!(refusal(&error), ("28P01".to_owned(), expected));
    }
    let exporter = console_as(&running, "exporter", PASSWORD).await.expect("connect");
    assert!(!rows(&exporter, "SHOW STATS").await.is_empty() || rows(&exporter, "SHOW LISTS").await.len() > 5);
    for command in
        ["PAUSE", "RESUME", "RECONNECT", "KILL x", "KILL_CLIENT 1", "DISABLE x", "ENABLE x", "RELOAD", "SHUTDOWN"]
    {
        assert_eq!(refused(&exporter, command).await.0, "42501", "{command}");
    }
    running.stop().await;
    // Where there are no console users, the name is a module like any other.
    let running = proxy(world, |_| {}).await;
    let error = console_as(&running, "ops", PASSWORD).await.expect_err("no way in");
    assert_eq!(refusal(&error).0, "28000");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_clients_have_left_is_still_shown_by_its_name() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("left"), &["crm"], &[]).await;
    let proxy = proxy(world, |config| config.console.users = users()).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    assert_eq!(client.ask("SELECT 1").await, "1");
    drop(client);
    until("it has left", async || proxy.proxy.clients() == 0).await;
    let console = console(&proxy).await;
    for what in ["POOLS", "SERVERS", "STATS"] {
        let row = &rows(&console, &format!("SHOW {what}")).await[0];
        assert_eq!(row.get("tenant"), Some(tenant.slug.as_str()), "{what}");
    }
    assert_eq!(rows(&console, "SHOW DATABASES").await[0].get("name"), Some(&*format!("{}.crm", tenant.slug)));
    console.simple_query(&format!("PAUSE {}", tenant.slug)).await.expect("a pause");
    let row = &rows(&console, "SHOW TENANTS").await[0];
    let told = ["tenant", "status", "clients", "pools", "paused"].map(|column| row.get(column));
    assert_eq!(told, [Some(tenant.slug.as_str()), Some("active"), Some("0"), Some("1"), Some("1")]);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_client_that_does_not_keep_to_simple_queries_is_told_so() {
    let proxy = proxy(world().await, |config| config.console.users = users()).await;
    let startup = startup(&[("user", "ops"), ("database", "pgtenant")]);
    let mut wire = Wire::login_with(proxy.address, &startup, PASSWORD).await.expect("log in");
    wire.send(&[parse("", "SHOW POOLS"), sync()].concat()).await;
    assert_eq!(failure(&wire.until_ready().await).0, "0A000");
    wire.send(&[query("SET application_name = 'x'"), query(";"), query("SHOW VERSION")].concat()).await;
    assert_eq!(wire.kinds().await, "CZ");
    assert_eq!(wire.kinds().await, "IZ");
    assert!(value(&wire.until_ready().await).starts_with("pgtenant "));
    wire.send(&[b'Q', 0x7f, 0xff, 0xff, 0xff]).await;
    assert!(wire.is_closed().await, "a message of two gigabytes is not waited for");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_waits_for_transactions_and_holds_what_comes_until_resume() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("pause"), &["crm"], &[]).await;
    let other = world.tenant_in(&unique("pause"), &["crm"], &[]).await;
    for mode in [PoolMode::Transaction, PoolMode::Session] {
        let proxy = proxy(world, |config| {
            config.console.users = users();
            config.pool.mode = mode;
        })
        .await;
        let watch = Watch::over(&tenant, "crm").await;
        let mut client = Wire::login(proxy.address, &tenant, "crm").await;
        let mut neighbour = Wire::login(proxy.address, &other, "crm").await;
        client.query("BEGIN").await;
        let ops = console(&proxy).await;
        let pausing = {
            let command = format!("PAUSE {}", tenant.slug);
            tokio::spawn(async move { ops.simple_query(&command).await.map(|_| ops) })
        };
        let look = console(&proxy).await;
        until("the pause is there", async || {
            rows(&look, "SHOW TENANTS").await.iter().any(|row| row.get("paused") == Some("1"))
        })
        .await;
        assert_eq!(client.ask("SELECT 'in the transaction'").await, "in the transaction");
        assert!(!pausing.is_finished(), "the transaction still runs");
        client.query("COMMIT").await;
        let ops = pausing.await.expect("no panic").expect("paused");
        client.send(&query("SELECT 'held'")).await;
        until("the client waits", async || {
            rows(&look, "SHOW CLIENTS").await.iter().any(|row| row.get("state") == Some("waiting"))
        })
        .await;
        assert_eq!(neighbour.ask("SELECT 'not held'").await, "not held");
        assert_eq!(watch.backends("state = 'active'").await.len(), 0);
        rows(&ops, &format!("RESUME {}", tenant.slug)).await;
        assert_eq!(value(&client.until_ready().await), "held");
        assert_eq!(refused(&ops, &format!("RESUME {}", tenant.slug)).await.0, "42704");
        assert_eq!(
            refused(&ops, "PAUSE nosuch").await,
            ("42704".to_owned(), "there is no tenant \"nosuch\"".to_owned())
        );
        assert_eq!(refused(&ops, &format!("PAUSE {}.nosuch", tenant.slug)).await.0, "42704");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_reconnect_disable_and_enable_do_what_they_say() {
    let world = world().await;
    let tenant = world.tenant_in(&unique("kill"), &["crm", "operations"], &[]).await;
    let proxy = proxy(world, |config| config.console.users = users()).await;
    let ops = console(&proxy).await;
    let mut client = Wire::login(proxy.address, &tenant, "crm").await;
    let mut elsewhere = Wire::login(proxy.address, &tenant, "operations").await;

    let pid = client.ask("SELECT pg_backend_pid()").await;
    assert_eq!(client.ask("SELECT pg_backend_pid()").await, pid);
    rows(&ops, "RECONNECT").await;
    assert_ne!(client.ask("SELECT pg_backend_pid()").await, pid);
    client.query("BEGIN").await;
    let pid = client.ask("SELECT pg_backend_pid()").await;
    rows(&ops, &format!("RECONNECT {}.crm", tenant.slug)).await;
    assert_eq!(client.ask("SELECT pg_backend_pid()").await, pid, "not in a transaction");
    client.query("COMMIT").await;
    assert_ne!(client.ask("SELECT pg_backend_pid()").await, pid);

    rows(&ops, &format!("KILL {}.crm", tenant.slug)).await;
    assert_eq!(client.receive().await.expect("a last word").field(b'C'), "57P01");
    assert_eq!(elsewhere.ask("SELECT 1").await, "1");
    let id = rows(&ops, "SHOW CLIENTS").await[0].get("id").expect("an id").to_owned();
    rows(&ops, &format!("KILL_CLIENT {id}")).await;
    assert_eq!(elsewhere.receive().await.expect("a last word").field(b'C'), "57P01");
    assert_eq!(refused(&ops, "KILL_CLIENT 999999").await.0, "42704");

    rows(&ops, &format!("DISABLE {}", tenant.id)).await;
    let error = connect(&proxy.config(&tenant, "crm")).await.expect_err("no way in");
    assert_eq!(refusal(&error).0, "57P03");
    rows(&ops, &format!("ENABLE {}", tenant.slug)).await;
    proxy.connect(&tenant, "crm").await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_and_shutdown_are_asked_of_the_process_and_the_console_ends_with_it() {
    let mut running = proxy(world().await, |config| config.console.users = users()).await;
    let ops = console(&running).await;
    let reloading = tokio::spawn(async move { (ops.simple_query("RELOAD").await.map(|_| ()), ops) });
    let Some(Request::Reload(reply)) = running.proxy.request().await else { panic!("a reload") };
    reply.send(Err("line 3 is wrong".to_owned())).expect("the console waits");
    let (outcome, ops) = reloading.await.expect("no panic");
    assert_eq!(refusal(&outcome.expect_err("not reloaded")).1, "not reloaded, nothing has changed: line 3 is wrong");
    rows(&ops, "SHUTDOWN WAIT_FOR_CLIENTS").await;
    assert!(matches!(running.proxy.request().await, Some(Request::Shutdown { wait: true })));
    tokio::time::timeout(Duration::from_secs(30), running.proxy.until_left()).await.expect("nobody is there");
    running.stop().await;
    assert!(ops.simple_query("SHOW VERSION").await.is_err());
}
