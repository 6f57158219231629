-- From where a tenant's clients may come: networks in CIDR notation. A tenant without any has clients from everywhere.
CREATE TABLE pgtenant.tenant_addresses (
    tenant_id uuid NOT NULL REFERENCES pgtenant.tenants (id) ON DELETE CASCADE,
    network   cidr NOT NULL,
    PRIMARY KEY (tenant_id, network)
);
REVOKE ALL ON pgtenant.tenant_addresses FROM PUBLIC;

CREATE TRIGGER address_changed AFTER INSERT OR UPDATE OR DELETE ON pgtenant.tenant_addresses
    FOR EACH ROW EXECUTE FUNCTION pgtenant.raise_generation();
