-- The end of a place, the steps of its making, a tenant's last use, and databases made from a template.

-- A tenant's own database is made as a copy of this one.
ALTER TABLE pgtenant.modules ADD COLUMN template text COLLATE "C"
    CHECK (octet_length(template) BETWEEN 1 AND 63 AND template !~ '[[:cntrl:]]');

-- `dropping`: asked to be gone, with its data. Whoever finds it so finishes that, and never makes the place anew.
ALTER TABLE pgtenant.placements DROP CONSTRAINT placements_status_check,
    ADD CONSTRAINT placements_status_check CHECK (status IN ('provisioning', 'ready', 'dropping'));

-- Pages of tenants are read in the order of their slugs.
CREATE UNIQUE INDEX tenants_slug ON pgtenant.tenants (slug);

-- The step of provisioning that a line is about; without one it is about the place as a whole.
ALTER TABLE pgtenant.module_log ADD COLUMN step text;

CREATE OR REPLACE VIEW public.tenant_module_log AS
    SELECT l.tenant_id, l.module AS module_name, l.schema AS schema_name, l.status,
           CASE WHEN l.status = 'provisioned' THEN l.logged_at END AS provisioned_at,
           l.tenant_slug, l.server AS server_name, l.database AS database_name, l.detail, l.logged_by, l.logged_at, l.id AS log_id, l.step
    FROM pgtenant.module_log AS l;

CREATE OR REPLACE FUNCTION pgtenant.placement_after() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (NEW.server, NEW.database, NEW.schema)
                                                 IS DISTINCT FROM (OLD.server, OLD.database, OLD.schema)) THEN
        PERFORM pgtenant.release_place(OLD.server, OLD.database, OLD.schema) WHERE OLD.schema IS NOT NULL;
        PERFORM pgtenant.release_place(OLD.server, OLD.database, '');
    END IF;
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND NEW.role IS DISTINCT FROM OLD.role) THEN
        PERFORM pgtenant.release_role(OLD.role) WHERE OLD.role IS NOT NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN
        INSERT INTO pgtenant.module_log (tenant_id, tenant_slug, module, server, database, schema, status, detail)
            VALUES (OLD.tenant_id, pgtenant.tenant_slug(OLD.tenant_id), OLD.module, OLD.server, OLD.database, OLD.schema, 'unsubscribed',
                    CASE WHEN OLD.status = 'dropping' THEN 'with its data' END);
    ELSIF TG_OP = 'INSERT' OR (NEW.status, NEW.server, NEW.database, NEW.schema)
                             IS DISTINCT FROM (OLD.status, OLD.server, OLD.database, OLD.schema) THEN
        INSERT INTO pgtenant.module_log (tenant_id, tenant_slug, module, server, database, schema, status)
            VALUES (NEW.tenant_id, pgtenant.tenant_slug(NEW.tenant_id), NEW.module, NEW.server, NEW.database, NEW.schema,
                    CASE NEW.status WHEN 'ready' THEN 'provisioned' ELSE NEW.status END);
    END IF;
    RETURN NULL;
END $$;

-- Use ------------------------------------------------------------------------------------------------------------------

-- When a tenant was last used, to about a minute, and how often it was logged in to. Written by the proxies, one statement a minute
-- each; without triggers, since it is no change of the tenant.
CREATE TABLE pgtenant.activity (
    tenant_id    uuid PRIMARY KEY REFERENCES pgtenant.tenants (id) ON DELETE CASCADE,
    last_used_at timestamptz NOT NULL,
    logins       bigint NOT NULL
) WITH (fillfactor = 50);
REVOKE ALL ON pgtenant.activity FROM PUBLIC;

-- For proxies, whose role may otherwise only read. Ages rather than times, since clocks differ. In the order of the ids, so that no
-- two proxies wait for each other.
CREATE FUNCTION pgtenant.record_activity(tenants uuid[], seconds_ago double precision[], logins bigint[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO pgtenant.activity AS a (tenant_id, last_used_at, logins)
        SELECT u.id, now() - make_interval(secs => u.ago), u.logins
        FROM unnest(tenants, seconds_ago, logins) AS u(id, ago, logins) JOIN pgtenant.tenants AS t ON t.id = u.id
        ORDER BY u.id
        ON CONFLICT (tenant_id) DO UPDATE
            SET last_used_at = greatest(a.last_used_at, EXCLUDED.last_used_at), logins = a.logins + EXCLUDED.logins
$$;
REVOKE ALL ON FUNCTION pgtenant.record_activity(uuid[], double precision[], bigint[]) FROM PUBLIC;

CREATE VIEW public.tenant_activity AS
    SELECT t.id AS tenant_id, t.slug AS tenant_slug, a.last_used_at, coalesce(a.logins, 0) AS logins
    FROM pgtenant.tenants AS t LEFT JOIN pgtenant.activity AS a ON a.tenant_id = t.id;

-- Where each tenant's modules are: one row a place.
CREATE VIEW public.tenant_placements AS
    SELECT p.tenant_id, t.slug AS tenant_slug, p.module AS module_name, p.isolation, p.server AS server_name, s.host, s.port,
           p.database AS database_name, p.schema AS schema_name, p.role AS role_name, p.status
    FROM pgtenant.placements AS p
    JOIN pgtenant.tenants AS t ON t.id = p.tenant_id
    JOIN pgtenant.servers AS s ON s.name = p.server;

REVOKE ALL ON public.tenant_activity, public.tenant_placements FROM PUBLIC;

-- Subscribing, as before but for places that are on their way out ------------------------------------------------------

CREATE OR REPLACE PROCEDURE public.subscribe_tenant_to_module(tenant_id uuid, module_name text, schema_name text DEFAULT NULL)
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
        IF had.status = 'dropping' THEN
            RAISE EXCEPTION 'module "%" of tenant "%" is being dropped', m.name, t.slug
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'pgtenant tenant reconcile finishes that';
        END IF;
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

CREATE OR REPLACE PROCEDURE public.unsubscribe_tenant_from_module(tenant_id uuid, module_name text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant_slug text;
BEGIN
    SELECT x.slug INTO tenant_slug FROM pgtenant.tenants AS x WHERE x.id = unsubscribe_tenant_from_module.tenant_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'tenant % not found', coalesce(unsubscribe_tenant_from_module.tenant_id::text, 'NULL') USING ERRCODE = 'no_data_found';
    END IF;
    IF EXISTS (SELECT FROM pgtenant.placements AS p
               WHERE p.tenant_id = unsubscribe_tenant_from_module.tenant_id AND p.module = module_name AND p.status = 'dropping') THEN
        RAISE EXCEPTION 'module "%" of tenant "%" is being dropped', module_name, tenant_slug
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'pgtenant tenant reconcile finishes that';
    END IF;
    DELETE FROM pgtenant.placements AS p
        WHERE p.tenant_id = unsubscribe_tenant_from_module.tenant_id AND p.module = module_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'tenant "%" is not subscribed to module "%"', tenant_slug, coalesce(module_name, 'NULL') USING ERRCODE = 'undefined_object';
    END IF;
    UPDATE pgtenant.tenants AS x SET default_module = NULL
        WHERE x.id = unsubscribe_tenant_from_module.tenant_id AND x.default_module = module_name;
END $$;
