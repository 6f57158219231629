//! Every statement on the registry. Tables are named with their schema, operators that decide who is found with theirs.

/// What a tenant's own row gives, as pairs for `json_build_object`; the tenant is `t`.
macro_rules! tenant_fields {
    () => {
        "'id', t.id, 'slug', t.slug, 'name', t.name, 'contact', t.contact, 'status', t.status,
         'sessions_end_at', extract(epoch FROM t.sessions_end_at)::pg_catalog.float8,
         'default_module', t.default_module, 'limits', t.limits, 'generation', t.generation,
         'aliases', ARRAY(SELECT a.name FROM pgtenant.tenant_names AS a
                          WHERE a.tenant_id OPERATOR(pg_catalog.=) t.id AND a.kind OPERATOR(pg_catalog.=) 'alias' ORDER BY a.name),
         'allow', ARRAY(SELECT a.network::pg_catalog.text FROM pgtenant.tenant_addresses AS a
                        WHERE a.tenant_id OPERATOR(pg_catalog.=) t.id ORDER BY a.network),
         'logins', ARRAY(SELECT pg_catalog.json_build_object('login', l.login, 'role', l.role, 'verifier', l.verifier)
                         FROM pgtenant.logins AS l WHERE l.tenant_id OPERATOR(pg_catalog.=) t.id ORDER BY l.login)"
    };
}

/// A whole tenant as the data plane needs it: module and server settings resolved into its places.
macro_rules! tenant_record {
    () => {
        concat!(
            "SELECT pg_catalog.json_build_object(",
            tenant_fields!(),
            ", 'sessions_end_in', extract(epoch FROM t.sessions_end_at OPERATOR(pg_catalog.-) pg_catalog.clock_timestamp())::pg_catalog.float8,
             'placements', ARRAY(
                SELECT pg_catalog.json_build_object(
                    'module', p.module, 'module_aliases', m.aliases, 'isolation', p.isolation,
                    'server', pg_catalog.json_build_object('name', s.name, 'host', s.host, 'port', s.port, 'sslmode', s.sslmode,
                        'ca_file', s.ca_file, 'max_connections', s.max_connections,
                        'admin_secret', s.admin_secret, 'app_secret', s.app_secret),
                    'database', p.database, 'schema', p.schema, 'role', p.role,
                    'pooling', CASE p.isolation WHEN 'database' THEN 'per-tenant' ELSE coalesce(p.pooling, m.pooling) END,
                    'pool_mode', coalesce(p.pool_mode, m.pool_mode), 'pool_size', coalesce(p.pool_size, m.pool_size),
                    'search_path_extra', m.search_path_extra, 'tenant_parameter', m.tenant_parameter, 'set_role', m.set_role,
                    'ready', p.status OPERATOR(pg_catalog.=) 'ready')
                FROM pgtenant.placements AS p
                JOIN pgtenant.modules AS m ON m.name OPERATOR(pg_catalog.=) p.module
                JOIN pgtenant.servers AS s ON s.name OPERATOR(pg_catalog.=) p.server
                WHERE p.tenant_id OPERATOR(pg_catalog.=) t.id ORDER BY p.module))::pg_catalog.text"
        )
    };
}

/// A whole tenant as the control plane writes it: its rows as they are.
macro_rules! tenant_details {
    () => {
        concat!(
            "SELECT pg_catalog.json_build_object(",
            tenant_fields!(),
            ", 'placements', ARRAY(
                SELECT pg_catalog.json_build_object(
                    'module', p.module, 'isolation', p.isolation, 'server', p.server, 'database', p.database, 'schema', p.schema,
                    'role', p.role, 'pooling', p.pooling, 'pool_mode', p.pool_mode, 'pool_size', p.pool_size,
                    'status', p.status, 'managed', p.managed)
                FROM pgtenant.placements AS p WHERE p.tenant_id OPERATOR(pg_catalog.=) t.id ORDER BY p.module))::pg_catalog.text"
        )
    };
}

/// `$1`: any name. Every table but `modules` and `servers` is read by index, however many tenants there are.
pub(super) const RECORD_BY_NAME: &str = concat!(
    tenant_record!(),
    " FROM pgtenant.tenant_names AS n JOIN pgtenant.tenants AS t ON t.id OPERATOR(pg_catalog.=) n.tenant_id
      WHERE n.name OPERATOR(pg_catalog.=) $1"
);

/// `$1`: any name.
pub(super) const DETAILS_BY_NAME: &str = concat!(
    tenant_details!(),
    " FROM pgtenant.tenant_names AS n JOIN pgtenant.tenants AS t ON t.id OPERATOR(pg_catalog.=) n.tenant_id
      WHERE n.name OPERATOR(pg_catalog.=) $1"
);
/// `$1`: the slug after which to go on, `$2`: how many, `$3`: only those with this status.
pub(super) const DETAILS_PAGE: &str = concat!(
    tenant_details!(),
    " FROM pgtenant.tenants AS t WHERE t.slug OPERATOR(pg_catalog.>) $1
        AND ($3 IS NULL OR t.status OPERATOR(pg_catalog.=) $3)
      ORDER BY t.slug LIMIT $2"
);
/// As [`DETAILS_PAGE`], `$4`: only those with this module. A statement of its own: under an OR, PostgreSQL would read all places.
pub(super) const DETAILS_PAGE_OF_MODULE: &str = concat!(
    tenant_details!(),
    " FROM pgtenant.tenants AS t
        JOIN pgtenant.placements AS f ON f.tenant_id OPERATOR(pg_catalog.=) t.id AND f.module OPERATOR(pg_catalog.=) $4
      WHERE t.slug OPERATOR(pg_catalog.>) $1
        AND ($3 IS NULL OR t.status OPERATOR(pg_catalog.=) $3)
      ORDER BY t.slug LIMIT $2"
);
/// Tenants with places that are asked for and not there yet, or to be dropped and still there, and those that only wait to be activated. Both
/// parts have indexes. Nothing is made for an archived tenant.
pub(super) const DETAILS_UNREADY: &str = concat!(
    tenant_details!(),
    " FROM pgtenant.tenants AS t WHERE t.id OPERATOR(pg_catalog.=) ANY (ARRAY(
        SELECT u.tenant_id FROM pgtenant.placements AS u WHERE u.status OPERATOR(pg_catalog.<>) 'ready'
        UNION SELECT s.id FROM pgtenant.tenants AS s WHERE s.status OPERATOR(pg_catalog.=) 'provisioning'))
      AND (t.status OPERATOR(pg_catalog.<>) 'archived' OR EXISTS (
        SELECT 1 FROM pgtenant.placements AS d
        WHERE d.tenant_id OPERATOR(pg_catalog.=) t.id AND d.status OPERATOR(pg_catalog.=) 'dropping'))
      ORDER BY t.slug"
);

pub(super) const SERVERS: &str =
    "SELECT pg_catalog.to_json(s)::pg_catalog.text FROM pgtenant.servers AS s ORDER BY s.name";
pub(super) const MODULES: &str =
    "SELECT pg_catalog.to_json(m)::pg_catalog.text FROM pgtenant.modules AS m ORDER BY m.ordinal";

/// `$1`: the row as JSON. One row when something was written: whether it is new.
pub(super) const PUT_SERVER: &str = "
    INSERT INTO pgtenant.servers AS s (name, host, port, sslmode, ca_file, max_connections, admin_secret, app_secret)
    SELECT r.name, r.host, r.port, r.sslmode, r.ca_file, r.max_connections, r.admin_secret, r.app_secret
    FROM pg_catalog.json_populate_record(NULL::pgtenant.servers, $1::pg_catalog.json) AS r
    ON CONFLICT (name) DO UPDATE SET (host, port, sslmode, ca_file, max_connections, admin_secret, app_secret)
        = (EXCLUDED.host, EXCLUDED.port, EXCLUDED.sslmode, EXCLUDED.ca_file, EXCLUDED.max_connections, EXCLUDED.admin_secret,
           EXCLUDED.app_secret)
    WHERE (s.host, s.port, s.sslmode, s.ca_file, s.max_connections, s.admin_secret, s.app_secret)
        IS DISTINCT FROM (EXCLUDED.host, EXCLUDED.port, EXCLUDED.sslmode, EXCLUDED.ca_file, EXCLUDED.max_connections,
           EXCLUDED.admin_secret, EXCLUDED.app_secret)
    RETURNING (xmax OPERATOR(pg_catalog.=) '0'::pg_catalog.xid)";
/// As [`PUT_SERVER`].
pub(super) const PUT_MODULE: &str = "
    INSERT INTO pgtenant.modules AS m (name, isolation, server, database, pooling, pool_mode, pool_size, schema_pattern,
        database_pattern, role_pattern, template, search_path_extra, migrations, aliases, tenant_parameter, set_role)
    SELECT r.name, r.isolation, r.server, r.database, r.pooling, r.pool_mode, r.pool_size, r.schema_pattern,
        r.database_pattern, r.role_pattern, r.template, r.search_path_extra, r.migrations, r.aliases, r.tenant_parameter,
        r.set_role
    FROM pg_catalog.json_populate_record(NULL::pgtenant.modules, $1::pg_catalog.json) AS r
    ON CONFLICT (name) DO UPDATE SET (isolation, server, database, pooling, pool_mode, pool_size, schema_pattern,
            database_pattern, role_pattern, template, search_path_extra, migrations, aliases, tenant_parameter, set_role)
        = (EXCLUDED.isolation, EXCLUDED.server, EXCLUDED.database, EXCLUDED.pooling, EXCLUDED.pool_mode, EXCLUDED.pool_size,
           EXCLUDED.schema_pattern, EXCLUDED.database_pattern, EXCLUDED.role_pattern, EXCLUDED.template,
           EXCLUDED.search_path_extra, EXCLUDED.migrations, EXCLUDED.aliases, EXCLUDED.tenant_parameter, EXCLUDED.set_role)
    WHERE (m.isolation, m.server, m.database, m.pooling, m.pool_mode, m.pool_size, m.schema_pattern, m.database_pattern,
           m.role_pattern, m.template, m.search_path_extra, m.migrations, m.aliases, m.tenant_parameter, m.set_role)
        IS DISTINCT FROM (EXCLUDED.isolation, EXCLUDED.server, EXCLUDED.database, EXCLUDED.pooling, EXCLUDED.pool_mode,
           EXCLUDED.pool_size, EXCLUDED.schema_pattern, EXCLUDED.database_pattern, EXCLUDED.role_pattern,
           EXCLUDED.template, EXCLUDED.search_path_extra, EXCLUDED.migrations, EXCLUDED.aliases, EXCLUDED.tenant_parameter, EXCLUDED.set_role)
    RETURNING (xmax OPERATOR(pg_catalog.=) '0'::pg_catalog.xid)";
pub(super) const REMOVE_SERVER: &str = "DELETE FROM pgtenant.servers WHERE name OPERATOR(pg_catalog.=) $1";
pub(super) const REMOVE_MODULE: &str = "DELETE FROM pgtenant.modules WHERE name OPERATOR(pg_catalog.=) $1";

/// `$1`: the row as JSON.
pub(super) const INSERT_TENANT: &str = "
    INSERT INTO pgtenant.tenants (id, slug, name, contact, status, sessions_end_at, default_module, limits)
    SELECT r.id, r.slug, r.name, r.contact, r.status, pg_catalog.to_timestamp(r.sessions_end_at), r.default_module, coalesce(r.limits, '{}')
    FROM pg_catalog.json_to_record($1::pg_catalog.json) AS r(id pg_catalog.uuid, slug pg_catalog.text, name pg_catalog.text,
        contact pg_catalog.text, status pg_catalog.text, sessions_end_at pg_catalog.float8, default_module pg_catalog.text, limits pg_catalog.jsonb)";
/// As [`INSERT_TENANT`].
pub(super) const UPDATE_TENANT: &str = "
    UPDATE pgtenant.tenants AS t SET (slug, name, contact, status, sessions_end_at, default_module, limits)
        = (r.slug, r.name, r.contact, r.status, pg_catalog.to_timestamp(r.sessions_end_at), r.default_module, coalesce(r.limits, '{}'))
    FROM pg_catalog.json_to_record($1::pg_catalog.json) AS r(id pg_catalog.uuid, slug pg_catalog.text, name pg_catalog.text,
        contact pg_catalog.text, status pg_catalog.text, sessions_end_at pg_catalog.float8, default_module pg_catalog.text, limits pg_catalog.jsonb)
    WHERE t.id OPERATOR(pg_catalog.=) r.id";
/// `$1`: the id, `$2`: the status, `$3`: seconds that sessions may still run, for a suspension.
pub(super) const SET_STATUS: &str = "
    UPDATE pgtenant.tenants SET status = $2,
        sessions_end_at = CASE $2 WHEN 'suspended'
            THEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => coalesce($3, 0)) END
    WHERE id OPERATOR(pg_catalog.=) $1";
/// `$1`: the id, `$2`: the limits as JSON.
pub(super) const SET_LIMITS: &str = "
    UPDATE pgtenant.tenants AS t SET limits = $2::pg_catalog.jsonb
    WHERE t.id OPERATOR(pg_catalog.=) $1 AND t.limits OPERATOR(pg_catalog.<>) $2::pg_catalog.jsonb";
pub(super) const SET_DEFAULT_MODULE: &str =
    "UPDATE pgtenant.tenants SET default_module = $2 WHERE id OPERATOR(pg_catalog.=) $1";
/// Its places first, while the log can still tell its slug.
pub(super) const DELETE_PLACEMENTS: &str = "DELETE FROM pgtenant.placements WHERE tenant_id OPERATOR(pg_catalog.=) $1";
pub(super) const DELETE_TENANT: &str = "DELETE FROM pgtenant.tenants WHERE id OPERATOR(pg_catalog.=) $1";
pub(super) const LOCK_TENANT: &str =
    "SELECT t.status FROM pgtenant.tenants AS t WHERE t.id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE";

/// Adding an alias that is the tenant's already changes nothing.
pub(super) const ADD_ALIAS: &str = "
    INSERT INTO pgtenant.tenant_names (name, tenant_id) SELECT $2, $1
    WHERE NOT EXISTS (SELECT 1 FROM pgtenant.tenant_names AS n
        WHERE n.name OPERATOR(pg_catalog.=) $2 AND n.tenant_id OPERATOR(pg_catalog.=) $1)";
pub(super) const REMOVE_ALIAS: &str = "
    DELETE FROM pgtenant.tenant_names
    WHERE tenant_id OPERATOR(pg_catalog.=) $1 AND name OPERATOR(pg_catalog.=) $2 AND kind OPERATOR(pg_catalog.=) 'alias'";

/// `$1`: the tenant, `$2`: a network.
pub(super) const ALLOW: &str = "
    INSERT INTO pgtenant.tenant_addresses (tenant_id, network) VALUES ($1, $2::pg_catalog.cidr) ON CONFLICT DO NOTHING";
/// As [`ALLOW`].
pub(super) const DISALLOW: &str = "
    DELETE FROM pgtenant.tenant_addresses
    WHERE tenant_id OPERATOR(pg_catalog.=) $1 AND network OPERATOR(pg_catalog.=) $2::pg_catalog.cidr";

/// `$1`: the tenant, `$2`: the row as JSON.
pub(super) const PUT_PLACEMENT: &str = "
    INSERT INTO pgtenant.placements AS p
        (tenant_id, module, isolation, server, database, schema, role, pooling, pool_mode, pool_size, status, managed)
    SELECT $1, r.module, r.isolation, r.server, r.database, r.schema, r.role, r.pooling, r.pool_mode, r.pool_size, r.status,
        r.managed
    FROM pg_catalog.json_populate_record(NULL::pgtenant.placements, $2::pg_catalog.json) AS r
    ON CONFLICT (tenant_id, module) DO UPDATE SET
            (isolation, server, database, schema, role, pooling, pool_mode, pool_size, status, managed)
        = (EXCLUDED.isolation, EXCLUDED.server, EXCLUDED.database, EXCLUDED.schema, EXCLUDED.role, EXCLUDED.pooling,
           EXCLUDED.pool_mode, EXCLUDED.pool_size, EXCLUDED.status, EXCLUDED.managed)
    WHERE (p.isolation, p.server, p.database, p.schema, p.role, p.pooling, p.pool_mode, p.pool_size, p.status, p.managed)
        IS DISTINCT FROM (EXCLUDED.isolation, EXCLUDED.server, EXCLUDED.database, EXCLUDED.schema, EXCLUDED.role,
           EXCLUDED.pooling, EXCLUDED.pool_mode, EXCLUDED.pool_size, EXCLUDED.status, EXCLUDED.managed)
    RETURNING (xmax OPERATOR(pg_catalog.=) '0'::pg_catalog.xid)";
/// `$1`: the module, `$2`: the pooling that its places without one of their own have had so far.
pub(super) const KEEP_POOLING: &str = "
    UPDATE pgtenant.placements SET pooling = $2
    WHERE module OPERATOR(pg_catalog.=) $1 AND pooling IS NULL AND isolation OPERATOR(pg_catalog.<>) 'database'";
pub(super) const REMOVE_PLACEMENT: &str =
    "DELETE FROM pgtenant.placements WHERE tenant_id OPERATOR(pg_catalog.=) $1 AND module OPERATOR(pg_catalog.=) $2";
pub(super) const PLACEMENT_STATUS: &str = "
    UPDATE pgtenant.placements SET status = $3
    WHERE tenant_id OPERATOR(pg_catalog.=) $1 AND module OPERATOR(pg_catalog.=) $2 AND status OPERATOR(pg_catalog.<>) $3";

/// `$1`: the tenant, `$2`: the row as JSON.
pub(super) const PUT_LOGIN: &str = "
    INSERT INTO pgtenant.logins AS l (tenant_id, login, role, verifier)
    SELECT $1, r.login, r.role, r.verifier
    FROM pg_catalog.json_populate_record(NULL::pgtenant.logins, $2::pg_catalog.json) AS r
    ON CONFLICT (tenant_id, login) DO UPDATE SET (role, verifier) = (EXCLUDED.role, EXCLUDED.verifier)
    WHERE (l.role, l.verifier) IS DISTINCT FROM (EXCLUDED.role, EXCLUDED.verifier)
    RETURNING (xmax OPERATOR(pg_catalog.=) '0'::pg_catalog.xid)";
pub(super) const REMOVE_LOGIN: &str =
    "DELETE FROM pgtenant.logins WHERE tenant_id OPERATOR(pg_catalog.=) $1 AND login OPERATOR(pg_catalog.=) $2";

/// `$1`: the entry as JSON.
pub(super) const WRITE_LOG: &str = "
    INSERT INTO pgtenant.module_log (tenant_id, tenant_slug, module, server, database, schema, status, step, detail)
    SELECT r.tenant_id, r.tenant_slug, r.module, r.server, r.database, r.schema, r.status, r.step, r.detail
    FROM pg_catalog.json_populate_record(NULL::pgtenant.module_log, $1::pg_catalog.json) AS r";
/// `$1`: the tenant, `$2`: how many of the newest.
pub(super) const READ_LOG: &str = "
    SELECT pg_catalog.json_build_object('tenant_id', l.tenant_id, 'tenant_slug', l.tenant_slug, 'module', l.module,
        'server', l.server, 'database', l.database, 'schema', l.schema, 'status', l.status, 'step', l.step,
        'detail', l.detail, 'logged_at', extract(epoch FROM l.logged_at)::pg_catalog.float8)::pg_catalog.text
    FROM pgtenant.module_log AS l WHERE l.tenant_id OPERATOR(pg_catalog.=) $1 ORDER BY l.id DESC LIMIT $2";

/// `$1`: [`super::rows::PlacementVersion`]s as a JSON array; those whose places are gone are left out. What was applied or failed goes to the
/// log as well.
pub(super) const RECORD_VERSIONS: &str = "
    WITH told AS (
        SELECT p.tenant_id, p.module, p.server, p.database, p.schema, r.version, r.applied, r.error
        FROM pg_catalog.json_to_recordset($1::pg_catalog.json) AS r(tenant_id pg_catalog.uuid, module pg_catalog.text,
            version pg_catalog.int8, applied pg_catalog.int8, error pg_catalog.text)
        JOIN pgtenant.placements AS p ON p.tenant_id OPERATOR(pg_catalog.=) r.tenant_id AND p.module OPERATOR(pg_catalog.=) r.module
    ), logged AS (
        INSERT INTO pgtenant.module_log (tenant_id, tenant_slug, module, server, database, schema, status, detail, step)
        SELECT t.tenant_id, n.slug, t.module, t.server, t.database, t.schema, CASE WHEN t.error IS NULL THEN 'done' ELSE 'failed' END,
            coalesce(t.error, pg_catalog.format('%s files, to version %s', t.applied, t.version)), 'migrations'
        FROM told AS t JOIN pgtenant.tenants AS n ON n.id OPERATOR(pg_catalog.=) t.tenant_id
        WHERE t.applied OPERATOR(pg_catalog.>) 0 OR t.error IS NOT NULL
    )
    INSERT INTO pgtenant.placement_versions AS v (tenant_id, module, version, error, migrated_at)
    SELECT t.tenant_id, t.module, t.version, t.error, CASE WHEN t.version IS NOT NULL THEN pg_catalog.clock_timestamp() END
    FROM told AS t ORDER BY t.tenant_id, t.module
    ON CONFLICT (tenant_id, module) DO UPDATE SET (version, error, migrated_at, checked_at)
        = (coalesce(EXCLUDED.version, v.version), EXCLUDED.error,
           CASE WHEN v.version OPERATOR(pg_catalog.=) coalesce(EXCLUDED.version, v.version) THEN v.migrated_at ELSE EXCLUDED.migrated_at END,
           EXCLUDED.checked_at)";

/// `$1`: the tenants, `$2`: how many seconds ago each was last used, `$3`: how often each was logged in to since it was told last.
pub(super) const RECORD_ACTIVITY: &str = "SELECT pgtenant.record_activity($1, $2, $3)";
/// `$1`: the tenants. The limit makes each one be looked up: for a page of them PostgreSQL would rather read the whole table.
pub(super) const ACTIVITY: &str = "
    SELECT pg_catalog.json_build_object('tenant_id', a.tenant_id, 'last_used', extract(epoch FROM a.last_used_at)::pg_catalog.float8,
        'logins', a.logins)::pg_catalog.text
    FROM pg_catalog.unnest($1::pg_catalog.uuid[]) AS wanted(id)
    CROSS JOIN LATERAL (
        SELECT * FROM pgtenant.activity AS a WHERE a.tenant_id OPERATOR(pg_catalog.=) wanted.id LIMIT 1
    ) AS a";

/// `$1`: an instance, `$2`: its count of requests, `$3`: for how many seconds, `$4`: whether it drains; `$5` to `$8`: servers, and of each how
/// many connections it holds, needs and asks for. All leases of these servers.
pub(super) const LEASE: &str = "
    SELECT l.server, l.most, l.period, l.instance, l.connections, l.need, l.leaving
    FROM pgtenant.lease_connections($1, $2, $3, $4, $5, $6, $7, $8) AS l";
/// `$1`: an instance that is no more.
pub(super) const END_LEASES: &str = "SELECT pgtenant.end_leases($1)";

/// `$1`: an instance, `$2`: where it is. The addresses of the others.
pub(super) const MEET: &str = "SELECT a.address FROM pgtenant.meet_instances($1, $2) AS a(address)";
/// `$1`: an instance.
pub(super) const LEAVE: &str = "SELECT pgtenant.leave_instances($1)";

/// `$1`: the tenant.
pub(super) const DETAILS_BY_ID: &str =
    concat!(tenant_details!(), " FROM pgtenant.tenants AS t WHERE t.id OPERATOR(pg_catalog.=) $1");

/// `$1`: where it comes from, as JSON.
pub(super) const ADD_IMPORT: &str = "INSERT INTO pgtenant.imports (origin) VALUES ($1::pg_catalog.jsonb) RETURNING id";
/// `$1`: the import, `$2`: the kind, `$3`: what was there before, as JSON, `$4`: what is there now.
pub(super) const RECORD_ITEM: &str = "
    INSERT INTO pgtenant.import_items (import_id, kind, before, after)
    VALUES ($1, $2, $3::pg_catalog.jsonb, $4::pg_catalog.jsonb)";
/// `$1`: the import, `$2`: the tenant, `$3`: what it was before, as JSON. What it is now is read here.
pub(super) const RECORD_TENANT: &str = concat!(
    "INSERT INTO pgtenant.import_items (import_id, kind, tenant_id, before, after)
     SELECT $1, 'tenant', $2, $3::pg_catalog.jsonb, d.now::pg_catalog.jsonb FROM (",
    tenant_details!(),
    " AS now FROM pgtenant.tenants AS t WHERE t.id OPERATOR(pg_catalog.=) $2) AS d"
);
/// `$1`: the import; the last one when absent. Keeps others from it until the transaction ends.
pub(super) const LOCK_IMPORT: &str = "
    SELECT pg_catalog.json_build_object('id', i.id, 'origin', i.origin,
        'imported_at', extract(epoch FROM i.imported_at)::pg_catalog.float8,
        'rolled_back_at', extract(epoch FROM i.rolled_back_at)::pg_catalog.float8)::pg_catalog.text
    FROM pgtenant.imports AS i WHERE i.id OPERATOR(pg_catalog.=) coalesce($1, (SELECT max(l.id) FROM pgtenant.imports AS l))
    FOR NO KEY UPDATE";
/// `$1`: the import. What it did, the last first.
pub(super) const IMPORT_ITEMS: &str = "
    SELECT pg_catalog.json_build_object('kind', t.kind, 'before', t.before, 'after', t.after)::pg_catalog.text
    FROM pgtenant.import_items AS t WHERE t.import_id OPERATOR(pg_catalog.=) $1 ORDER BY t.id DESC";
/// `$1`: the import.
pub(super) const END_IMPORT: &str = "
    UPDATE pgtenant.imports SET rolled_back_by = session_user, rolled_back_at = pg_catalog.clock_timestamp()
    WHERE id OPERATOR(pg_catalog.=) $1";

/// `$1`: the key. Held until the connection ends.
pub(super) const ADVISORY_LOCK: &str = "SELECT 1 FROM (SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended('pgtenant:' OPERATOR(pg_catalog.||) $1, 0))) AS l";

/// Migrations take turns; held until the transaction ends.
pub(super) const MIGRATION_LOCK: &str = "SELECT 1 FROM (SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('pgtenant.migrations', 0))) AS l";
pub(super) const MIGRATION_TABLE: &str = "
    CREATE SCHEMA IF NOT EXISTS pgtenant;
    CREATE TABLE IF NOT EXISTS pgtenant.schema_versions (
        version    pg_catalog.int4 PRIMARY KEY,
        name       pg_catalog.text NOT NULL,
        checksum   pg_catalog.text NOT NULL,
        applied_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now()
    );";
pub(super) const MIGRATIONS_THERE: &str = "SELECT pg_catalog.to_regclass('pgtenant.schema_versions') IS NOT NULL";
pub(super) const MIGRATIONS_APPLIED: &str =
    "SELECT v.version, v.name, v.checksum FROM pgtenant.schema_versions AS v ORDER BY v.version";
pub(super) const MIGRATION_RECORD: &str =
    "INSERT INTO pgtenant.schema_versions (version, name, checksum) VALUES ($1, $2, $3)";

/// Wakes the watcher; what has changed is always read from the change table.
pub(super) const LISTEN: &str = "LISTEN pgtenant_registry";
/// `$1`: the snapshot of the last poll, as text; none gives the present one and no changes. One row: the present snapshot,
/// whether everything may have changed, and the tenants that have.
pub(super) const CHANGES: &str = "
    SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text,
        coalesce(pg_catalog.bool_or(c.tenant_id IS NULL), false),
        coalesce(pg_catalog.array_agg(DISTINCT c.tenant_id) FILTER (WHERE c.tenant_id IS NOT NULL), '{}')
    FROM pgtenant.changes AS c
    WHERE c.xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmin($1::pg_catalog.pg_snapshot)
      AND NOT pg_catalog.pg_visible_in_snapshot(c.xid, $1::pg_catalog.pg_snapshot)";
