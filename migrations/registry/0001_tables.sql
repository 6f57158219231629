-- The registry's tables: servers, modules, tenants and their names, places, logins, and the record of changes.
-- Everything is schema-qualified. Identifiers are compared byte by byte (collation "C").

CREATE TABLE pgtenant.servers (
    name            text COLLATE "C" PRIMARY KEY
                    CHECK (octet_length(name) BETWEEN 1 AND 63 AND name !~ '[[:cntrl:]]'),
    host            text NOT NULL CHECK (host <> '' AND host !~ '[[:cntrl:]]'),
    port            integer NOT NULL DEFAULT 5432 CHECK (port BETWEEN 1 AND 65535),
    sslmode         text NOT NULL DEFAULT 'prefer'
                    CHECK (sslmode IN ('disable', 'prefer', 'require', 'verify-ca', 'verify-full')),
    ca_file         text,
    max_connections integer CHECK (max_connections > 0),
    -- References, never secrets: what follows the colon is where the secret is.
    admin_secret    text CHECK (admin_secret ~ '^(env|file|vault):.'),
    app_secret      text CHECK (app_secret ~ '^(env|file|vault):.'),
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE pgtenant.modules (
    -- 56 bytes, so that the column <module>_schema of the view tenant_registry keeps its whole name.
    name              text COLLATE "C" PRIMARY KEY
                      CHECK (octet_length(name) BETWEEN 1 AND 56 AND name !~ '[[:cntrl:]]'),
    ordinal           bigint GENERATED ALWAYS AS IDENTITY,
    isolation         text NOT NULL CHECK (isolation IN ('database', 'schema', 'shared')),
    server            text COLLATE "C" REFERENCES pgtenant.servers (name),
    database          text COLLATE "C"
                      CHECK (octet_length(database) BETWEEN 1 AND 63 AND database NOT IN ('template0', 'template1')
                             AND database !~ '[[:cntrl:]]'),
    pooling           text NOT NULL DEFAULT 'per-tenant' CHECK (pooling IN ('per-tenant', 'shared')),
    pool_mode         text CHECK (pool_mode IN ('session', 'transaction')),
    pool_size         integer CHECK (pool_size > 0),
    -- Patterns know {slug}, {id} and {module}; without one pgtenant.default_pattern() holds.
    schema_pattern    text CHECK (schema_pattern <> ''),
    database_pattern  text CHECK (database_pattern <> ''),
    role_pattern      text CHECK (role_pattern <> ''),
    search_path_extra text[] NOT NULL DEFAULT '{}' CHECK (array_position(search_path_extra, NULL) IS NULL),
    migrations        text,
    aliases           text[] NOT NULL DEFAULT '{}' CHECK (array_position(aliases, NULL) IS NULL),
    tenant_parameter  text CHECK (tenant_parameter ~ '^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+$'),
    set_role          boolean NOT NULL DEFAULT false,
    created_at        timestamptz NOT NULL DEFAULT now(),
    CHECK (isolation <> 'database' OR pooling <> 'shared')
);

-- One sequence for all generations: a tenant deleted and made again under its old id still gets a higher one.
CREATE SEQUENCE pgtenant.generations;

CREATE TABLE pgtenant.tenants (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    slug            text COLLATE "C" NOT NULL CHECK (slug ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name            text NOT NULL,
    contact         text,
    status          text NOT NULL DEFAULT 'provisioning'
                    CHECK (status IN ('provisioning', 'active', 'suspended', 'moving', 'archived')),
    -- When a suspension ends the sessions that run; new ones are refused at once.
    sessions_end_at timestamptz CHECK (isfinite(sessions_end_at)),
    default_module  text COLLATE "C" REFERENCES pgtenant.modules (name),
    generation      bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);

-- Every name of every tenant (id, slug, aliases) under one constraint: no name ever means two tenants.
-- Rows of kind id and slug follow pgtenant.tenants by trigger.
CREATE TABLE pgtenant.tenant_names (
    name      text COLLATE "C" PRIMARY KEY
              CHECK (octet_length(name) BETWEEN 1 AND 255 AND name !~ '[[:cntrl:]]' AND name !~ '^\s|\s$'),
    tenant_id uuid NOT NULL REFERENCES pgtenant.tenants (id) ON DELETE CASCADE,
    kind      text NOT NULL DEFAULT 'alias' CHECK (kind IN ('id', 'slug', 'alias')),
    -- Whatever reads as a UUID would shadow a tenant id.
    CHECK (kind = 'id' OR name !~* '^(urn:uuid:)?[{]?[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}[}]?$')
);
CREATE INDEX tenant_names_tenant_id ON pgtenant.tenant_names (tenant_id, kind);

CREATE VIEW pgtenant.tenant_aliases AS
    SELECT n.tenant_id, n.name AS alias FROM pgtenant.tenant_names AS n WHERE n.kind = 'alias'
    WITH CHECK OPTION;

-- Who holds a database (schema '') or a schema in it; no holder: common to several tenants. Kept by trigger.
CREATE TABLE pgtenant.places (
    server   text COLLATE "C" NOT NULL,
    database text COLLATE "C" NOT NULL,
    schema   text COLLATE "C" NOT NULL,
    holder   uuid,
    PRIMARY KEY (server, database, schema)
);

-- Which tenant a backend role belongs to; a role never serves two tenants. Kept by trigger.
CREATE TABLE pgtenant.roles (
    role      text COLLATE "C" PRIMARY KEY
              CHECK (octet_length(role) BETWEEN 1 AND 63 AND role !~ '[[:cntrl:]]' AND role !~ '^pg_'
                     AND role NOT IN ('postgres', 'public', 'none')),
    tenant_id uuid NOT NULL
);
CREATE INDEX roles_tenant_id ON pgtenant.roles (tenant_id);

CREATE TABLE pgtenant.placements (
    tenant_id  uuid NOT NULL REFERENCES pgtenant.tenants (id) ON DELETE CASCADE,
    module     text COLLATE "C" NOT NULL REFERENCES pgtenant.modules (name),
    isolation  text NOT NULL CHECK (isolation IN ('database', 'schema', 'shared')),
    server     text COLLATE "C" NOT NULL REFERENCES pgtenant.servers (name),
    database   text COLLATE "C" NOT NULL
               CHECK (octet_length(database) BETWEEN 1 AND 63 AND database NOT IN ('template0', 'template1')
                      AND database !~ '[[:cntrl:]]'),
    schema     text COLLATE "C"
               CHECK (octet_length(schema) BETWEEN 1 AND 63 AND schema !~ '^pg_' AND schema !~ '[[:cntrl:]]'
                      AND schema NOT IN ('information_schema', 'pgtenant')),
    role       text COLLATE "C",
    -- Where these are absent the module's settings hold.
    pooling    text CHECK (pooling IN ('per-tenant', 'shared')),
    pool_mode  text CHECK (pool_mode IN ('session', 'transaction')),
    pool_size  integer CHECK (pool_size > 0),
    status     text NOT NULL DEFAULT 'provisioning' CHECK (status IN ('provisioning', 'ready')),
    -- False for adopted places: pgtenant neither made the objects nor drops them.
    managed    boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    ready_at   timestamptz,
    PRIMARY KEY (tenant_id, module),
    CHECK (isolation <> 'schema' OR schema IS NOT NULL),
    CHECK (isolation <> 'schema' OR schema <> 'public' OR NOT managed),
    CHECK (isolation <> 'database' OR pooling IS DISTINCT FROM 'shared')
);
CREATE INDEX placements_place ON pgtenant.placements (server, database, schema);
CREATE INDEX placements_role ON pgtenant.placements (role);
CREATE INDEX placements_module ON pgtenant.placements (module);
CREATE INDEX placements_unready ON pgtenant.placements (tenant_id) WHERE status <> 'ready';

CREATE TABLE pgtenant.logins (
    tenant_id  uuid NOT NULL REFERENCES pgtenant.tenants (id) ON DELETE CASCADE,
    login      text COLLATE "C" NOT NULL CHECK (octet_length(login) BETWEEN 1 AND 255 AND login !~ '[[:cntrl:]]'),
    -- The backend role that the login opens.
    role       text COLLATE "C" NOT NULL,
    verifier   text CHECK (verifier ~ '^SCRAM-SHA-256\$[0-9]+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+$'),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, login)
);
CREATE INDEX logins_role ON pgtenant.logins (role);

-- What happened to each tenant's modules. No foreign keys: the record outlives what it tells of.
CREATE TABLE pgtenant.module_log (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    tenant_slug text,
    module      text NOT NULL,
    server      text,
    database    text,
    schema      text,
    status      text NOT NULL,
    detail      text,
    logged_by   text NOT NULL DEFAULT session_user,
    logged_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX module_log_tenant_id ON pgtenant.module_log (tenant_id, module);

-- What proxies have to forget. A reader passes the snapshot of its last poll and gets the rows whose transactions
-- were not visible in it: commits that come later than higher ids are never missed, and no writer waits for another.
CREATE TABLE pgtenant.changes (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- None: everything.
    tenant_id uuid,
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX changes_xid ON pgtenant.changes (xid);

REVOKE ALL ON SCHEMA pgtenant FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA pgtenant FROM PUBLIC;
