//! Several instances over one registry, and a server that gives all of them together only so many connections.

use std::time::Duration;

use nix::sys::signal::Signal;
use pgtenant::registry::{Config, Registry};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::support::{self, Child, Database, Running, Start, Tenant, Wire, World, cluster, one, proxy, until};

/// The server and what it has for all.
struct Site {
    world: World,
    registry: Database,
    tenant: Tenant,
    server: Client,
}

impl Site {
    /// A registry of the test's own, in which the server may have so many connections.
    async fn capped(most: u32) -> Self {
        let registry = support::database("registry").await;
        let world = World::over(registry.url.clone()).await;
        let tenant = world.tenant_of("leases", &["crm"]).await;
        let server = cluster().await.connect("postgres").await.expect("connect");
        let site = Self { world, registry, tenant, server };
        site.set_most(most).await;
        site
    }

    async fn set_most(&self, most: u32) {
        let sql = format!("UPDATE pgtenant.servers SET max_connections = {most}");
        self.registry.admin.batch_execute(&sql).await.expect("bound the server");
    }

    async fn proxy(&self) -> Running {
        proxy(&self.world, |config| config.pool.size = 20).await
    }

    async fn child(&self, listen: &str) -> Child {
        let sections = "lease_ttl = \"3s\"\n[pool]\nsize = 20";
        Child::start(&self.registry.url, Start { listen, sections, ..Start::default() }).await
    }

    /// The tenant's sessions on the server, as that counts them.
    async fn sessions(&self) -> i64 {
        self.count("true").await
    }

    /// Those of them of which this SQL condition on `pg_stat_activity` holds.
    async fn count(&self, condition: &str) -> i64 {
        let database = self.tenant.place("crm", "database");
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND usename <> 'postgres' \
             AND backend_type = 'client backend' AND ({condition})"
        );
        self.server.query_one(&sql, &[&database]).await.expect("count").get(0)
    }

    /// Waits until so many are in a transaction, and sees that there are never more sessions than may be.
    async fn until_holding(&self, count: i64, most: i64) {
        until(&format!("{count} in a transaction"), async || {
            let sessions = self.sessions().await;
            assert!(sessions <= most, "{sessions} of at most {most}");
            self.count("state = 'idle in transaction'").await == count
        })
        .await;
    }

    /// Clients that begin a transaction as soon as they get a connection, and stay in it.
    async fn holders(&self, address: std::net::SocketAddr, count: usize) -> JoinSet<Wire> {
        let mut holders = JoinSet::new();
        for _ in 0..count {
            let tenant = self.tenant.user();
            let password = self.tenant.password.clone();
            holders.spawn(async move {
                let startup = support::wire::startup(&[("user", &tenant), ("database", "crm")]);
                let mut wire = Wire::login_with(address, &startup, &password).await.expect("log in");
                wire.query("BEGIN").await;
                wire
            });
        }
        holders
    }
}

fn leased(proxy: &Running) -> Option<u32> {
    proxy.proxy.servers().first().and_then(|server| server.leased)
}

/// A client that has one query after another.
async fn busy(config: tokio_postgres::Config, queries: u32) {
    let client = support::connect(&config).await.expect("connect");
    for _ in 0..queries {
        one(&client, "SELECT pg_sleep(0.002)").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_together_never_have_more_of_a_server_than_it_gives() {
    let site = Site::capped(6).await;
    let proxies = [site.proxy().await, site.proxy().await];
    let mut clients = JoinSet::new();
    for number in 0..24 {
        clients.spawn(busy(proxies[number % 2].config(&site.tenant, "crm"), 60));
    }
    let mut most = 0;
    while !clients.is_empty() {
        most = most.max(site.sessions().await);
        while let Some(ended) = clients.try_join_next() {
            ended.expect("every client of both is served");
        }
    }
    assert!((2..=6).contains(&most), "{most}");

    // All demand is on one: it gets all but the one that is kept ready for the other.
    let crowd = site.holders(proxies[0].address, 9).await;
    site.until_holding(5, 6).await;
    until("the other keeps one", async || leased(&proxies[1]) == Some(1)).await;
    // Then on the other: what is given back goes over, and what is in use stays.
    let others = site.holders(proxies[1].address, 9).await;
    site.until_holding(6, 6).await;
    drop(crowd);
    until("all of the first's but one goes over", async || leased(&proxies[1]) == Some(5)).await;
    site.until_holding(5, 6).await;
    drop(others);

    // The bound changes while they run.
    site.set_most(2).await;
    until("each has one", async || leased(&proxies[0]) == Some(1) && leased(&proxies[1]) == Some(1)).await;
    until("the rest is closed", async || site.sessions().await <= 2).await;
    for proxy in &proxies {
        assert_eq!(one(&proxy.connect(&site.tenant, "crm").await, "SELECT note FROM notes").await, site.tenant.slug);
    }
    for proxy in proxies {
        proxy.stop().await;
    }
    let left = site.registry.admin.query("SELECT FROM pgtenant.server_leases", &[]).await.expect("leases");
    assert!(left.is_empty(), "those who end give back what they had");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_instance_had_goes_to_the_others_when_its_lease_ends() {
    let site = Site::capped(4).await;
    let killed = site.child("").await;
    let mut first = site.holders(killed.address, 4).await;
    let mut holding = Vec::new();
    while let Some(wire) = first.join_next().await {
        holding.push(wire.expect("served: it is alone"));
    }
    let proxy = site.proxy().await;
    let second = site.holders(proxy.address, 9).await;
    until("the other asks", async || leased(&proxy) == Some(0)).await;
    killed.signal(Signal::SIGKILL);
    site.until_holding(4, 4).await;
    until("it has all", async || leased(&proxy) == Some(4)).await;
    drop((second, holding));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_drains_hands_its_connections_to_its_successor() {
    let site = Site::capped(3).await;
    let mut old = site.child("address = \"127.0.0.1:0\"\nreuse_port = true").await;
    let mut working = Vec::new();
    let mut first = site.holders(old.address, 3).await;
    while let Some(wire) = first.join_next().await {
        working.push(wire.expect("served: it is alone"));
    }
    let new = site.child(&format!("address = \"{}\"\nreuse_port = true", old.address)).await;
    old.signal(Signal::SIGTERM);
    old.logged("draining").await;
    let mut successors = site.holders(new.address, 2).await;
    // Each connection that the old process closes is the new one's.
    for left in [2, 1] {
        working.pop().expect("one of three").query("COMMIT").await;
        successors.join_next().await.expect("one of two").expect("served");
        assert_eq!(working.len(), left);
        assert!(site.sessions().await <= 3);
    }
    let mut last = working.pop().expect("the last");
    assert_eq!(last.ask("SELECT note FROM notes").await, site.tenant.slug, "what is in use is not taken away");
    last.query("COMMIT").await;
    assert!(old.ended().await.success());
    assert!(new.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_registry_each_instance_goes_on_with_what_it_has() {
    let site = Site::capped(4).await;
    let proxies = [site.proxy().await, site.proxy().await];
    let mut clients = Vec::new();
    for proxy in &proxies {
        let mut wire = Wire::login(proxy.address, &site.tenant, "crm").await;
        wire.query("BEGIN").await;
        clients.push(wire);
    }
    until("both have their part", async || leased(&proxies[0]) == Some(2) && leased(&proxies[1]) == Some(2)).await;
    switch_registry(&site, false).await;
    let mut crowds = [site.holders(proxies[0].address, 3).await, site.holders(proxies[1].address, 3).await];
    site.until_holding(4, 4).await;
    assert_eq!(proxies.each_ref().map(leased), [Some(2), Some(2)]);
    for (crowd, client) in crowds.iter_mut().zip(&mut clients) {
        assert_eq!(client.ask("SELECT note FROM notes").await, site.tenant.slug);
        client.query("COMMIT").await;
        crowd.join_next().await.expect("one of three").expect("served").query("COMMIT").await;
    }
    switch_registry(&site, true).await;
    drop(crowds);
    // Nobody's lease has ended for that: all that there is is shared out as before.
    let _crowd = site.holders(proxies[0].address, 9).await;
    until("it is heard again", async || leased(&proxies[0]) == Some(3)).await;
    site.until_holding(3, 4).await;
    for proxy in proxies {
        proxy.stop().await;
    }
}

/// Nobody gets in any more, and those who are in are thrown out; or the other way round.
async fn switch_registry(site: &Site, on: bool) {
    let name = &site.registry.name;
    site.server.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {on}")).await.expect("switch");
    let out = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1";
    let gone = async || site.server.query_one(out, &[name]).await.expect("terminate").get::<_, i64>(0) == 0;
    if !on {
        until("everybody is out", gone).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_an_older_registry_the_bound_holds_for_each_instance_alone() {
    let site = Site::capped(3).await;
    let old = "DROP FUNCTION pgtenant.lease_connections";
    site.registry.admin.batch_execute(old).await.expect("as it was before");
    let proxy = site.proxy().await;
    let _crowd = site.holders(proxy.address, 5).await;
    site.until_holding(3, 3).await;
    assert_eq!(leased(&proxy), None);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_registry_file_all_connections_are_the_instances_own() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[[server]]\nname = \"main\"\nhost = \"h\"\nport = 1\nmax_connections = 3\n")
        .expect("write");
    let config = Config { file: Some(file.path().to_owned()), ..Config::default() };
    assert_eq!(Registry::open(&config).await.expect("open").lease_ttl(), None);
    assert_eq!(Config::default().lease_ttl, Duration::from_secs(10));
}
