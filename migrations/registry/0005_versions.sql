-- Which tenant is on which version of its modules' migrations, as provisioning or the last run of `pgtenant migrate` left it. The places themselves keep the
-- truth (pgtenant.schema_versions in each database); this copy tells it without asking them. It is no change of the tenant, so it has no triggers.
CREATE TABLE pgtenant.placement_versions (
    tenant_id   uuid NOT NULL,
    module      text COLLATE "C" NOT NULL,
    -- The highest version that the place has had; none: no migration yet.
    version     bigint,
    -- Why the last run failed there.
    error       text,
    -- Since when it is known to be on this version.
    migrated_at timestamptz,
    checked_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, module),
    FOREIGN KEY (tenant_id, module) REFERENCES pgtenant.placements (tenant_id, module) ON DELETE CASCADE
);
REVOKE ALL ON pgtenant.placement_versions FROM PUBLIC;

CREATE VIEW public.tenant_versions AS
    SELECT t.id AS tenant_id, t.slug AS tenant_slug, p.module AS module_name, v.version, v.error, v.migrated_at, v.checked_at
    FROM pgtenant.placements AS p
    JOIN pgtenant.tenants AS t ON t.id = p.tenant_id
    LEFT JOIN pgtenant.placement_versions AS v ON v.tenant_id = p.tenant_id AND v.module = p.module;
REVOKE ALL ON public.tenant_versions FROM PUBLIC;
