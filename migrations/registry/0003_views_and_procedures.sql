-- What plain-SQL users see and call, in schema public. Nobody but the owner has rights on it until some are granted:
-- GRANT SELECT ON tenant_registry, tenant_module_log and GRANT EXECUTE ON PROCEDURE … are all that is needed.

-- Where a module puts a tenant that does not say: 'schema', 'database' or 'role'.
CREATE FUNCTION pgtenant.default_pattern(what text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT CASE what WHEN 'role' THEN '{slug}_app' ELSE '{module}_{slug}' END $$;

CREATE FUNCTION pgtenant.expand_pattern(pattern text, slug text, id uuid, module text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT replace(replace(replace(pattern, '{slug}', slug), '{id}', id::text), '{module}', module) $$;

-- The view tenant_registry: one row a tenant, one column <module>_schema a module --------------------------------------

CREATE FUNCTION pgtenant.tenant_registry_sql() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'SELECT t.id AS tenant_id, t.slug AS tenant_slug, t.name AS tenant_name, '
        || 'ARRAY(SELECT p.module FROM pgtenant.placements AS p WHERE p.tenant_id = t.id ORDER BY p.module)::text[] AS modules_subscribed, '
        || '(t.status IN (''active'', ''moving'')) AS is_active, t.status, t.contact, t.default_module, '
        || 'ARRAY(SELECT n.name FROM pgtenant.tenant_names AS n WHERE n.tenant_id = t.id AND n.kind = ''alias'' ORDER BY n.name)::text[] AS aliases, '
        || 't.created_at, t.updated_at'
        || coalesce(string_agg(
               format(', (SELECT p.schema FROM pgtenant.placements AS p WHERE p.tenant_id = t.id AND p.module = %L) AS %I',
                      m.name, m.name || '_schema'), '' ORDER BY m.ordinal), '')
        || ' FROM pgtenant.tenants AS t'
    FROM pgtenant.modules AS m
$$;

-- A new module only adds a column, which keeps the view and all that depends on it. A removed one needs a new view:
-- the grants are carried over, and views of others that depend on it make the removal fail.
CREATE FUNCTION pgtenant.rebuild_tenant_registry() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fixed constant integer := 11;
    old_columns name[];
    new_columns name[];
    grants text[];
    statement text;
BEGIN
    SELECT array_agg(a.attname ORDER BY a.attnum) INTO old_columns FROM pg_attribute AS a
        WHERE a.attrelid = to_regclass('public.tenant_registry') AND a.attnum > fixed AND NOT a.attisdropped;
    SELECT array_agg((m.name || '_schema')::name ORDER BY m.ordinal) INTO new_columns FROM pgtenant.modules AS m;
    IF to_regclass('public.tenant_registry') IS NULL THEN
        EXECUTE 'CREATE VIEW public.tenant_registry AS ' || pgtenant.tenant_registry_sql();
        REVOKE ALL ON public.tenant_registry FROM PUBLIC;
    ELSIF old_columns IS NULL OR old_columns = new_columns[1:cardinality(old_columns)] THEN
        EXECUTE 'CREATE OR REPLACE VIEW public.tenant_registry AS ' || pgtenant.tenant_registry_sql();
    ELSE
        SELECT array_agg(format('GRANT %s ON public.tenant_registry TO %s%s', g.privilege_type,
                                CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
                                CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)) INTO grants
            FROM pg_class AS c, aclexplode(c.relacl) AS g
            WHERE c.oid = to_regclass('public.tenant_registry') AND g.grantee <> c.relowner;
        DROP VIEW public.tenant_registry;
        EXECUTE 'CREATE VIEW public.tenant_registry AS ' || pgtenant.tenant_registry_sql();
        REVOKE ALL ON public.tenant_registry FROM PUBLIC;
        FOREACH statement IN ARRAY coalesce(grants, '{}') LOOP
            EXECUTE statement;
        END LOOP;
    END IF;
END $$;

-- One writer of modules at a time: two of them would each leave the other's column out.
CREATE FUNCTION pgtenant.modules_before() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('pgtenant.modules', 0));
    RETURN NULL;
END $$;

CREATE FUNCTION pgtenant.modules_after() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    clash record;
BEGIN
    SELECT a.name AS one, b.name AS other, x.alias INTO clash
        FROM pgtenant.modules AS a CROSS JOIN LATERAL unnest(a.aliases) AS x(alias)
        JOIN pgtenant.modules AS b ON a.name <> b.name AND (b.name = x.alias OR x.alias = ANY (b.aliases)) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'alias "%" of module "%" already means module "%"', clash.alias, clash.one, clash.other
            USING ERRCODE = 'unique_violation';
    END IF;
    PERFORM pgtenant.rebuild_tenant_registry();
    RETURN NULL;
END $$;

CREATE TRIGGER modules_before BEFORE INSERT OR UPDATE OR DELETE ON pgtenant.modules
    FOR EACH STATEMENT EXECUTE FUNCTION pgtenant.modules_before();
CREATE TRIGGER modules_after AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgtenant.modules
    FOR EACH STATEMENT EXECUTE FUNCTION pgtenant.modules_after();

SELECT pgtenant.rebuild_tenant_registry();

CREATE VIEW public.tenant_module_log AS
    SELECT l.tenant_id, l.module AS module_name, l.schema AS schema_name, l.status,
           CASE WHEN l.status = 'provisioned' THEN l.logged_at END AS provisioned_at,
           l.tenant_slug, l.server AS server_name, l.database AS database_name, l.detail, l.logged_by, l.logged_at, l.id AS log_id
    FROM pgtenant.module_log AS l;

-- Subscribing ----------------------------------------------------------------------------------------------------------

-- Asks for a place; `pgtenant tenant reconcile` (or a running control plane) then makes it. schema_name is the schema of
-- a schema tenant, the common schema of a shared one, the database of one with a database of its own; NULL takes the
-- module's pattern. Asking again for the same place changes nothing.
CREATE PROCEDURE public.subscribe_tenant_to_module(tenant_id uuid, module_name text, schema_name text DEFAULT NULL)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t pgtenant.tenants;
    m pgtenant.modules;
    had pgtenant.placements;
    new_database text;
    new_schema text;
    new_role text;
BEGIN
    -- The lock keeps the tenant from being suspended or deleted meanwhile, and two subscriptions of one tenant apart.
    SELECT * INTO t FROM pgtenant.tenants AS x WHERE x.id = subscribe_tenant_to_module.tenant_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'tenant % not found', coalesce(subscribe_tenant_to_module.tenant_id::text, 'NULL') USING ERRCODE = 'no_data_found';
    END IF;
    SELECT * INTO m FROM pgtenant.modules AS x WHERE x.name = module_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'module "%" not found', coalesce(module_name, 'NULL')
            USING ERRCODE = 'undefined_object', HINT = 'pgtenant module add makes a module';
    END IF;
    IF t.status NOT IN ('active', 'provisioning') THEN
        RAISE EXCEPTION 'tenant "%" is inactive (%)', t.slug, t.status USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF m.server IS NULL OR (m.isolation <> 'database' AND m.database IS NULL) THEN
        RAISE EXCEPTION 'module "%" names no server and database', m.name
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'pgtenant tenant subscribe --server S --database D says where';
    END IF;

    new_database := CASE m.isolation WHEN 'database'
        THEN coalesce(schema_name, pgtenant.expand_pattern(coalesce(m.database_pattern, pgtenant.default_pattern('database')), t.slug, t.id, m.name))
        ELSE m.database END;
    new_schema := CASE m.isolation
        WHEN 'schema' THEN coalesce(schema_name, pgtenant.expand_pattern(coalesce(m.schema_pattern, pgtenant.default_pattern('schema')), t.slug, t.id, m.name))
        WHEN 'shared' THEN coalesce(schema_name, m.schema_pattern) END;
    IF octet_length(new_database) > 63 OR octet_length(new_schema) > 63 THEN
        RAISE EXCEPTION 'name "%" is longer than 63 bytes', CASE WHEN octet_length(new_schema) > 63 THEN new_schema ELSE new_database END
            USING ERRCODE = 'name_too_long';
    END IF;

    SELECT * INTO had FROM pgtenant.placements AS p WHERE p.tenant_id = t.id AND p.module = m.name;
    IF FOUND THEN
        IF schema_name IS NULL OR schema_name = (CASE had.isolation WHEN 'database' THEN had.database ELSE had.schema END) THEN
            RETURN;
        END IF;
        RAISE EXCEPTION 'tenant "%" is subscribed to module "%" already, at %', t.slug, m.name,
            CASE had.isolation WHEN 'database' THEN format('database "%s"', had.database) ELSE format('schema "%s"', had.schema) END
            USING ERRCODE = 'unique_violation';
    END IF;

    -- A tenant's own role is the same everywhere; shared pools need one only where they switch to it.
    IF m.pooling = 'per-tenant' OR m.set_role THEN
        new_role := coalesce(
            (SELECT p.role FROM pgtenant.placements AS p WHERE p.tenant_id = t.id AND p.role IS NOT NULL AND p.managed ORDER BY p.created_at, p.module LIMIT 1),
            (SELECT l.role FROM pgtenant.logins AS l WHERE l.tenant_id = t.id AND l.login = 'app'),
            pgtenant.expand_pattern(coalesce(m.role_pattern, pgtenant.default_pattern('role')), t.slug, t.id, m.name));
    END IF;

    INSERT INTO pgtenant.placements (tenant_id, module, isolation, server, database, schema, role)
        VALUES (t.id, m.name, m.isolation, m.server, new_database, new_schema, new_role);
END $$;

-- Takes a module from a tenant. Its data stays where it is; `pgtenant tenant unsubscribe --drop-data` removes that too.
CREATE PROCEDURE public.unsubscribe_tenant_from_module(tenant_id uuid, module_name text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant_slug text;
BEGIN
    SELECT x.slug INTO tenant_slug FROM pgtenant.tenants AS x WHERE x.id = unsubscribe_tenant_from_module.tenant_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'tenant % not found', coalesce(unsubscribe_tenant_from_module.tenant_id::text, 'NULL') USING ERRCODE = 'no_data_found';
    END IF;
    DELETE FROM pgtenant.placements AS p
        WHERE p.tenant_id = unsubscribe_tenant_from_module.tenant_id AND p.module = module_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'tenant "%" is not subscribed to module "%"', tenant_slug, coalesce(module_name, 'NULL') USING ERRCODE = 'undefined_object';
    END IF;
    UPDATE pgtenant.tenants AS x SET default_module = NULL
        WHERE x.id = unsubscribe_tenant_from_module.tenant_id AND x.default_module = module_name;
END $$;

REVOKE ALL ON public.tenant_registry, public.tenant_module_log FROM PUBLIC;
REVOKE ALL ON PROCEDURE public.subscribe_tenant_to_module(uuid, text, text) FROM PUBLIC;
REVOKE ALL ON PROCEDURE public.unsubscribe_tenant_from_module(uuid, text) FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgtenant FROM PUBLIC;
