//! A registry with many tenants: whatever is asked of it is found by index.

use pgtenant::registry::{Admin, Config, Filter, Registry};
use pgtenant::tenant::{ModuleName, Slug, TenantName, TenantStatus};
use tokio_postgres::Client;

use crate::support::{cluster, database, until};

/// As commands would have written them, without the triggers that keep single writers honest.
const FILL: &str = "
    SET session_replication_role = replica;
    INSERT INTO pgtenant.servers (name, host) VALUES ('main', 'db1.internal');
    INSERT INTO pgtenant.modules (name, isolation, server, database) VALUES ('operations', 'schema', 'main', 'operations'),
        ('finance', 'schema', 'main', 'finance');
    INSERT INTO pgtenant.tenants (slug, name, status)
        SELECT 't' || lpad(n::text, 5, '0'), 'T', CASE WHEN n = 4321 THEN 'suspended' ELSE 'active' END FROM generate_series(0, 4999) AS n;
    INSERT INTO pgtenant.tenant_names (name, tenant_id, kind)
        SELECT id::text, id, 'id' FROM pgtenant.tenants UNION ALL SELECT slug, id, 'slug' FROM pgtenant.tenants
        UNION ALL SELECT 'krn:' || slug, id, 'alias' FROM pgtenant.tenants;
    INSERT INTO pgtenant.placements (tenant_id, module, isolation, server, database, schema, role, status)
        SELECT t.id, m.name, 'schema', 'main', m.database, m.name || '_' || t.slug, t.slug, 'ready'
        FROM pgtenant.tenants AS t JOIN pgtenant.modules AS m ON m.name = 'operations' OR t.slug = 't01234';
    INSERT INTO pgtenant.logins (tenant_id, login, role) SELECT id, 'app', slug FROM pgtenant.tenants;
    INSERT INTO pgtenant.activity (tenant_id, last_used_at, logins) SELECT id, now(), 1 FROM pgtenant.tenants;
    RESET session_replication_role; ANALYZE";
/// How often each table that grows with the number of tenants was read from end to end, and names by their index.
const READS: &str = "
    SELECT string_agg(relname || ' ' || seq_scan, ', ' ORDER BY relname), sum(idx_scan) FILTER (WHERE relname = 'tenant_names')::int8
    FROM pg_stat_user_tables
    WHERE relname IN ('tenants', 'tenant_names', 'placements', 'logins', 'activity', 'places', 'roles', 'placement_versions', 'module_log')";

async fn reads(client: &Client) -> (String, i64) {
    let row = client.query_one(READS, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_table_that_grows_with_the_number_of_tenants_is_ever_read_from_end_to_end() {
    let database = database("scale").await;
    let admin = Admin::connect(&database.url).await.unwrap();
    admin.init().await.unwrap();
    let filler = cluster().await.connect(&database.name).await.unwrap();
    filler.batch_execute(FILL).await.unwrap();
    // Every session's counts are told when it ends, and the observer's own at some time.
    let settled = async |what: &str, least: i64| {
        until(what, async || reads(&database.admin).await.1 >= least).await;
        reads(&database.admin).await
    };
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'";
    let alone = async || database.admin.query_one(sessions, &[]).await.unwrap().get::<_, i64>(0) == 1;
    drop((admin, filler));
    until("its sessions have ended", alone).await;
    let (whole, by_name) = settled("the filling is told", 0).await;

    let id = "SELECT id FROM pgtenant.tenants WHERE slug = 't04999'";
    let id: uuid::Uuid = database.admin.query_one(id, &[]).await.unwrap().get(0);
    let names = ["t00007", "krn:t04998", &id.to_string(), "nobody"].map(|name| TenantName::parse(name).unwrap());
    let registry = Registry::open(&Config { url: Some(database.url.clone()), ..Config::default() }).await.unwrap();
    for name in &names {
        let found = registry.lookup(name).await.unwrap();
        assert_eq!(found.is_some(), name.as_str() != "nobody", "{name}");
    }
    let admin = Admin::connect(&database.url).await.unwrap();
    for name in &names {
        assert_eq!(admin.tenant(name).await.unwrap().is_some(), name.as_str() != "nobody", "{name}");
    }
    let slugs = |page: Vec<pgtenant::registry::TenantDetails>| -> Vec<String> {
        page.iter().map(|tenant| tenant.tenant.slug.to_string()).collect()
    };
    let after = Slug::parse("t02499").unwrap();
    assert_eq!(slugs(admin.tenants(Some(&after), 3).await.unwrap()), ["t02500", "t02501", "t02502"]);
    let page = admin.tenants(None, 50).await.unwrap();
    assert_eq!(page.len(), 50);
    let ids: Vec<_> = page.iter().take(3).map(|tenant| tenant.tenant.id).collect();
    assert_eq!(admin.activity(&ids).await.unwrap().len(), 3);
    let operations = Filter { status: None, module: Some(ModuleName::parse("operations").unwrap()) };
    assert_eq!(slugs(admin.tenants_like(&operations, Some(&after), 1).await.unwrap()), ["t02500"]);
    let finance = Filter { status: None, module: Some(ModuleName::parse("finance").unwrap()) };
    assert_eq!(slugs(admin.tenants_like(&finance, None, 500).await.unwrap()), ["t01234"]);
    let suspended = Filter { status: Some(TenantStatus::Suspended), module: None };
    assert_eq!(slugs(admin.tenants_like(&suspended, None, 500).await.unwrap()), ["t04321"]);
    assert_eq!(slugs(admin.unready_tenants().await.unwrap()), [""; 0]);
    drop((registry, admin));
    until("their sessions have ended", alone).await;
    let (after, _) = settled("all of it is told", by_name + 8).await;
    assert_eq!(after, whole, "tables that grow with the number of tenants were read from end to end");
}
