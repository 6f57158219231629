-- What keeps the tables true however they are written: names, places, roles, generations, the log and word of changes.
-- Trigger functions run as the owner with a fixed search_path, so that a writer needs rights on the table it writes only.

-- Tenants --------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgtenant.tenant_before() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'the id of tenant "%" cannot be changed', OLD.slug USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF NEW.status <> 'suspended' THEN
        NEW.sessions_end_at := NULL;
    ELSIF NEW.sessions_end_at IS NULL THEN
        NEW.sessions_end_at := clock_timestamp();
    END IF;
    NEW.generation := nextval('pgtenant.generations');
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END $$;

CREATE FUNCTION pgtenant.tenant_after() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO pgtenant.tenant_names (name, tenant_id, kind) VALUES (NEW.id::text, NEW.id, 'id'), (NEW.slug, NEW.id, 'slug');
    ELSIF TG_OP = 'UPDATE' AND NEW.slug <> OLD.slug THEN
        UPDATE pgtenant.tenant_names SET name = NEW.slug WHERE tenant_id = NEW.id AND kind = 'slug';
    END IF;
    PERFORM pgtenant.record_change(coalesce(NEW.id, OLD.id));
    RETURN NULL;
END $$;

-- Records a change and wakes the proxies. Old rows are swept a few at a time, past any that another sweeper holds.
CREATE FUNCTION pgtenant.record_change(changed uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pgtenant.changes (tenant_id) VALUES (changed);
    PERFORM pg_notify('pgtenant_registry', coalesce(changed::text, '*'));
    DELETE FROM pgtenant.changes AS c
        WHERE c.id IN (SELECT o.id FROM (SELECT id, at FROM pgtenant.changes ORDER BY id LIMIT 8 FOR UPDATE SKIP LOCKED) AS o
                       WHERE o.at < now() - interval '1 day');
END $$;

CREATE TRIGGER tenant_before BEFORE INSERT OR UPDATE ON pgtenant.tenants
    FOR EACH ROW EXECUTE FUNCTION pgtenant.tenant_before();
CREATE TRIGGER tenant_after AFTER INSERT OR UPDATE OR DELETE ON pgtenant.tenants
    FOR EACH ROW EXECUTE FUNCTION pgtenant.tenant_after();

-- Any row of a tenant: the tenant's generation rises, which also makes writers of one tenant wait for each other.
CREATE FUNCTION pgtenant.raise_generation() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE pgtenant.tenants SET generation = generation WHERE id = OLD.tenant_id;
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.tenant_id <> OLD.tenant_id) THEN
        UPDATE pgtenant.tenants SET generation = generation WHERE id = NEW.tenant_id;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION pgtenant.name_before() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The names that belong to the tenant's own row change with that row only.
    IF pg_trigger_depth() = 1 AND ((TG_OP <> 'INSERT' AND OLD.kind <> 'alias') OR (TG_OP <> 'DELETE' AND NEW.kind <> 'alias')) THEN
        RAISE EXCEPTION 'only aliases are written here; ids and slugs follow pgtenant.tenants' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE TRIGGER name_before BEFORE INSERT OR UPDATE OR DELETE ON pgtenant.tenant_names
    FOR EACH ROW EXECUTE FUNCTION pgtenant.name_before();
CREATE TRIGGER name_changed_insert AFTER INSERT ON pgtenant.tenant_names
    FOR EACH ROW WHEN (NEW.kind = 'alias') EXECUTE FUNCTION pgtenant.raise_generation();
CREATE TRIGGER name_changed AFTER UPDATE OR DELETE ON pgtenant.tenant_names
    FOR EACH ROW WHEN (OLD.kind = 'alias') EXECUTE FUNCTION pgtenant.raise_generation();

-- Places and roles -----------------------------------------------------------------------------------------------------

CREATE FUNCTION pgtenant.tenant_slug(tenant uuid) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT t.slug FROM pgtenant.tenants AS t WHERE t.id = tenant $$;

-- Takes a database ('' as schema) or schema for a tenant, or as common ground (no holder), or says who has it.
-- The key-share lock keeps a row in place until this transaction ends: release_place takes it for update first.
CREATE FUNCTION pgtenant.claim_place(on_server text, in_database text, in_schema text, claimant uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held_by uuid;
    what text := CASE WHEN in_schema = '' THEN format('database "%s" on server "%s"', in_database, on_server)
                      ELSE format('schema "%s" in database "%s" on server "%s"', in_schema, in_database, on_server) END;
BEGIN
    FOR attempt IN 1..5 LOOP
        INSERT INTO pgtenant.places (server, database, schema, holder) VALUES (on_server, in_database, in_schema, claimant)
            ON CONFLICT DO NOTHING;
        SELECT p.holder INTO held_by FROM pgtenant.places AS p
            WHERE p.server = on_server AND p.database = in_database AND p.schema = in_schema FOR KEY SHARE;
        IF FOUND THEN
            IF held_by IS NOT DISTINCT FROM claimant THEN
                RETURN;
            ELSIF held_by IS NULL THEN
                RAISE EXCEPTION '% is common to several tenants', what USING ERRCODE = 'unique_violation';
            ELSE
                RAISE EXCEPTION '% belongs to tenant "%"', what, coalesce(pgtenant.tenant_slug(held_by), held_by::text) USING ERRCODE = 'unique_violation';
            END IF;
        END IF;
    END LOOP;
    RAISE EXCEPTION '% changes hands right now', what USING ERRCODE = 'serialization_failure';
END $$;

CREATE FUNCTION pgtenant.release_place(on_server text, in_database text, in_schema text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Waits for whoever is claiming it; only then does the next statement look for other users.
    PERFORM 1 FROM pgtenant.places AS p
        WHERE p.server = on_server AND p.database = in_database AND p.schema = in_schema FOR UPDATE;
    DELETE FROM pgtenant.places AS p
        WHERE p.server = on_server AND p.database = in_database AND p.schema = in_schema
          AND NOT EXISTS (SELECT 1 FROM pgtenant.placements AS l
                          WHERE l.server = on_server AND l.database = in_database
                            AND (in_schema = '' OR l.schema = in_schema));
END $$;

CREATE FUNCTION pgtenant.claim_role(wanted text, claimant uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held_by uuid;
BEGIN
    FOR attempt IN 1..5 LOOP
        INSERT INTO pgtenant.roles (role, tenant_id) VALUES (wanted, claimant) ON CONFLICT DO NOTHING;
        SELECT r.tenant_id INTO held_by FROM pgtenant.roles AS r WHERE r.role = wanted FOR KEY SHARE;
        IF FOUND THEN
            IF held_by = claimant THEN
                RETURN;
            END IF;
            RAISE EXCEPTION 'role "%" belongs to tenant "%"', wanted, coalesce(pgtenant.tenant_slug(held_by), held_by::text) USING ERRCODE = 'unique_violation';
        END IF;
    END LOOP;
    RAISE EXCEPTION 'role "%" changes hands right now', wanted USING ERRCODE = 'serialization_failure';
END $$;

CREATE FUNCTION pgtenant.release_role(unwanted text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM pgtenant.roles AS r WHERE r.role = unwanted FOR UPDATE;
    DELETE FROM pgtenant.roles AS r
        WHERE r.role = unwanted
          AND NOT EXISTS (SELECT 1 FROM pgtenant.placements AS p WHERE p.role = unwanted)
          AND NOT EXISTS (SELECT 1 FROM pgtenant.logins AS l WHERE l.role = unwanted);
END $$;

CREATE FUNCTION pgtenant.placement_before() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgtenant.claim_place(NEW.server, NEW.database, '', CASE NEW.isolation WHEN 'database' THEN NEW.tenant_id END);
    IF NEW.schema IS NOT NULL THEN
        PERFORM pgtenant.claim_place(NEW.server, NEW.database, NEW.schema,
                                     CASE WHEN NEW.isolation <> 'shared' THEN NEW.tenant_id END);
    END IF;
    IF NEW.role IS NOT NULL THEN
        PERFORM pgtenant.claim_role(NEW.role, NEW.tenant_id);
    END IF;
    IF NEW.status = 'ready' THEN
        NEW.ready_at := coalesce(NEW.ready_at, clock_timestamp());
    ELSE
        NEW.ready_at := NULL;
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION pgtenant.placement_after() RETURNS trigger
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
        INSERT INTO pgtenant.module_log (tenant_id, tenant_slug, module, server, database, schema, status)
            VALUES (OLD.tenant_id, pgtenant.tenant_slug(OLD.tenant_id), OLD.module, OLD.server, OLD.database, OLD.schema, 'unsubscribed');
    ELSIF TG_OP = 'INSERT' OR (NEW.status, NEW.server, NEW.database, NEW.schema)
                             IS DISTINCT FROM (OLD.status, OLD.server, OLD.database, OLD.schema) THEN
        INSERT INTO pgtenant.module_log (tenant_id, tenant_slug, module, server, database, schema, status)
            VALUES (NEW.tenant_id, pgtenant.tenant_slug(NEW.tenant_id), NEW.module, NEW.server, NEW.database, NEW.schema,
                    CASE WHEN NEW.status = 'ready' THEN 'provisioned' ELSE 'provisioning' END);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION pgtenant.login_before() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgtenant.claim_role(NEW.role, NEW.tenant_id);
    RETURN NEW;
END $$;

CREATE FUNCTION pgtenant.login_after() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgtenant.release_role(OLD.role);
    RETURN NULL;
END $$;

-- Names sort the triggers of one event: claim, then release, then raise the generation.
CREATE TRIGGER placement_before BEFORE INSERT OR UPDATE ON pgtenant.placements
    FOR EACH ROW EXECUTE FUNCTION pgtenant.placement_before();
CREATE TRIGGER placement_after AFTER INSERT OR UPDATE OR DELETE ON pgtenant.placements
    FOR EACH ROW EXECUTE FUNCTION pgtenant.placement_after();
CREATE TRIGGER placement_changed AFTER INSERT OR UPDATE OR DELETE ON pgtenant.placements
    FOR EACH ROW EXECUTE FUNCTION pgtenant.raise_generation();
CREATE TRIGGER login_before BEFORE INSERT OR UPDATE ON pgtenant.logins
    FOR EACH ROW EXECUTE FUNCTION pgtenant.login_before();
CREATE TRIGGER login_after AFTER UPDATE OR DELETE ON pgtenant.logins
    FOR EACH ROW EXECUTE FUNCTION pgtenant.login_after();
CREATE TRIGGER login_changed AFTER INSERT OR UPDATE OR DELETE ON pgtenant.logins
    FOR EACH ROW EXECUTE FUNCTION pgtenant.raise_generation();

-- Servers and modules: every tenant may be concerned -------------------------------------------------------------------

CREATE FUNCTION pgtenant.everything_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgtenant.record_change(NULL);
    RETURN NULL;
END $$;

CREATE TRIGGER server_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgtenant.servers
    FOR EACH STATEMENT EXECUTE FUNCTION pgtenant.everything_changed();
CREATE TRIGGER module_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgtenant.modules
    FOR EACH STATEMENT EXECUTE FUNCTION pgtenant.everything_changed();
CREATE TRIGGER tenants_truncated AFTER TRUNCATE ON pgtenant.tenants
    FOR EACH STATEMENT EXECUTE FUNCTION pgtenant.everything_changed();

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgtenant FROM PUBLIC;
