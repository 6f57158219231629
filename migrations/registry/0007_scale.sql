-- Tenants with one status, in the order of their slugs: those that wait to be activated, and pages of `tenant list --status`.
CREATE INDEX tenants_status ON pgtenant.tenants (status, slug);
