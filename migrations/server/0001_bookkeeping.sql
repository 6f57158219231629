-- pgtenant's own schema in every database that holds tenants: who is who, what was applied, and the wall between rows.
-- Run by the server's admin in one transaction, once a database. Application roles may call current_tenant() and see nothing else.

CREATE SCHEMA pgtenant;
REVOKE ALL ON SCHEMA pgtenant FROM PUBLIC;
GRANT USAGE ON SCHEMA pgtenant TO PUBLIC;

-- Which tenant a login role speaks for. A service role speaks for whichever tenant its session names in pgtenant.tenant_id.
CREATE TABLE pgtenant.roles (
    role name PRIMARY KEY,
    tenant_id uuid,
    service boolean NOT NULL DEFAULT false,
    CHECK (service = (tenant_id IS NULL))
);

-- Which migration files have been applied to which schema.
CREATE TABLE pgtenant.schema_versions (
    module text NOT NULL,
    schema_name name NOT NULL,
    version bigint NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    duration_ms bigint NOT NULL,
    PRIMARY KEY (module, schema_name, version)
);

REVOKE ALL ON ALL TABLES IN SCHEMA pgtenant FROM PUBLIC;

-- The tenant of this session. Keyed on session_user, which no SQL of a tenant can change; the parameter counts for service roles only.
CREATE FUNCTION pgtenant.current_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN r.service THEN nullif(current_setting('pgtenant.tenant_id', true), '')::uuid ELSE r.tenant_id END
    FROM pgtenant.roles r
    WHERE r.role = session_user
$$;

-- Puts the wall on every table of a schema that has the tenant column; says how many tables it changed.
-- The tenant policy is restrictive: whatever further policies a table has can only narrow it. A permissive one is added where there is none,
-- since restrictive policies alone let nothing through.
CREATE FUNCTION pgtenant.protect(in_schema name, tenant_column name) RETURNS integer
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
    tenant text;
    changed integer := 0;
BEGIN
    FOR t IN
        SELECT c.oid, format('%I.%I', in_schema, c.relname) AS name, a.atttypid::regtype::text AS type,
               c.relrowsecurity AND c.relforcerowsecurity AS forced,
               coalesce(pg_get_expr(d.adbin, d.adrelid) LIKE '%pgtenant.current_tenant()%', false) OR a.attgenerated <> '' AS defaulted,
               EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'pgtenant_tenant') AS walled,
               EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive) AS permitted
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = tenant_column AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE n.nspname = in_schema AND c.relkind IN ('r', 'p')
        ORDER BY c.relname
    LOOP
        CONTINUE WHEN t.forced AND t.defaulted AND t.walled AND t.permitted;
        IF t.type NOT IN ('uuid', 'text', 'character varying') THEN
            RAISE EXCEPTION 'column % of table % has type %', tenant_column, t.name, t.type
                USING ERRCODE = 'datatype_mismatch', HINT = 'A tenant column is of type uuid, text or character varying.';
        END IF;
        tenant := CASE t.type WHEN 'uuid' THEN 'pgtenant.current_tenant()' ELSE 'pgtenant.current_tenant()::text' END;
        IF NOT t.walled THEN
            EXECUTE format('CREATE POLICY pgtenant_tenant ON %s AS RESTRICTIVE USING (%I = (SELECT %s)) WITH CHECK (%2$I = (SELECT %3$s))',
                           t.name, tenant_column, tenant);
        END IF;
        IF NOT t.permitted THEN
            EXECUTE format('CREATE POLICY pgtenant_rows ON %s AS PERMISSIVE USING (true) WITH CHECK (true)', t.name);
        END IF;
        IF NOT t.forced THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t.name);
        END IF;
        IF NOT t.defaulted THEN
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', t.name, tenant_column, tenant);
        END IF;
        changed := changed + 1;
    END LOOP;
    RETURN changed;
END
$$;

-- Lifts the wall from the owner's own eyes for the rest of a transaction, for a migration that rewrites rows of all tenants. protect() puts it back.
CREATE FUNCTION pgtenant.expose_to_owner(in_schema name) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT format('%I.%I', in_schema, c.relname) AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = in_schema AND c.relkind IN ('r', 'p') AND c.relforcerowsecurity
    LOOP
        EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', t.name);
    END LOOP;
END
$$;

-- Gives a role the rights on data of a schema of common tables: rows of walled tables, reading of tables without a tenant, reading of views whose
-- owner is behind the wall too. TRUNCATE and setval() know no rows and stay with the owner; materialized views and foreign tables have no wall.
CREATE FUNCTION pgtenant.grant_rows(in_schema name, grantee name) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', in_schema, grantee);
    FOR t IN
        SELECT c.oid, format('%I.%I', in_schema, c.relname) AS name, c.relkind AS kind,
               c.relrowsecurity AND c.relforcerowsecurity
                   AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'pgtenant_tenant') AS walled,
               o.rolsuper OR o.rolbypassrls AS beyond
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_roles o ON o.oid = c.relowner
        WHERE n.nspname = in_schema AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    LOOP
        IF t.kind = 'S' THEN
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO %I', t.name, grantee);
        ELSIF t.kind IN ('r', 'p') AND t.walled THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', t.name, grantee);
        ELSE
            IF has_table_privilege(grantee, t.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') THEN
                EXECUTE format('REVOKE ALL ON %s FROM %I', t.name, grantee);
            END IF;
            IF t.kind IN ('r', 'p') OR t.kind = 'v' AND NOT t.beyond THEN
                EXECUTE format('GRANT SELECT ON %s TO %I', t.name, grantee);
            END IF;
        END IF;
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION pgtenant.protect(name, name), pgtenant.expose_to_owner(name), pgtenant.grant_rows(name, name) FROM PUBLIC;

COMMENT ON SCHEMA pgtenant IS 'pgtenant:bookkeeping:1';
