//! P: a service for one client that became one for many, whose clients are named by keys such as `krn:acme:client:prod-001`.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{add_server, ask, client, empty_machine, migrations, psql, refused};
use crate::http::get;
use crate::support::{Child, until};

const PROGRESS: &str = "CREATE TABLE progress (
    tenant_id uuid NOT NULL, filename text NOT NULL, done int NOT NULL, PRIMARY KEY (tenant_id, filename))";
const DEFAULT: &str = "krn:default:client:001";
const ACME: &str = "krn:acme:client:prod-001";

/// The configuration in a phase of adoption.
fn phase(phase: &str) -> String {
    let identify = format!("[identify]\ndefault_tenant = \"{DEFAULT}\"\ndefault_tenant_phase = \"{phase}\"\n");
    format!("{identify}[http]\naddress = \"127.0.0.1:0\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_service_for_one_are_moved_to_names_of_their_own_phase_by_phase() {
    let (cluster, site) = empty_machine().await;
    site.ok(&["registry", "init"]);
    add_server(&site, "main", &cluster);
    let files = migrations(&site, "pebbles", &[("0001_progress.sql", PROGRESS)]);
    let place = ["--isolation", "shared", "--server", "main", "--database", "pebbles", "--migrations", &files];
    site.ok(&[&["module", "add", "pebbles"], &place[..]].concat());
    let create = |slug: &str, key: &str| -> Value {
        site.json(&["tenant", "create", slug, "--name", slug, "--alias", key, "--modules", "pebbles"])
    };
    let (default, acme) = (create("default", DEFAULT), create("acme", ACME));
    let mut proxy = Child::serve_registry(&site.registry.url, &phase("allow")).await;
    let address = proxy.address;
    let password = |tenant: &Value| tenant["password"].as_str().unwrap().to_owned();

    // Old clients say nothing, new ones their key: as user name, as option.
    let old = format!("postgresql://app:{}@{address}/pebbles", password(&default));
    let key = ACME.replace(':', "%3A");
    let new = format!("postgresql://app%40{key}:{}@{address}/pebbles", password(&acme));
    let option = format!("postgresql://app:{}@{address}/pebbles?options=-c%20tenant%3D{key}", password(&acme));
    for (url, done) in [(&old, 100), (&new, 7)] {
        let write = format!("INSERT INTO progress (filename, done) VALUES ('data.csv', {done})");
        assert_eq!(psql(url, &write).await.unwrap(), "");
    }
    for (url, done) in [(&old, "100"), (&new, "7"), (&option, "7")] {
        assert_eq!(psql(url, "SELECT done FROM progress WHERE filename = 'data.csv'").await.unwrap(), done);
    }
    // The key is as good as the slug for commands, too.
    assert_eq!(site.json(&["tenant", "show", ACME])["tenant_id"], acme["tenant_id"]);
    assert!(site.ok(&["tenant", "url", ACME]).contains("app%40acme@"));
    assert_eq!(site.json(&["migrate", "--tenant", ACME])[0]["status"], "current");

    // Deprecated: served and told so, the operator too. Without a restart: the session of before goes on.
    let session = client(&old).await.unwrap();
    proxy.configure(&phase("warn"));
    proxy.signal(Signal::SIGHUP);
    proxy.logged("reloaded").await;
    assert_eq!(ask(&old, "SELECT done FROM progress").await, "100");
    let line = proxy.logged("client named no tenant").await;
    assert!(line.contains("login=\"app\"") && line.contains("127.0.0.1"), "{line}");
    let mut noticed = tokio::process::Command::new(crate::support::client_program("psql").await);
    let noticed = noticed.args(["-X", "-q", "-d", &old, "-c", "SELECT 1"]).output().await.unwrap();
    assert!(noticed.status.success());
    let metrics = get(&proxy, "/metrics").await.body;
    for (series, least) in
        [("pgtenant_default_tenant_logins_total{", 4.0), ("pgtenant_named_tenant_logins_total{", 3.0)]
    {
        let found =
            metrics.lines().find(|line| line.starts_with(series) && line.contains("login=\"app\"")).expect(series);
        assert!(found.rsplit(' ').next().unwrap().parse::<f64>().unwrap() >= least, "{found}");
    }

    // Removed.
    proxy.configure(&phase("refuse"));
    proxy.signal(Signal::SIGHUP);
    proxy.logged("reloaded").await;
    let (code, text) = refused(&old).await;
    assert_eq!((code.as_str(), text.as_str()), ("28000", "(PT-NOTENANT) no tenant given"));
    assert_eq!(ask(&new, "SELECT done FROM progress").await, "7");
    session.batch_execute("SELECT 1").await.unwrap();

    // P5: who was there, and when.
    drop(session);
    assert!(proxy.stop().await.success());
    until("its use is known", async || site.json(&["tenant", "show", ACME])["last_used"].is_string()).await;
    assert!(site.json(&["tenant", "show", ACME])["login_count"].as_u64().unwrap() >= 4);
}
