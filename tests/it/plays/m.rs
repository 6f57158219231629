//! M: an ERP with a database per tenant, pools made when needed, and settings by environment; with it T2 and T4.

use std::collections::BTreeMap;

use pgtenant::cluster::Cluster;
use serde_json::Value;
use tokio_postgres::Client;

use super::{ask, client, empty_machine, migrations, refused, url};
use crate::commands::site::Site;
use crate::http::get;
use crate::support::{Child, Start, one, until};

const NOTES: &str = "CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text NOT NULL)";
const SLUGS: [&str; 3] = ["acme", "globex", "initech"];

struct Play {
    cluster: Cluster,
    site: Site,
    /// Superuser in the registry's database, who sees all tenants' sessions.
    watch: Client,
    proxies: Vec<Child>,
    tenants: BTreeMap<&'static str, Value>,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erp_with_a_database_per_tenant_lives_by_commands_and_environment() {
    let mut play = Play::open().await;
    the_meta_database_knows_each_database(&play).await;
    queries_need_no_tenant_filter_and_have_no_rights_on_tables(&play).await;
    idle_pools_go_and_used_ones_stay(&play).await;
    a_pool_has_no_more_connections_than_it_may(&play).await;
    all_tenants_are_migrated_or_one_and_no_failure_stops_others(&play).await;
    health_and_workers_go_over_all_active_tenants(&play).await;
    a_suspension_holds_on_every_instance(&play).await;
    for proxy in play.proxies.drain(..) {
        assert!(proxy.stop().await.success());
    }
    play.until_backends("", 0).await;
}

impl Play {
    /// Two proxies that know the registry and limits by their environment, and the admin's password not at all.
    async fn open() -> Self {
        let (cluster, mut site) = empty_machine().await;
        site.environment.push(("TENANT_DB_ADMIN", cluster.superuser_url("postgres")));
        let port = cluster.port().to_string();
        site.ok(&["registry", "init"]);
        let server = ["server", "add", "main", "--host", cluster.host(), "--port", &port];
        site.ok(&[&server[..], &["--admin-secret", "env:TENANT_DB_ADMIN"]].concat());
        let files = migrations(&site, "erp", &[("0001_notes.sql", NOTES)]);
        let place = ["--isolation", "database", "--server", "main", "--database-pattern", "metapus_{slug}"];
        site.ok(&[&["module", "add", "erp"], &place[..], &["--migrations", &files]].concat());
        let environment = [
            ("PGTENANT_REGISTRY", site.registry.url.as_str()),
            ("PGTENANT_POOL_IDLE_TIMEOUT", "1s"),
            ("PGTENANT_POOL_MAX_POOLS", "2"),
            ("PGTENANT_POOL_SIZE", "2"),
            ("PGTENANT_HTTP_ADDRESS", "127.0.0.1:0"),
        ];
        // What the file says of the registry counts for nothing.
        let start = || Start { sections: "[http]\n", environment: &environment, ..Start::default() };
        let elsewhere = "postgres://nobody@127.0.0.1:1/nowhere";
        let proxies = vec![Child::start(elsewhere, start()).await, Child::start(elsewhere, start()).await];
        let address = proxies[0].address.to_string();
        let create = |slug: &'static str| {
            let name = format!("The {slug} corporation");
            let words = ["tenant", "create", slug, "--name", &name, "--modules", "erp", "--proxy", &address];
            (slug, site.json(&words))
        };
        let tenants = SLUGS.map(create).into();
        let watch = cluster.connect("registry").await.unwrap();
        Self { cluster, site, watch, proxies, tenants }
    }

    fn url(&self, slug: &str) -> &str {
        url(&self.tenants[slug], "erp")
    }

    /// The same over the second proxy.
    fn other_url(&self, slug: &str) -> String {
        let [first, second] = [0, 1].map(|n| self.proxies[n].address.to_string());
        self.url(slug).replace(&first, &second)
    }

    async fn backends(&self, slug: &str) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'metapus_' || $1 || '%'";
        self.watch.query_one(sql, &[&slug]).await.unwrap().get(0)
    }

    async fn until_backends(&self, slug: &str, count: i64) {
        until(&format!("{count} connections of {slug:?}"), async || self.backends(slug).await == count).await;
    }

    /// What `migrate` said of each tenant, and how it ended.
    fn migrate(&self, arguments: &[&str]) -> (Option<i32>, Vec<(String, String, i64)>) {
        let output = self.site.run(&[&["migrate"], arguments, &["--json"]].concat());
        let results: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let read = |result: &Value| {
            let text = |key: &str| result[key].as_str().unwrap().to_owned();
            (text("tenant"), text("status"), result["applied"].as_i64().unwrap())
        };
        (output.status.code(), results.iter().map(read).collect())
    }
}

/// M1.
async fn the_meta_database_knows_each_database(play: &Play) {
    let sql = "SELECT string_agg(concat_ws(' ', p.tenant_slug, p.database_name, p.host, p.port, t.status), ', ' ORDER BY p.tenant_slug)
        FROM tenant_placements p JOIN tenant_registry t USING (tenant_id)";
    let (host, port) = (play.cluster.host(), play.cluster.port());
    let expected = SLUGS.map(|slug| format!("{slug} metapus_{slug} {host} {port} active"));
    assert_eq!(one(&play.site.registry.admin, sql).await, expected.join(", "));
}

/// M1, M2, T2: the proxy has only what the client proved itself with; that opens a role with rights on data and none on tables.
async fn queries_need_no_tenant_filter_and_have_no_rights_on_tables(play: &Play) {
    assert_eq!(play.backends("").await, 0, "no pool before its first use");
    for slug in SLUGS {
        let session = client(play.url(slug)).await.unwrap();
        session.execute("INSERT INTO notes (note) VALUES ($1)", &[&slug]).await.unwrap();
        let error = session.batch_execute("CREATE TABLE mine (n int)").await.unwrap_err();
        assert_eq!(crate::support::refusal(&error).0, "42501");
        assert!(session.batch_execute("ALTER TABLE notes ADD COLUMN mine int").await.is_err());
    }
    for slug in SLUGS {
        assert_eq!(ask(play.url(slug), "SELECT string_agg(note, ',') FROM notes").await, slug);
    }
}

/// M2.
async fn idle_pools_go_and_used_ones_stay(play: &Play) {
    play.until_backends("", 0).await;
    let (acme, globex) = (client(play.url("acme")).await.unwrap(), client(play.url("globex")).await.unwrap());
    acme.batch_execute("BEGIN").await.unwrap();
    globex.batch_execute("BEGIN").await.unwrap();
    let (code, text) = refused(play.url("initech")).await;
    assert_eq!((code.as_str(), text.as_str()), ("53300", "(PT-LIMIT) too many pools in use (max_pools = 2)"));
    globex.batch_execute("COMMIT").await.unwrap();
    // Its pool makes room as soon as it is of no use to anybody.
    until("initech is served", async || client(play.url("initech")).await.is_ok()).await;
    assert_eq!(one(&acme, "SELECT note FROM notes").await, "acme", "the transaction that was open all the time");
    acme.batch_execute("COMMIT").await.unwrap();
    play.until_backends("", 0).await;
    assert_eq!(one(&globex, "SELECT note FROM notes").await, "globex", "a client outlives its pool");
}

/// M2: the third transaction waits for one of two.
async fn a_pool_has_no_more_connections_than_it_may(play: &Play) {
    let (first, second, third) = (
        client(play.url("acme")).await.unwrap(),
        client(play.url("acme")).await.unwrap(),
        client(play.url("acme")).await.unwrap(),
    );
    first.batch_execute("BEGIN").await.unwrap();
    second.batch_execute("BEGIN").await.unwrap();
    let waiting = tokio::spawn(async move { third.batch_execute("BEGIN; COMMIT").await });
    until("one client waits", async || pools(play, "acme").await.iter().any(|pool| pool["waiting"] == 1)).await;
    assert_eq!(play.backends("acme").await, 2);
    first.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap();
    second.batch_execute("COMMIT").await.unwrap();
}

async fn pools(play: &Play, slug: &str) -> Vec<Value> {
    let health = get(&play.proxies[0], &format!("/health/tenants?tenant={slug}")).await;
    let health: Value = serde_json::from_str(&health.body).unwrap();
    health["tenants"][0]["places"][0]["pools"].as_array().unwrap().clone()
}

/// M3, T4: all, one by id; a failed tenant never stops the others; each has its result; who is behind can be asked.
async fn all_tenants_are_migrated_or_one_and_no_failure_stops_others(play: &Play) {
    let result = |slug: &str, status: &str, applied| (slug.to_owned(), status.to_owned(), applied);
    assert_eq!(play.migrate(&[]), (Some(0), SLUGS.map(|slug| result(slug, "current", 0)).into()));
    migrations(&play.site, "erp", &[("0002_price.sql", "ALTER TABLE notes ADD COLUMN price numeric")]);
    let id = play.tenants["acme"]["tenant_id"].as_str().unwrap();
    assert_eq!(play.migrate(&["--tenant", id]), (Some(0), vec![result("acme", "applied", 1)]));
    // Somebody has been at this one by hand.
    let globex = play.cluster.connect("metapus_globex").await.unwrap();
    globex.batch_execute("ALTER TABLE notes ADD COLUMN price text").await.unwrap();
    let run = play.migrate(&["run"]);
    let expected = vec![result("acme", "current", 0), result("globex", "failed", 0), result("initech", "applied", 1)];
    assert_eq!(run, (Some(1), expected));
    let status = play.site.json(&["migrate", "status"]);
    let behind: Vec<_> = status.as_array().unwrap().iter().filter(|place| place["status"] != "current").collect();
    assert_eq!(
        (behind.len(), &behind[0]["tenant"], &behind[0]["version"]),
        (1, &Value::from("globex"), &Value::from(1))
    );
    globex.batch_execute("ALTER TABLE notes DROP COLUMN price").await.unwrap();
    assert_eq!(play.migrate(&["--tenant", "globex"]), (Some(0), vec![result("globex", "applied", 1)]));
    assert_eq!(ask(play.url("globex"), "SELECT count(price) FROM notes").await, "0", "the tenant may use what is new");
}

/// M4: what is known of tenants over HTTP; a worker that asks which tenants there are, and works on each through the proxy.
async fn health_and_workers_go_over_all_active_tenants(play: &Play) {
    let health: Value = serde_json::from_str(&get(&play.proxies[0], "/health/tenants").await.body).unwrap();
    let known: Vec<_> =
        health["tenants"].as_array().unwrap().iter().map(|tenant| tenant["tenant"].as_str().unwrap()).collect();
    assert_eq!(known, SLUGS);
    let address = play.proxies[0].address.to_string();
    let active = play.site.json(&["tenant", "list", "--status", "active", "--proxy", &address]);
    let mut worked = Vec::new();
    for tenant in active.as_array().unwrap() {
        let slug = tenant["slug"].as_str().unwrap();
        let password = play.tenants[slug]["password"].as_str().unwrap();
        let url = url(tenant, "erp").replace(&format!("@{address}"), &format!(":{password}@{address}"));
        worked.push(ask(&url, "UPDATE notes SET price = 1 RETURNING note").await);
    }
    assert_eq!(worked, SLUGS);
}

/// M3: refused and ended on both instances, by id, and served again; nobody else notices.
async fn a_suspension_holds_on_every_instance(play: &Play) {
    let urls = [play.url("acme").to_owned(), play.other_url("acme")];
    let (mut sessions, mut others) = (Vec::new(), Vec::new());
    for (url, other) in urls.iter().zip([play.url("globex").to_owned(), play.other_url("globex")]) {
        sessions.push(client(url).await.unwrap());
        others.push(client(&other).await.unwrap());
    }
    let id = play.tenants["acme"]["tenant_id"].as_str().unwrap();
    play.site.ok(&["tenant", "suspend", id]);
    for (session, url) in sessions.iter().zip(&urls) {
        until("its session has ended", async || session.is_closed()).await;
        let (code, text) = refused(url).await;
        assert_eq!((code.as_str(), text.as_str()), ("28000", "(PT-SUSPENDED) tenant \"acme\" is suspended"));
    }
    for other in &others {
        assert_eq!(one(other, "SELECT note FROM notes").await, "globex");
    }
    play.site.ok(&["tenant", "activate", id]);
    for url in &urls {
        until("it is served again", async || client(url).await.is_ok()).await;
    }
}
