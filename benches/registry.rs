//! How long look-ups and pages take in a registry with many tenants, on this machine, PostgreSQL included: `make bench-registry`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pgtenant::cluster::Cluster;
use pgtenant::registry::{Admin, Config, Registry};
use pgtenant::tenant::{Slug, TenantName};
use tokio::task::JoinSet;
use tokio_postgres::Client;

/// Median and 99th percentile of what reads a big registry.
#[derive(Debug, Parser)]
#[command(name = "registry")]
struct Options {
    /// Tenants, each with two places, a login and an alias.
    #[arg(long, default_value_t = 100_000)]
    tenants: u32,
    /// How often each thing is measured.
    #[arg(long, default_value_t = 5_000)]
    samples: u32,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Rows as commands would have written them, all at once: the triggers that keep single writers honest are left out.
const FILL: &str = "
    SET session_replication_role = replica;
    INSERT INTO pgtenant.servers (name, host) VALUES ('main', 'db1.internal');
    INSERT INTO pgtenant.modules (name, isolation, server, database) VALUES ('operations', 'schema', 'main', 'operations'),
        ('finance', 'schema', 'main', 'finance');
    INSERT INTO pgtenant.tenants (id, slug, name, status, generation)
        SELECT gen_random_uuid(), 't' || lpad(n::text, 6, '0'), 'Tenant ' || n, 'active', n FROM generate_series(0, {last}) AS n;
    INSERT INTO pgtenant.tenant_names (name, tenant_id, kind)
        SELECT id::text, id, 'id' FROM pgtenant.tenants UNION ALL SELECT slug, id, 'slug' FROM pgtenant.tenants
        UNION ALL SELECT 'krn:' || slug || ':client:1', id, 'alias' FROM pgtenant.tenants;
    INSERT INTO pgtenant.placements (tenant_id, module, isolation, server, database, schema, role, status)
        SELECT t.id, m.name, 'schema', 'main', m.database, m.name || '_' || t.slug, t.slug || '_app', 'ready'
        FROM pgtenant.tenants AS t CROSS JOIN pgtenant.modules AS m;
    INSERT INTO pgtenant.logins (tenant_id, login, role, verifier)
        SELECT id, 'app', slug || '_app', 'SCRAM-SHA-256$4096:4GBVK0C+2NuHZwH+gLy2Mw==$eB98Sjke7eI3xyg2E7RzNlMdyCPbRqLhtp2BdQh+jls=:G64xqz5mRTiN5O/CNv48/DtW7hs1qa9RxIY3X6XtgJA='
        FROM pgtenant.tenants;
    INSERT INTO pgtenant.activity (tenant_id, last_used_at, logins) SELECT id, now(), 1 FROM pgtenant.tenants;
    RESET session_replication_role";
/// How often tables that grow with the number of tenants were read from end to end.
const READ_WHOLE: &str = "SELECT sum(seq_scan)::int8 FROM pg_stat_user_tables
    WHERE relname IN ('tenants', 'tenant_names', 'placements', 'logins', 'activity')";
/// Pages as `tenant list` reads them.
const PAGE: u32 = 500;
/// Look-ups side by side, as when many clients of different tenants come at once.
const CROWD: u32 = 16;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    pgtenant::net::tls::install_provider();
    let cluster = Cluster::builder().setting("shared_buffers", "256MB").start().await?;
    cluster.connect("postgres").await?.batch_execute("CREATE DATABASE registry").await?;
    let url = cluster.superuser_url("registry");
    let admin = Admin::connect(&url).await?;
    admin.init().await?;
    // Sessions of their own: what a session has read is told for certain only when it ends.
    let (observer, filler) = (cluster.connect("registry").await?, cluster.connect("registry").await?);
    let began = Instant::now();
    filler.batch_execute(&FILL.replace("{last}", &(options.tenants - 1).to_string())).await?;
    filler.batch_execute("VACUUM ANALYZE").await?;
    drop(filler);
    println!("{} tenants, filled in {:.1} s; microseconds", options.tenants, began.elapsed().as_secs_f64());
    println!("{:34} {:>9} {:>9} {:>9} {:>9}", "", "p50", "p99", "worst", "a second");
    let before = read_whole(&observer).await?;
    look_up(&url, &options).await?;
    pages(&admin, &options).await?;
    drop(admin);
    let whole = read_whole(&observer).await? - before;
    println!(
        "{whole} reads of a table that grows with the number of tenants from end to end, opening the registry included"
    );
    Ok(())
}

/// Through the handle that the proxy has.
async fn look_up(url: &str, options: &Options) -> Result<()> {
    let config = Config { url: Some(url.to_owned()), cache_size: 10, ..Config::default() };
    let cold = Registry::open(&config).await?;
    // Connections and the watcher are there before it is measured.
    for n in 0..CROWD {
        find(&cold, &name(n, options)?).await?;
    }
    let mut times = Times::default();
    for n in 0..options.samples {
        let name = name(n.wrapping_mul(7919), options)?;
        times.measure(find(&cold, &name)).await?;
    }
    times.print("cold look-up, one at a time");
    times = Times::default();
    let began = Instant::now();
    let mut running = JoinSet::new();
    for n in 0..options.samples {
        if running.len() >= CROWD as usize {
            times.add(running.join_next().await.context("a look-up")???);
        }
        let (registry, name) = (cold.clone(), name(n.wrapping_mul(104_729), options)?);
        running.spawn(async move {
            let began = Instant::now();
            find(&registry, &name).await.map(|()| began.elapsed())
        });
    }
    while let Some(done) = running.join_next().await {
        times.add(done??);
    }
    times.whole = began.elapsed();
    times.print("cold look-up, 16 at a time");
    let warm = Registry::open(&Config { cache_size: 100_000, ..config }).await?;
    let names: Vec<_> = (0..100).map(|n| name(n, options)).collect::<Result<_>>()?;
    for name in &names {
        find(&warm, name).await?;
    }
    let mut times = Times::default();
    for n in 0..options.samples as usize {
        times.measure(find(&warm, &names[n % names.len()])).await?;
    }
    times.print("cached look-up");
    Ok(())
}

/// As `tenant show` and `tenant list` read.
async fn pages(admin: &Admin, options: &Options) -> Result<()> {
    let mut times = Times::default();
    for n in 0..options.samples {
        let name = name(n.wrapping_mul(7919), options)?;
        times.measure(async { admin.tenant(&name).await?.context("the tenant").map(drop) }).await?;
    }
    times.print("tenant show");
    let mut times = Times::default();
    for n in 0..(options.samples / 50).max(1) {
        let after = Slug::parse(&slug(n.wrapping_mul(7919) % options.tenants))?;
        let page = async {
            let tenants = admin.tenants(Some(&after), PAGE).await?;
            let ids: Vec<_> = tenants.iter().map(|tenant| tenant.tenant.id).collect();
            ensure!(admin.activity(&ids).await?.len() == ids.len(), "each was used");
            Ok(())
        };
        times.measure(page).await?;
    }
    times.print("tenant list, a page of 500");
    let mut times = Times::default();
    for _ in 0..(options.samples / 50).max(1) {
        let look = async {
            ensure!(admin.unready_tenants().await?.is_empty(), "all tenants are whole");
            Ok(())
        };
        times.measure(look).await?;
    }
    times.print("tenant reconcile, nothing to do");
    Ok(())
}

async fn find(registry: &Registry, name: &TenantName) -> Result<()> {
    registry.lookup(name).await?.map(drop).with_context(|| format!("{name} is not there"))
}

fn slug(n: u32) -> String {
    format!("t{n:06}")
}

/// Slugs and aliases in turn.
fn name(n: u32, options: &Options) -> Result<TenantName> {
    let slug = slug(n % options.tenants);
    Ok(TenantName::parse(&if n.is_multiple_of(2) { slug } else { format!("krn:{slug}:client:1") })?)
}

async fn read_whole(observer: &Client) -> Result<i64> {
    // Sessions tell what they did when they have been idle for a moment.
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(observer.query_one(READ_WHOLE, &[]).await?.get(0))
}

/// How long something took, each time.
#[derive(Default)]
struct Times {
    each: Vec<Duration>,
    whole: Duration,
}

impl Times {
    async fn measure(&mut self, work: impl Future<Output = Result<()>>) -> Result<()> {
        let began = Instant::now();
        work.await?;
        self.add(began.elapsed());
        self.whole += began.elapsed();
        Ok(())
    }

    fn add(&mut self, time: Duration) {
        self.each.push(time);
    }

    fn print(&mut self, what: &str) {
        self.each.sort_unstable();
        let micros = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e6);
        let at = |share: usize| micros(self.each.get((self.each.len() * share / 100).min(self.each.len() - 1)));
        let rate = self.each.len() as f64 / self.whole.as_secs_f64().max(1e-9);
        println!("{what:34} {:9.1} {:9.1} {:9.1} {rate:9.0}", at(50), at(99), micros(self.each.last()));
    }
}
