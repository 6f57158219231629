//! Memory of a tenant that is known, and of one that was used and is idle again.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pgtenant::registry::Admin;

use crate::client::{self, Client};
use crate::crowd::service_secret;
use crate::load;
use crate::place::{DATABASE, Place, ROLE};
use crate::report::{Found, Row};
use crate::target::{Memory, SERVER, Settings, Target};

/// Tenants that are merely asked for.
const KNOWN: usize = 10_000;
/// Tenants that are used, twice.
const USED: usize = 1_000;
/// Those that came before.
const WARM: usize = 100;
const REGISTRY: &str = "registry";
/// Both modules are the same database; one has a pool for each tenant, one a pool for all.
const MODULES: [(&str, &str); 2] = [("own", "a pool of its own"), ("common", "a common pool")];
/// How long connections may take to be closed.
const QUIET_TIMEOUT: Duration = Duration::from_secs(120);
/// How long nothing has happened when memory is looked at.
const SETTLE: Duration = Duration::from_secs(5);

/// Rows as commands would have written them, all at once: the triggers that keep single writers honest are left out.
const FILL: &str = "
    SET session_replication_role = replica;
    INSERT INTO pgtenant.servers (name, host, port, sslmode, app_secret) VALUES ('{server}', '127.0.0.1', {port}, 'disable', 'file:{secret}');
    INSERT INTO pgtenant.modules (name, isolation, server, database, pooling, aliases) VALUES
        ('own', 'schema', '{server}', '{database}', 'per-tenant', '{}'),
        ('common', 'schema', '{server}', '{database}', 'shared', '{}');
    INSERT INTO pgtenant.tenants (id, slug, name, status, generation)
        SELECT gen_random_uuid(), 't' || n, 'Tenant ' || n, 'active', n + 1 FROM generate_series(0, {last}) AS n;
    INSERT INTO pgtenant.tenant_names (name, tenant_id, kind)
        SELECT id::text, id, 'id' FROM pgtenant.tenants UNION ALL SELECT slug, id, 'slug' FROM pgtenant.tenants;
    INSERT INTO pgtenant.placements (tenant_id, module, isolation, server, database, schema, role, status)
        SELECT t.id, m.name, 'schema', '{server}', m.database, t.slug, t.slug, 'ready'
        FROM pgtenant.tenants AS t CROSS JOIN pgtenant.modules AS m;
    INSERT INTO pgtenant.logins (tenant_id, login, role, verifier) SELECT id, 'app', slug, '{verifier}' FROM pgtenant.tenants;
    RESET session_replication_role;
    ANALYZE";
/// A role and a schema for each tenant that is used.
const PLACES: &str = "
    DO $$ BEGIN FOR n IN 0..{last} LOOP
        EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L', 't' || n, '{verifier}');
        EXECUTE format('CREATE SCHEMA %I AUTHORIZATION %I', 't' || n, 't' || n);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO {role}', 't' || n);
    END LOOP; END $$";
/// Connections of tenants, however they are pooled.
const OPEN: &str =
    "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'
    AND pid <> pg_catalog.pg_backend_pid()";

/// Each kind in a process of its own.
pub(crate) async fn measure(place: &Place) -> Result<Found> {
    let url = fill(place).await?;
    let mut found = Found::default();
    found.rows.push(known(place, &url)?);
    for (module, words) in MODULES {
        for (thousand, memory) in ["first", "second"].into_iter().zip(used(place, &url, module).await?) {
            let what = format!("tenant used and idle again, {words}, {thousand} {USED}, KiB");
            let row = Row::alone(what, memory.resident, 2, "4");
            found.rows.push(row.saying(&format!("{:.2} proportional", memory.proportional)));
        }
    }
    found.notes.push(
        "A tenant that was used is known as well. Tenants were used one after the other, with pool.max_pools as it is by default (100); memory \
         is looked at when all connections are closed (idle_timeout 1 s) and nothing has happened for 5 s."
            .to_owned(),
    );
    Ok(found)
}

async fn fill(place: &Place) -> Result<String> {
    eprintln!("filling a registry");
    place.cluster.connect("postgres").await?.batch_execute(&format!("CREATE DATABASE {REGISTRY}")).await?;
    let url = place.cluster.superuser_url(REGISTRY);
    Admin::connect(&url).await?.init().await?;
    let secret = service_secret(place)?.display().to_string();
    let told = |sql: &str, last: usize| {
        sql.replace("{last}", &last.to_string())
            .replace("{server}", SERVER)
            .replace("{port}", &place.cluster.port().to_string())
            .replace("{secret}", &secret)
            .replace("{database}", DATABASE)
            .replace("{role}", ROLE)
            .replace("{verifier}", &place.verifier)
    };
    let registry = place.cluster.connect(REGISTRY).await?;
    registry.batch_execute(&told(FILL, WARM + KNOWN - 1)).await.context("fill the registry")?;
    let database = place.cluster.connect(DATABASE).await?;
    database.batch_execute(&told(PLACES, WARM + 2 * USED - 1)).await.context("make the places")?;
    Ok(url)
}

fn start(place: &Place, url: &str, name: &str) -> Result<Target> {
    let registry = format!("url = '{url}'\ncache_ttl = '1h'\nactivity_interval = '1s'");
    let pool = "idle_timeout = '1s'\nhealth_check_interval = '1s'\nrole_check_interval = '0s'\n";
    Target::pgtenant(place, name, &Settings { registry: Some(&registry), pool, ..Settings::default() })
}

/// Clients name the tenant, and leave before they prove anything.
fn known(place: &Place, url: &str) -> Result<Row> {
    let target = start(place, url, "knowing")?;
    let knock = |from: usize, to: usize| {
        let names: Vec<_> = (from..to).collect();
        let shares = names.chunks(names.len().div_ceil(4)).collect();
        let each = |share: &[usize]| {
            let mut tenants = share.iter();
            tenants.try_for_each(|n| {
                let login = client::Login { database: "common", ..target.login_of(format!("app@t{n}")) };
                Client::knock(&login)
            })
        };
        load::by_threads(shares, each).with_context(|| target.said())
    };
    knock(0, WARM)?;
    thread::sleep(SETTLE);
    let before = target.memory()?;
    knock(WARM, WARM + KNOWN)?;
    thread::sleep(SETTLE);
    let memory = target.memory()?.since(before, KNOWN);
    let row = Row::alone(format!("tenant merely known, of {KNOWN}, KiB"), memory.resident, 2, "1");
    Ok(row.saying(&format!("{:.2} proportional", memory.proportional)))
}

/// One client of each tenant asks once and leaves.
async fn used(place: &Place, url: &str, module: &'static str) -> Result<Vec<Memory>> {
    let target = start(place, url, module)?;
    let observer = place.cluster.connect("postgres").await?;
    let mut memory = Vec::new();
    let mut before = None;
    for (from, to) in [(0, WARM), (WARM, WARM + USED), (WARM + USED, WARM + 2 * USED)] {
        for n in from..to {
            let login = client::Login { database: module, ..target.login_of(format!("app@t{n}")) };
            let mut client = Client::login(&login, None).with_context(|| target.said())?;
            client.ask(&client::query("SELECT 1")).with_context(|| target.said())?;
            client.leave()?;
        }
        let deadline = Instant::now() + QUIET_TIMEOUT;
        while observer.query_one(OPEN, &[&DATABASE]).await?.get::<_, i64>(0) > 0 {
            ensure!(Instant::now() < deadline, "{} closes no idle connections", target.name);
            thread::sleep(Duration::from_millis(200));
        }
        thread::sleep(SETTLE);
        let now = target.memory()?;
        memory.extend(before.map(|before| now.since(before, to - from)));
        before = Some(now);
    }
    Ok(memory)
}
