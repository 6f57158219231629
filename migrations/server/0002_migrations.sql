-- For migrations of a fleet: how far a file without a transaction has come, and the rights on data in one call.

-- Files that run statement by statement and are not through. A statement that no transaction can hold is announced (alone) before it runs.
CREATE TABLE pgtenant.statements_done (
    module text NOT NULL,
    schema_name name NOT NULL,
    version bigint NOT NULL,
    done integer NOT NULL,
    checksum text NOT NULL,
    alone boolean NOT NULL,
    PRIMARY KEY (module, schema_name, version)
);
REVOKE ALL ON pgtenant.statements_done FROM PUBLIC;

-- What a role owns in this database, of one catalog. By the index of owners: in time that does not grow with the number of other tenants.
CREATE FUNCTION pgtenant.owned_by(owner name, catalog regclass) RETURNS TABLE (oid oid)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.objid FROM pg_shdepend d
    WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = (SELECT r.oid FROM pg_roles r WHERE r.rolname = owner)
      AND d.classid = catalog AND d.deptype = 'o' AND d.dbid = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())
$$;

-- Gives a role the rights on all data that an owner has in a schema, or everywhere in the database; writes only what is missing.
CREATE FUNCTION pgtenant.grant_data(in_schema name, owner name, grantee name, everywhere boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    t record;
BEGIN
    IF NOT has_schema_privilege(grantee, in_schema, 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', in_schema, grantee);
    END IF;
    FOR t IN
        SELECT n.oid, n.nspname
        FROM pgtenant.owned_by(owner, 'pg_namespace') o JOIN pg_namespace n ON n.oid = o.oid
        WHERE everywhere
        ORDER BY n.oid
    LOOP
        CONTINUE WHEN has_schema_privilege(grantee, t.oid, 'USAGE');
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', t.nspname, grantee);
    END LOOP;
    FOR t IN
        SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind = 'S' AS is_sequence
        FROM pgtenant.owned_by(owner, 'pg_class') o JOIN pg_class c ON c.oid = o.oid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't' AND (everywhere OR n.nspname = in_schema)
        -- Everyone in the same order, so that those who grant at one time do not wait for each other in a circle.
        ORDER BY c.oid
    LOOP
        IF t.is_sequence THEN
            CONTINUE WHEN has_sequence_privilege(grantee, t.oid, 'USAGE') AND has_sequence_privilege(grantee, t.oid, 'SELECT')
                AND has_sequence_privilege(grantee, t.oid, 'UPDATE');
            EXECUTE format('GRANT USAGE, SELECT, UPDATE ON SEQUENCE %s TO %I', t.name, grantee);
        ELSE
            CONTINUE WHEN has_table_privilege(grantee, t.oid, 'SELECT') AND has_table_privilege(grantee, t.oid, 'INSERT')
                AND has_table_privilege(grantee, t.oid, 'UPDATE') AND has_table_privilege(grantee, t.oid, 'DELETE')
                AND has_table_privilege(grantee, t.oid, 'TRUNCATE');
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON %s TO %I', t.name, grantee);
        END IF;
    END LOOP;
END
$$;

-- Walls off the common tables of a schema and gives the rights on them again to those who have it: a role of the tenants, and service roles.
CREATE FUNCTION pgtenant.grant_rows_again(in_schema name, tenant_column name, rows_role name) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pgtenant.protect(in_schema, tenant_column);
    PERFORM pgtenant.grant_rows(in_schema, r.rolname)
    FROM pg_roles r
    WHERE (r.rolname = rows_role OR r.rolname IN (SELECT s.role FROM pgtenant.roles s WHERE s.service))
      AND has_schema_privilege(r.oid, in_schema, 'USAGE');
END
$$;

REVOKE ALL ON FUNCTION pgtenant.owned_by(name, regclass), pgtenant.grant_data(name, name, name, boolean),
    pgtenant.grant_rows_again(name, name, name) FROM PUBLIC;

COMMENT ON SCHEMA pgtenant IS 'pgtenant:bookkeeping:2';
