//! A server that gives all tenants together only so many connections, and a pool that several have in common: how many there are, and
//! whose turn it is.

use pgtenant::pool::Standing;
use pgtenant::session::Doing;
use tokio::task::JoinSet;

use crate::support::wire::{query, terminate};
use crate::support::{self, Database, Running, Tenant, Wire, World, cluster, one, proxy, until};

/// A registry of the test's own, in which the server may have so many connections.
async fn capped(most: u32) -> (World, Database) {
    let registry = support::database("registry").await;
    let world = World::over(registry.url.clone()).await;
    set_most(&registry, &most.to_string()).await;
    (world, registry)
}

async fn set_most(registry: &Database, most: &str) {
    let sql = format!("UPDATE pgtenant.servers SET max_connections = {most}");
    registry.admin.batch_execute(&sql).await.expect("bound the server");
}

fn standing(proxy: &Running) -> Standing {
    proxy.proxy.servers().first().map(|server| server.standing).unwrap_or_default()
}

/// Sessions of these tenants on the server, as that counts them.
async fn sessions(tenants: &[&Tenant], module: &str) -> i64 {
    let admin = cluster().await.connect("postgres").await.expect("connect");
    let databases: Vec<_> = tenants.iter().map(|tenant| tenant.place(module, "database")).collect();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY ($1) AND usename <> 'postgres' AND backend_type = 'client backend'";
    admin.query_one(sql, &[&databases]).await.expect("count").get(0)
}

async fn waiting(proxy: &Running, tenant: &Tenant) -> usize {
    let snapshot = proxy.proxy.snapshot().await;
    let is_one = |client: &&pgtenant::session::ClientState| {
        client.tenant.slug.as_str() == tenant.slug && client.doing == Doing::Waiting
    };
    snapshot.clients.iter().filter(is_one).count()
}

/// Sends a statement that has to wait, and sees that it does.
async fn queue(proxy: &Running, tenant: &Tenant, module: &str, sql: &str) -> Wire {
    let before = waiting(proxy, tenant).await;
    let mut client = Wire::login(proxy.address, tenant, module).await;
    client.send(&query(sql)).await;
    until("it waits", async || waiting(proxy, tenant).await > before).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_never_has_more_sessions_than_it_may_have() {
    let (world, registry) = capped(3).await;
    let tenants = [world.tenant_of("exact", &["crm"]).await, world.tenant_of("exact", &["crm"]).await];
    let both = [&tenants[0], &tenants[1]];
    let proxy = proxy(&world, |_| {}).await;
    let mut clients = JoinSet::new();
    for number in 0..12 {
        let config = proxy.config(both[number % 2], "crm");
        clients.spawn(async move {
            // Whoever is unlucky waits long: the turn of a login, too, may take its time.
            for _ in 0..3 {
                let client = support::connect(&config).await.expect("connect");
                for _ in 0..10 {
                    one(&client, "SELECT pg_backend_pid()").await;
                }
            }
        });
    }
    let mut most = 0;
    while !clients.is_empty() {
        most = most.max(sessions(&both, "crm").await);
        while let Some(ended) = clients.try_join_next() {
            ended.expect("every client is served");
        }
    }
    assert!((2..=3).contains(&most), "{most}");

    // Fewer, from now on: what is beyond is closed. Then as many as the pools like.
    set_most(&registry, "1").await;
    until("one is left", async || sessions(&both, "crm").await <= 1).await;
    until("the books say so", async || standing(&proxy).most == 1 && standing(&proxy).used <= 1).await;
    set_most(&registry, "NULL").await;
    until("there is no bound", async || standing(&proxy).most == 0).await;
    let mut open = Vec::new();
    for tenant in [both[0], both[0], both[1], both[1]] {
        let client = proxy.connect(tenant, "crm").await;
        client.batch_execute("BEGIN").await.expect("begin");
        open.push(client);
    }
    assert_eq!((sessions(&both, "crm").await, standing(&proxy).used), (4, 4));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_connection_goes_to_who_has_less_than_its_share() {
    let (world, _registry) = capped(2).await;
    let (crowd, few) = (world.tenant_of("crowd", &["crm"]).await, world.tenant_of("few", &["crm"]).await);
    let proxy = proxy(&world, |_| {}).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = Wire::login(proxy.address, &crowd, "crm").await;
        client.query("BEGIN").await;
        busy.push(client);
    }
    // What the server reports is known to their thread: they log in without a connection.
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(queue(&proxy, &crowd, "crm", "BEGIN").await);
    }
    let wanted = standing(&proxy).wanted;
    let mut first = log_in_later(&proxy, &few);
    until("it stands in line", async || standing(&proxy).wanted > wanted).await;
    busy.pop().expect("one of two").send(&[query("COMMIT"), terminate()].concat()).await;
    let mut one_of_few = (&mut first).await.expect("logged in");
    one_of_few.query("BEGIN").await;
    assert_eq!(waiting(&proxy, &crowd).await, 5, "nobody of the crowd went before");
    // Both have their share now: what the crowd gives back stays the crowd's.
    let _second = queue(&proxy, &few, "crm", "BEGIN").await;
    busy.pop().expect("the other").send(&[query("COMMIT"), terminate()].concat()).await;
    until("one of the crowd is served", async || waiting(&proxy, &crowd).await == 4).await;
    assert_eq!(waiting(&proxy, &few).await, 1);
    proxy.stop().await;
}

fn log_in_later(proxy: &Running, tenant: &Tenant) -> tokio::task::JoinHandle<Wire> {
    let (address, user, password) = (proxy.address, tenant.user(), tenant.password.clone());
    let startup = crate::support::wire::startup(&[("user", &user), ("database", "crm")]);
    tokio::spawn(async move { Wire::login_with(address, &startup, &password).await.expect("log in") })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_in_the_books_by_clients_that_vanish_are_killed_or_told_no() {
    let (world, registry) = capped(1).await;
    let [one, two] = [world.tenant_of("books", &["crm"]).await, world.tenant_of("books", &["crm"]).await];
    let proxy = proxy(&world, |config| {
        config.pool.checkout_timeout = std::time::Duration::from_secs(3);
        config.pool.idle_timeout = std::time::Duration::from_millis(200);
    })
    .await;
    // Their thread knows what the server reports, so that the next logins need no connection.
    let mut known = Wire::login(proxy.address, &two, "crm").await;
    known.ask("SELECT 1").await;
    let mut busy = Wire::login(proxy.address, &one, "crm").await;
    for _ in 0..2 {
        busy.query("BEGIN").await;
        let expected = "(PT-CHECKOUT) no server connection became free in 3s";
        assert_eq!(support::wire::failure(&known.query("SELECT 1").await).1, expected);
        drop(queue(&proxy, &two, "crm", "SELECT 1").await);
        let killed = queue(&proxy, &two, "crm", "SELECT 1").await;
        let clients = proxy.proxy.snapshot().await.clients;
        assert!(clients.len() >= 3);
        drop(killed);
        until("nobody waits", async || waiting(&proxy, &two).await == 0).await;
        assert_eq!(standing(&proxy), Standing { most: 1, used: 1, wanted: 0 });
        busy.query("COMMIT").await;
        assert_eq!(known.ask("SELECT note FROM notes").await, two.slug);
    }
    // In the middle of a statement, and by the server.
    let pid = known.ask("SELECT pg_backend_pid()").await;
    known.query("BEGIN").await;
    registry.admin.execute(&format!("SELECT pg_terminate_backend({pid})"), &[]).await.expect("terminate");
    until("it is gone", async || sessions(&[&one, &two], "crm").await == 0).await;
    drop((known, busy));
    until("all is given back", async || standing(&proxy) == Standing { most: 1, ..Standing::default() }).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_one_pool_take_turns_however_many_of_one_of_them_wait() {
    let (world, _registry) = capped(0x7fff).await;
    let (crowd, few) = (world.tenant_of("crowd", &["shop"]).await, world.tenant_of("few", &["shop"]).await);
    let admin = cluster().await.connect(crowd.place("shop", "database")).await.expect("connect");
    admin.batch_execute("CREATE SEQUENCE public.turns; GRANT ALL ON public.turns TO PUBLIC").await.expect("a sequence");
    let proxy = proxy(&world, |config| {
        config.pool.size = 1;
        config.listen.threads = 1;
    })
    .await;
    for tenant in [&crowd, &few] {
        Wire::login(proxy.address, tenant, "shop").await.ask("SELECT 1").await;
    }
    let mut busy = Wire::login(proxy.address, &crowd, "shop").await;
    busy.query("BEGIN").await;
    const TURN: &str = "SELECT nextval('public.turns')";
    let mut clients = Vec::new();
    for (tenant, count) in [(&crowd, 30), (&few, 3)] {
        for _ in 0..count {
            clients.push((tenant, queue(&proxy, tenant, "shop", TURN).await));
        }
    }
    busy.query("COMMIT").await;
    let (mut crowds, mut fews) = (Vec::new(), Vec::new());
    for (tenant, mut client) in clients {
        let turn: u32 = support::wire::value(&client.until_ready().await).parse().expect("a number");
        if tenant.slug == few.slug { fews.push(turn) } else { crowds.push(turn) }
    }
    assert!(crowds.is_sorted() && fews.is_sorted(), "each its own in order: {crowds:?} {fews:?}");
    assert!(fews[0] <= 2 && fews[1] <= 4 && fews[2] <= 6, "{fews:?}");
    proxy.stop().await;
}
