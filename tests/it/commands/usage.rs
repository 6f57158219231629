//! What is seen of tenants' use: the list, its pages, and when each was last used.

use std::time::{Duration, SystemTime};

use pgtenant::proxy::Proxy;
use pgtenant::registry::{Config, Registry};
use serde_json::Value;

use super::site::Site;
use crate::support::{cluster, connect, role, settings, until};

/// A proxy that tells what it saw this often.
async fn proxy(registry: &str, activity_interval: Duration) -> Proxy {
    let config = Config { url: Some(registry.to_owned()), activity_interval, ..Config::default() };
    Proxy::start(settings(), Registry::open(&config).await.unwrap()).await.unwrap()
}

async fn tenant(site: &Site) -> (String, tokio_postgres::Config) {
    let ops = site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops")]);
    let slug = site.slug("acme");
    let made = site.json(&["tenant", "create", &slug, "--name", "Acme", "--modules", &ops]);
    let mut config = tokio_postgres::Config::new();
    config.user(format!("app@{slug}")).password(made["password"].as_str().unwrap()).dbname(&ops);
    (slug, config)
}

fn at(proxy: &Proxy, config: &tokio_postgres::Config) -> tokio_postgres::Config {
    let address = proxy.tcp_address().unwrap();
    let mut config = config.clone();
    config.host(address.ip().to_string()).port(address.port());
    config
}

fn last_used(site: &Site, slug: &str) -> Option<SystemTime> {
    let shown = site.json(&["tenant", "show", slug]);
    shown["last_used"].as_str().map(|text| humantime::parse_rfc3339(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_of_a_tenant_follows_its_queries_and_not_only_its_logins() {
    let site = Site::new("use").await;
    let (slug, config) = tenant(&site).await;
    assert_eq!(last_used(&site, &slug), None);
    let proxy = proxy(&site.registry.url, Duration::from_millis(50)).await;
    let began = SystemTime::now() - Duration::from_secs(1);
    let client = connect(&at(&proxy, &config)).await.unwrap();
    until("the login is told", async || last_used(&site, &slug).is_some_and(|at| at >= began)).await;
    // Long ago, as far as the registry knows.
    let forget = "UPDATE pgtenant.activity SET last_used_at = '2020-01-01'";
    site.registry.admin.batch_execute(forget).await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
    until("the query is told", async || last_used(&site, &slug).is_some_and(|at| at >= began)).await;
    assert_eq!(site.json(&["tenant", "list"])[0]["login_count"], 1);
    assert_eq!(site.count("SELECT logins FROM tenant_activity").await, 1);
    let generations = "SELECT count(DISTINCT generation) FROM pgtenant.tenants";
    let before = site.count(generations).await;
    drop(client);
    proxy.shutdown(Duration::from_secs(5)).await;
    assert_eq!(site.count(generations).await, before, "use is no change of the tenant");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_is_told_at_the_end_and_kept_while_it_may_not_be_told() {
    let site = Site::new("told").await;
    let (slug, config) = tenant(&site).await;
    let hour = Duration::from_secs(3600);
    let first = proxy(&site.registry.url, hour).await;
    drop(connect(&at(&first, &config)).await.unwrap());
    first.shutdown(Duration::from_secs(5)).await;
    assert!(last_used(&site, &slug).is_some(), "told when it stopped");
    // A role that may only read serves all the same.
    let reader = role("reader").await;
    let grants = "GRANT USAGE ON SCHEMA pgtenant TO %r; GRANT SELECT ON ALL TABLES IN SCHEMA pgtenant TO %r";
    site.registry.admin.batch_execute(&grants.replace("%r", &reader.name)).await.unwrap();
    let (cluster, database) = (cluster().await, &site.registry.name);
    let place = format!("host={} port={} dbname={database}", cluster.host(), cluster.port());
    let url = format!("{place} user={} password='{}'", reader.name, reader.password);
    let second = proxy(&url, Duration::from_millis(50)).await;
    drop(connect(&at(&second, &config)).await.unwrap());
    drop(connect(&at(&second, &config)).await.unwrap());
    let grant = format!("GRANT EXECUTE ON FUNCTION pgtenant.record_activity TO {}", reader.name);
    site.registry.admin.batch_execute(&grant).await.unwrap();
    let logins = "SELECT logins FROM tenant_activity";
    until("all three logins are told", async || site.count(logins).await == 3).await;
    second.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn tenants_are_listed_page_by_page_and_by_what_they_are() {
    let site = Site::new("pages").await;
    let ops = site.module("ops", &["--isolation", "schema", "--database", &site.slug("ops")]);
    let slug = site.slug("acme");
    site.ok(&["tenant", "create", &slug, "--name", "Acme", "--modules", &ops]);
    let many = "INSERT INTO pgtenant.tenants (slug, name, status) \
                SELECT 't' || lpad(n::text, 4, '0'), 'T', 'suspended' FROM generate_series(1, 1200) AS n";
    site.registry.admin.batch_execute(many).await.unwrap();
    let slugs = |arguments: &[&str]| -> Vec<String> {
        let listed = site.json(&[&["tenant", "list"], arguments].concat());
        listed.as_array().unwrap().iter().map(|tenant| tenant["slug"].as_str().unwrap().to_owned()).collect()
    };
    let all = slugs(&[]);
    assert_eq!((all.len(), all.is_sorted()), (1201, true));
    assert_eq!(slugs(&["--limit", "3", "--after", "t0998"]), ["t0999", "t1000", "t1001"]);
    assert_eq!(slugs(&["--limit", "700", "--after", &slug]).len(), 700);
    assert_eq!(slugs(&["--status", "active"]), [slug.as_str()]);
    assert_eq!(slugs(&["--module", &ops]), [slug.as_str()]);
    assert_eq!(slugs(&["--status", "archived"]), [""; 0]);
    assert_eq!(site.json(&["tenant", "list", "--after", "t1200"]), Value::Array(Vec::new()));
    let output = site.run(&["tenant", "list"]);
    let (table, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(table.lines().filter(|line| line.contains("suspended")).count(), 199);
    assert!(said.contains("--after t0199"), "{said}");
    let few = site.run(&["tenant", "list", "--after", "t1100"]);
    assert!(!String::from_utf8(few.stderr).unwrap().contains("more"), "a hundred are not cut off");
    assert!(site.ok(&["tenant", "list", "--limit", "0"]).contains("t1200"));
}
