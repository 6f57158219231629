-- What imports have changed, so that one of them can be taken back.

CREATE TABLE pgtenant.imports (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Where it came from: modules, hosts and databases, or a file; never a password.
    origin         jsonb NOT NULL,
    imported_by    text NOT NULL DEFAULT session_user,
    imported_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    rolled_back_by text,
    rolled_back_at timestamptz
);

-- Each server, module and tenant that an import made or changed, as it was before (nothing: it was not there) and as the import left it. A tenant that
-- is deleted takes its rows along: what is made anew under its names or id is none of that import's.
CREATE TABLE pgtenant.import_items (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    import_id bigint NOT NULL REFERENCES pgtenant.imports (id) ON DELETE CASCADE,
    kind      text NOT NULL CHECK (kind IN ('server', 'module', 'tenant')),
    tenant_id uuid REFERENCES pgtenant.tenants (id) ON DELETE CASCADE,
    before    jsonb,
    after     jsonb NOT NULL,
    CHECK ((kind = 'tenant') = (tenant_id IS NOT NULL))
);
CREATE INDEX import_items_import_id ON pgtenant.import_items (import_id, id);
CREATE INDEX import_items_tenant_id ON pgtenant.import_items (tenant_id);

REVOKE ALL ON pgtenant.imports, pgtenant.import_items FROM PUBLIC;
