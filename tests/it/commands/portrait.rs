//! Everything that there is of a tenant, in the registry and on its server, as lines that can be compared with another tenant's.

use serde_json::Value;
use tokio_postgres::Client;

use super::site::Site;
use crate::support;

/// Of the registry; `$1` is the tenant's slug.
const REGISTRY: [&str; 7] = [
    "SELECT 'tenant', to_jsonb(t) - 'id' - 'generation' - 'created_at' - 'updated_at' - 'sessions_end_at' FROM pgtenant.tenants AS t WHERE slug = $1",
    "SELECT 'name', to_jsonb(n.kind) FROM pgtenant.tenant_names AS n WHERE tenant_id = pg_temp.id($1)",
    "SELECT 'placement', to_jsonb(p) - 'tenant_id' - 'created_at' - 'ready_at' FROM pgtenant.placements AS p WHERE tenant_id = pg_temp.id($1)",
    "SELECT 'place', to_jsonb(p) - 'holder' FROM pgtenant.places AS p WHERE holder = pg_temp.id($1)",
    "SELECT 'role', to_jsonb(r.role) FROM pgtenant.roles AS r WHERE tenant_id = pg_temp.id($1)",
    "SELECT 'login', to_jsonb(l) - 'tenant_id' - 'created_at' - 'verifier' FROM pgtenant.logins AS l WHERE tenant_id = pg_temp.id($1)",
    "SELECT 'verifier', to_jsonb(coalesce(a.rolpassword = l.verifier, false)) FROM pgtenant.logins AS l
        LEFT JOIN pg_authid AS a ON a.rolname = l.role WHERE l.tenant_id = pg_temp.id($1)",
];
/// Of the server; `$1` is what its names have in them.
const SERVER: [&str; 3] = [
    "SELECT 'server role', jsonb_build_array(rolname, rolcanlogin, rolsuper, rolinherit, rolcreatedb, rolcreaterole, rolbypassrls)
        FROM pg_roles WHERE rolname LIKE '%' || $1 || '%'",
    "SELECT 'member', jsonb_build_array(g.rolname, u.rolname, m.admin_option) FROM pg_auth_members AS m
        JOIN pg_roles AS g ON g.oid = m.roleid JOIN pg_roles AS u ON u.oid = m.member WHERE g.rolname || u.rolname LIKE '%' || $1 || '%'",
    "SELECT 'database', jsonb_build_array(datname, pg_get_userbyid(datdba), ARRAY(SELECT unnest(datacl)::text ORDER BY 1))
        FROM pg_database WHERE datname LIKE '%' || $1 || '%'",
];
/// Of one database.
const DATABASE: [&str; 7] = [
    "SELECT 'schema', jsonb_build_array(nspname, pg_get_userbyid(nspowner), ARRAY(SELECT unnest(nspacl)::text ORDER BY 1),
            obj_description(oid, 'pg_namespace') IS NOT NULL)
        FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'",
    "SELECT 'relation', jsonb_build_array(c.oid::regclass, c.relkind, pg_get_userbyid(relowner), ARRAY(SELECT unnest(relacl)::text ORDER BY 1),
            relrowsecurity, relforcerowsecurity)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'",
    "SELECT 'default', jsonb_build_array(pg_get_userbyid(defaclrole), defaclnamespace::regnamespace, defaclobjtype, ARRAY(SELECT unnest(defaclacl)::text ORDER BY 1))
        FROM pg_default_acl",
    "SELECT 'policy', jsonb_build_array(polrelid::regclass, polname, polpermissive) FROM pg_policy",
    "SELECT 'routine', jsonb_build_array(oid::regprocedure, pg_get_userbyid(proowner)) FROM pg_proc
        WHERE pronamespace::regnamespace::text !~ '^(pg_|information_schema)'",
    "SELECT 'mapped', jsonb_build_array(role, service) FROM pgtenant.roles",
    "SELECT 'version', jsonb_build_array(module, schema_name, version, name) FROM pgtenant.schema_versions",
];

/// What there is of a tenant. `word` is what all names of its test have in them and stands as `*`, so that two tenants compare.
pub(super) async fn portrait(site: &Site, word: &str, slug: &str, databases: &[String]) -> Vec<String> {
    let id = "CREATE OR REPLACE FUNCTION pg_temp.id(text) RETURNS uuid LANGUAGE sql AS 'SELECT id FROM pgtenant.tenants WHERE slug = $1'";
    site.registry.admin.batch_execute(id).await.unwrap();
    let mut lines = Vec::new();
    for sql in REGISTRY {
        lines.extend(read(&site.registry.admin, sql, Some(slug)).await);
    }
    for sql in SERVER {
        lines.extend(read(&site.registry.admin, sql, Some(word)).await);
    }
    for database in databases {
        // Not all are there at all times.
        let Ok(client) = support::cluster().await.connect(database).await else { continue };
        for sql in DATABASE {
            lines.extend(read(&client, sql, None).await.into_iter().map(|line| format!("{database}: {line}")));
        }
    }
    let mut lines: Vec<_> = lines.into_iter().map(|line| line.replace(word, "*")).collect();
    lines.sort_unstable();
    lines
}

async fn read(client: &Client, sql: &str, parameter: Option<&str>) -> Vec<String> {
    let rows = match &parameter {
        Some(parameter) => client.query(sql, &[parameter]).await,
        None => client.query(sql, &[]).await,
    };
    let line = |row: &tokio_postgres::Row| format!("{} {}", row.get::<_, &str>(0), row.get::<_, Value>(1));
    rows.unwrap_or_else(|error| panic!("{sql}: {error:?}")).iter().map(line).collect()
}
