//! The HTTP side of `pgtenant serve`: health, readiness, metrics and who may see what, over real sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nix::sys::signal::Signal;
use pgtenant::auth::Verifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::SimpleQueryMessage;

use crate::support::wire::{failure, query};
use crate::support::{Child, Tenant, Wire, cluster, connect, until, world};

const ANY_PORT: &str = "[http]\naddress = \"127.0.0.1:0\"\n";
const GUARDED: &str = "[http]\naddress = \"127.0.0.1:0\"\ntoken = \"open sesame\"\n";

/// An answer: the status, the head as it came, and the body.
pub(crate) struct Answer {
    status: u16,
    head: String,
    pub(crate) body: String,
}

async fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

async fn get_with(child: &Child, path: &str, headers: &str) -> Answer {
    let address = child.http.expect("HTTP is served");
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n")).await
}

/// What a path answers.
pub(crate) async fn get(child: &Child, path: &str) -> Answer {
    get_with(child, path, "").await
}

/// The answer of `/readyz` once it is ready: the registry's changes are first read a moment after the start.
async fn until_ready(child: &Child) -> Answer {
    until("ready", async || get(child, "/readyz").await.status == 200).await;
    get(child, "/readyz").await
}

/// Whether a text is a name of a metric (letters, digits, `_`, `:`) or of a label.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// The labels of `name="value",…`, checked.
fn check_labels(mut rest: &str, line: &str) {
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("a label without a value: {line}"));
        assert!(is_name(name), "{line}");
        let mut end = None;
        let mut escaped = false;
        for (at, c) in value.char_indices() {
            match c {
                _ if escaped => {
                    assert!(matches!(c, 'n' | '\\' | '"'), "{line}");
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        rest = &value[end.unwrap_or_else(|| panic!("a value without an end: {line}")) + 1..];
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').unwrap_or_else(|| panic!("labels without a comma: {line}"));
        }
    }
}

/// Prometheus' text format, each line checked: the value of every series.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    let mut types = BTreeMap::new();
    assert!(text.ends_with('\n'));
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name, rest) = (words.next(), words.next().unwrap_or(""), words.next().unwrap_or(""));
            assert!(is_name(name) && !rest.is_empty(), "{line}");
            match kind {
                Some("HELP") => {}
                Some("TYPE") => {
                    assert!(matches!(rest, "counter" | "gauge" | "histogram" | "summary"), "{line}");
                    assert!(types.insert(name, rest).is_none(), "declared twice: {line}");
                }
                _ => panic!("a comment of another kind: {line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let family = match name.split_once('{') {
            Some((family, labels)) => {
                check_labels(labels.strip_suffix('}').unwrap_or_else(|| panic!("no end: {line}")), line);
                family
            }
            None => name,
        };
        assert!(is_name(family), "{line}");
        let parts = ["_bucket", "_sum", "_count"].iter().find_map(|part| family.strip_suffix(part));
        assert!(
            types.contains_key(family) || parts.is_some_and(|whole| types.get(whole) == Some(&"histogram")),
            "{line}"
        );
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(series.insert(name.to_owned(), value).is_none(), "twice: {line}");
    }
    series
}

async fn metrics(child: &Child) -> BTreeMap<String, f64> {
    let answer = get(child, "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    parse(&answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_alive_and_ready_until_it_drains() {
    let world = world().await;
    let tenant = world.tenant_of("ready", &["crm"]).await;
    let mut child = Child::serve(world, ANY_PORT).await;
    let healthy = get(&child, "/healthz").await;
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "alive\n"));
    let mut working = Wire::login(child.address, &tenant, "crm").await;
    working.query("BEGIN").await;
    let ready = until_ready(&child).await;
    assert_eq!(ready.body, "ready\n");
    assert!(ready.head.contains("cache-control: no-store"), "{}", ready.head);
    child.signal(Signal::SIGTERM);
    child.logged("draining").await;
    let draining = get(&child, "/readyz").await;
    assert_eq!((draining.status, draining.body.as_str()), (503, "draining\n"));
    assert_eq!(get(&child, "/healthz").await.status, 200);
    assert_eq!(get(&child, "/metrics").await.status, 200);
    working.send(&query("COMMIT")).await;
    working.until_ready().await;
    assert_eq!(failure(&working.until_ready().await).0, "57P01");
    assert!(child.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_ready_while_the_registry_was_never_reached() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("postgres://nobody@{closed}/registry");
    let child = Child::serve_registry(&url, ANY_PORT).await;
    assert_eq!(get(&child, "/healthz").await.status, 200);
    let answer = get(&child, "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "the registry cannot be reached, and no tenant is remembered\n");
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_guards_all_but_health_and_metrics() {
    let mut child = Child::serve(world().await, GUARDED).await;
    until_ready(&child).await;
    for open in ["/", "/healthz", "/metrics"] {
        assert_eq!(get(&child, open).await.status, 200, "{open}");
    }
    for guarded in ["/health/tenants", "/api/state", "/nowhere"] {
        let refused = get(&child, guarded).await;
        assert_eq!(refused.status, 401, "{guarded}");
        assert!(refused.head.contains("www-authenticate: bearer"), "{}", refused.head);
        assert_eq!(get_with(&child, guarded, "Authorization: Bearer open\r\n").await.status, 401);
    }
    let token = "Authorization: Bearer open sesame\r\n";
    assert_eq!(get_with(&child, "/nowhere", token).await.status, 404);
    child.configure("[http]\naddress = \"127.0.0.1:0\"\ntoken = \"another\"\n");
    child.signal(Signal::SIGHUP);
    child.logged("reloaded").await;
    assert_eq!(get_with(&child, "/nowhere", token).await.status, 401);
    assert_eq!(get_with(&child, "/nowhere", "Authorization: Bearer another\r\n").await.status, 404);
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plain_question_is_refused() {
    let child = Child::serve(world().await, ANY_PORT).await;
    let address = child.http.expect("HTTP is served");
    assert_eq!(ask(address, "POST /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.status, 405);
    assert_eq!(ask(address, "SELECT 1;\r\n\r\n").await.status, 400);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000));
    let mut stream = TcpStream::connect(address).await.expect("connect");
    // It may be cut off before all of it is sent.
    let _ = stream.write_all(long.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(get(&child, "/healthz").await.status, 200);
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = world().await.command(&["serve"]);
    command.env("PGTENANT_LISTEN_ADDRESS", "127.0.0.1:0").env("PGTENANT_HTTP_ADDRESS", &address);
    let output = command.output().await.expect("run pgtenant");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&format!("listen for HTTP on {address}")) && error.contains("in use"), "{error}");
}

fn login(child: &Child, tenant: &Tenant) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(child.address.ip().to_string()).port(child.address.port());
    config.user(tenant.user()).password(&tenant.password).dbname("crm");
    config
}

/// The sum of a family's series whose labels contain this.
fn sum(series: &BTreeMap<String, f64>, family: &str, labels: &str) -> f64 {
    let of_family = |name: &str| name.split('{').next() == Some(family);
    let found: Vec<_> = series.iter().filter(|(name, _)| of_family(name) && name.contains(labels)).collect();
    assert!(!found.is_empty(), "no {family} with {labels:?}: {series:?}");
    found.into_iter().map(|(_, value)| value).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_move_when_queries_run() {
    let world = world().await;
    let tenant = world.tenant_of("measured", &["crm", "operations"]).await;
    let child = Child::serve(world, ANY_PORT).await;
    let before = metrics(&child).await;
    assert_eq!(sum(&before, "pgtenant_sessions", ""), 0.0);
    let mut first = Wire::login(child.address, &tenant, "crm").await;
    let mut second = Wire::login(child.address, &tenant, "operations").await;
    for _ in 0..10 {
        first.ask("SELECT repeat('x', 1000)").await;
    }
    assert_eq!(failure(&second.query("SELECT 1/0").await).0, "22012");
    second.query("BEGIN").await;
    let now = metrics(&child).await;
    let label = format!("tenant=\"{}\"", tenant.slug);
    assert_eq!(sum(&now, "pgtenant_clients", ""), 2.0);
    assert_eq!(sum(&now, "pgtenant_logins_total", ""), 2.0);
    assert_eq!(sum(&now, "pgtenant_sessions", "state=\"idle\""), 1.0);
    assert_eq!(sum(&now, "pgtenant_sessions", "state=\"idle_in_transaction\""), 1.0);
    assert_eq!(sum(&now, "pgtenant_pool_connections", &format!("{label},state=\"active\"")), 1.0);
    assert_eq!(sum(&now, "pgtenant_server_connections", "server=\"main\""), 2.0);
    assert_eq!(sum(&now, "pgtenant_queries_total", &label), 12.0);
    assert_eq!(sum(&now, "pgtenant_transactions_total", &label), 11.0);
    assert!(sum(&now, "pgtenant_sent_bytes_total", &label) > 10_000.0);
    assert_eq!(sum(&now, "pgtenant_query_seconds_count", ""), 12.0);
    assert_eq!(sum(&now, "pgtenant_transaction_seconds_count", ""), 11.0);
    assert_eq!(sum(&now, "pgtenant_checkout_wait_seconds_count", ""), 12.0);
    assert_eq!(now["pgtenant_errors_total{source=\"server\",class=\"22\"}"], 1.0);
    assert_eq!(sum(&now, "pgtenant_registry_reachable", ""), 1.0);
    assert!(sum(&now, "pgtenant_registry_age_seconds", "") < 60.0);
    second.query("COMMIT").await;
    let later = metrics(&child).await;
    assert_eq!(sum(&later, "pgtenant_transactions_total", &label), 12.0);
    assert_eq!(sum(&later, "pgtenant_pool_connections", &format!("{label},state=\"idle\"")), 2.0);
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_beyond_the_labels_are_counted_together_and_no_counter_falls() {
    let world = world().await;
    let mut tenants = Vec::new();
    for _ in 0..3 {
        tenants.push(world.tenant_of("labels", &["crm"]).await);
    }
    // A pool that makes room for another takes its counters with it.
    let child = Child::serve(world, &format!("{ANY_PORT}tenant_labels = 1\n[pool]\nmax_pools = 1")).await;
    let mut before = 0.0;
    for tenant in &tenants {
        let mut client = Wire::login(child.address, tenant, "crm").await;
        for _ in 0..5 {
            client.ask("SELECT 1").await;
        }
        drop(client);
        let series = metrics(&child).await;
        let labels = series.keys().filter(|name| name.starts_with("pgtenant_queries_total{")).count();
        assert_eq!(labels, 2, "one tenant and the rest: {series:?}");
        let total = sum(&series, "pgtenant_queries_total", "");
        assert_eq!(total, before + 5.0);
        before = total;
    }
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_of_tenants_shows_their_places_pools_and_last_errors() {
    let world = world().await;
    let tenant = world.tenant_of("health", &["crm", "shop"]).await;
    let child = Child::serve(world, GUARDED).await;
    let token = "Authorization: Bearer open sesame\r\n";
    let path = format!("/health/tenants?tenant={}", tenant.slug);
    let health = async || -> serde_json::Value {
        let answer = get_with(&child, &path, token).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
        serde_json::from_str(&answer.body).expect("JSON")
    };
    let unused = health().await;
    assert_eq!(unused["tenants"][0]["tenant"], tenant.slug);
    assert_eq!(unused["tenants"][0]["status"], "active");
    assert_eq!(unused["tenants"][0]["places"][0]["pools"], serde_json::json!([]));
    let mut client = Wire::login(child.address, &tenant, "crm").await;
    client.query("BEGIN").await;
    let used = health().await;
    let places = used["tenants"][0]["places"].as_array().expect("places");
    let modules: Vec<_> = places.iter().map(|place| place["module"].as_str().unwrap()).collect();
    assert_eq!(modules, ["crm", "shop"]);
    let place = &places[0];
    assert_eq!((&place["server"], &place["isolation"]), (&"main".into(), &"database".into()));
    assert_eq!(place["database"], tenant.place("crm", "database"));
    let pool = &place["pools"][0];
    assert_eq!((&pool["active"], &pool["idle"], &pool["waiting"]), (&1.into(), &0.into(), &0.into()));
    assert_eq!((&pool["state"], &pool["last_error"]), (&"serving".into(), &serde_json::Value::Null));
    client.query("COMMIT").await;
    let admin = cluster().await.connect("postgres").await.expect("connect");
    let role = tenant.place("crm", "role");
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
    admin.batch_execute(&format!("ALTER ROLE \"{role}\" NOLOGIN; {end}")).await.expect("lock the role out");
    until("an error that tells why", async || {
        // Whichever of the two fails, it is for want of a server connection.
        if let Ok(client) = connect(&login(&child, &tenant)).await
            && client.simple_query("SELECT 1").await.is_ok()
        {
            // The old connection was not ended yet.
            return false;
        }
        let error = &health().await["tenants"][0]["places"][0]["pools"][0]["last_error"];
        error["message"].as_str().is_some_and(|text| text.contains("not permitted to log in"))
    })
    .await;
    let unknown = get_with(&child, "/health/tenants?tenant=nobody", token).await;
    assert_eq!(unknown.status, 404);
    let all = get_with(&child, "/health/tenants?limit=1", token).await;
    let all: serde_json::Value = serde_json::from_str(&all.body).expect("JSON");
    assert_eq!((all["tenants"].as_array().unwrap().len(), &all["silent_threads"]), (1, &0.into()));
    assert!(!all.to_string().contains(&tenant.password));
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_to_everybody_and_may_do_nothing_but_ask_its_server() {
    let child = Child::serve(world().await, GUARDED).await;
    until_ready(&child).await;
    let page = get(&child, "/").await;
    assert_eq!(page.status, 200);
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "; script-src 'sha256-",
        "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    assert!(!page.head.contains("unsafe"), "{}", page.head);
    assert!(page.body.ends_with("</html>\n"), "all of it");
    assert!(!page.body.contains("open sesame"));
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_what_the_console_shows() {
    let world = world().await;
    let tenant = world.tenant_of("state", &["crm"]).await;
    let user = format!("[[console.users]]\nname = \"ops\"\nverifier = \"{}\"\n", Verifier::generate("secret", 4096));
    let child = Child::serve(world, &format!("{ANY_PORT}[pool]\nsize = 1\n{user}")).await;
    let mut holder = Wire::login(child.address, &tenant, "crm").await;
    assert_eq!(failure(&holder.query("SELECT 1/0").await).0, "22012");
    holder.query("BEGIN").await;
    let mut waiter = Wire::login(child.address, &tenant, "crm").await;
    waiter.send(&query("SELECT 1")).await;
    let path = format!("/api/state?filter={}", tenant.slug.to_uppercase());
    let state = async || -> serde_json::Value {
        let answer = get(&child, &path).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("JSON")
    };
    until("a client that waits", async || state().await["waiting"]["total"] == 1).await;
    let shown = state().await;
    let mut config = login(&child, &tenant);
    config.user("ops").password("secret").dbname("pgtenant");
    let console = connect(&config).await.expect("connect to the console");
    for (command, part, numbers) in [
        ("SHOW POOLS", "pools", ["cl_active", "cl_waiting", "sv_active", "sv_idle", "size"]),
        ("SHOW TENANTS", "tenants", ["clients", "cl_active", "cl_waiting", "servers", "query_count"]),
    ] {
        let messages = console.simple_query(command).await.expect("rows");
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) if row.get("tenant") == Some(&tenant.slug) => Some(row),
            _ => None,
        });
        let (row, record) = (row.expect("its row"), &shown[part]["rows"][0]);
        assert_eq!((&shown[part]["total"], &record["tenant"]), (&1.into(), &tenant.slug.as_str().into()));
        for name in numbers {
            assert_eq!(record[name].to_string(), row.get(name).expect("a number"), "{command}: {name}");
        }
    }
    let pool = &shown["pools"]["rows"][0];
    assert_eq!((&pool["cl_waiting"], &pool["sv_active"], &pool["size"]), (&1.into(), &1.into(), &1.into()));
    assert_eq!((&pool["database"], &pool["query_count"]), (&tenant.place("crm", "database").into(), &2.into()));
    assert_eq!(shown["tenants"]["rows"][0]["status"], "active");
    assert_eq!(shown["waiting"]["rows"][0]["user"], tenant.user());
    assert_eq!(shown["errors"], serde_json::json!([{ "class": "22", "source": "server", "count": 1.0 }]));
    assert!(matches!(shown["engine"].as_str(), Some("epoll" | "io_uring")), "{}", shown["engine"]);
    assert!(shown["registry"]["age_seconds"].as_f64().is_some_and(|age| age < 60.0), "{}", shown["registry"]);
    let beyond = get(&child, &format!("{path}&tenants_from=1&pools_from=1&limit=0")).await;
    let beyond: serde_json::Value = serde_json::from_str(&beyond.body).expect("JSON");
    assert_eq!((&beyond["pools"]["total"], &beyond["pools"]["rows"]), (&1.into(), &serde_json::json!([])));
    assert_eq!(beyond["tenants"]["rows"], serde_json::json!([]));
    assert_eq!(get(&child, "/api/state?limit=many").await.status, 400);
    holder.query("COMMIT").await;
    waiter.until_ready().await;
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_half_and_nearly_all_waits_transactions_and_queries_took_is_told_in_numbers() {
    let world = world().await;
    let tenant = world.tenant_of("quantiles", &["crm"]).await;
    let child = Child::serve(world, &format!("{ANY_PORT}[pool]\nsize = 1")).await;
    let none = metrics(&child).await;
    assert!(!none.keys().any(|name| name.contains("quantile")), "nothing has been measured: {none:?}");
    let mut holder = Wire::login(child.address, &tenant, "crm").await;
    let mut waiter = Wire::login(child.address, &tenant, "crm").await;
    for _ in 0..20 {
        holder.ask("SELECT 1").await;
    }
    holder.query("BEGIN").await;
    waiter.send(&query("SELECT 1")).await;
    until("it waits", async || sum(&metrics(&child).await, "pgtenant_sessions", "state=\"waiting\"") == 1.0).await;
    // Longer than half a second, however fast the machine.
    holder.ask("SELECT pg_sleep(0.6)").await;
    holder.query("COMMIT").await;
    waiter.until_ready().await;
    let now = metrics(&child).await;
    for what in ["checkout_wait", "transaction", "query"] {
        let quantile = |part| now[&format!("pgtenant_{what}_quantile_seconds{{quantile=\"{part}\"}}")];
        let (half, most, nearly_all) = (quantile("0.5"), quantile("0.95"), quantile("0.99"));
        assert!(half > 0.0 && half <= most && most <= nearly_all, "{what}: {half} {most} {nearly_all}");
        assert!(nearly_all > 0.5, "{what}: {nearly_all}");
        // As many were so short as the histogram of the same moment says.
        let count = sum(&now, &format!("pgtenant_{what}_seconds_count"), "");
        let no_longer = |seconds: f64| -> f64 {
            let bound = |name: &str| name.strip_suffix("\"}")?.split_once("le=\"")?.1.parse::<f64>().ok();
            let family = format!("pgtenant_{what}_seconds_bucket");
            let of_family = now.iter().filter(|(name, _)| name.split('{').next() == Some(&family));
            of_family
                .filter(|(name, _)| bound(name).is_some_and(|bound| bound >= seconds))
                .map(|(_, n)| *n)
                .fold(f64::MAX, f64::min)
        };
        assert!(no_longer(half) >= 0.5 * count && no_longer(nearly_all) >= 0.99 * count, "{what}: {now:?}");
    }
    assert!(child.stop().await.success());
}

/// The metrics that packaging's dashboard and alerts ask for, histograms by their own names.
fn asked_for(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = words.filter(|word| word.starts_with("pgtenant_"));
    names.map(|name| name.strip_suffix("_bucket").unwrap_or(name)).collect()
}

const DASHBOARD: &str = include_str!("../../packaging/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../packaging/prometheus-alerts.yml");

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_and_alerts_ask_for_nothing_that_a_scrape_does_not_have() {
    let world = world().await;
    let tenant = world.tenant_of("dashboard", &["crm"]).await;
    let child = Child::serve(world, ANY_PORT).await;
    // What is only counted where it happens: an error, a failed login, a pin.
    let mut client = Wire::login(child.address, &tenant, "crm").await;
    assert_eq!(failure(&client.query("SELECT 1/0").await).0, "22012");
    client.query("LISTEN news").await;
    let mut config = login(&child, &tenant);
    config.password("wrong");
    assert!(connect(&config).await.is_err());
    until_ready(&child).await;
    let scrape = get(&child, "/metrics").await.body;
    let series = parse(&scrape);
    let parsed: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
    assert_eq!(parsed["uid"], "pgtenant");
    let names = [asked_for(DASHBOARD), asked_for(ALERTS)].concat();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        let is_of = |series: &&String| {
            let family = series.split('{').next().unwrap_or("");
            family == name || family.strip_suffix("_bucket") == Some(name)
        };
        assert!(series.keys().any(|series| is_of(&series)), "{name} is in no scrape: {scrape}");
    }
    assert!(child.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_are_counted_by_kind() {
    let world = world().await;
    let tenant = world.tenant_of("counted", &["crm"]).await;
    let child = Child::serve(world, ANY_PORT).await;
    let mut config = login(&child, &tenant);
    config.password("wrong");
    assert!(connect(&config).await.is_err());
    let series = metrics(&child).await;
    assert_eq!(series.get("pgtenant_login_failures_total{kind=\"password\"}"), Some(&1.0), "{series:?}");
    assert_eq!(sum(&series, "pgtenant_errors_total", "source=\"pgtenant\",class=\"28\""), 1.0);
    config.user("app@nobody");
    assert!(connect(&config).await.is_err());
    let series = metrics(&child).await;
    assert_eq!(series.get("pgtenant_login_failures_total{kind=\"unknown_tenant\"}"), Some(&1.0), "{series:?}");
    assert_eq!(sum(&series, "pgtenant_login_failures_total", ""), 2.0, "each failure is of one kind");
    assert!(child.stop().await.success());
}
