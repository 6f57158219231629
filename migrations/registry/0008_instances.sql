-- The proxies over this registry, as they know of each other: for what one of them has to tell the one that is concerned. Each says every few
-- seconds that it is there.
CREATE TABLE pgtenant.instances (
    id         uuid PRIMARY KEY,
    -- Where the others reach it, as address and port.
    address    text NOT NULL CHECK (octet_length(address) BETWEEN 1 AND 64),
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL
);
REVOKE ALL ON pgtenant.instances FROM PUBLIC;

-- For proxies, whose role may otherwise only read. Those that went without a word are forgotten after a minute.
CREATE FUNCTION pgtenant.meet_instances(own_id uuid, own_address text) RETURNS SETOF text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pgtenant.instances AS i (id, address, seen_at) VALUES (own_id, own_address, clock_timestamp())
        ON CONFLICT (id) DO UPDATE SET (address, seen_at) = (EXCLUDED.address, EXCLUDED.seen_at);
    DELETE FROM pgtenant.instances AS i
        WHERE i.id IN (SELECT o.id FROM pgtenant.instances AS o
                       WHERE o.seen_at < clock_timestamp() - interval '1 minute' FOR UPDATE SKIP LOCKED);
    RETURN QUERY SELECT i.address FROM pgtenant.instances AS i
        WHERE i.id <> own_id AND i.seen_at > clock_timestamp() - interval '20 seconds'
        ORDER BY i.seen_at DESC LIMIT 64;
END $$;

CREATE FUNCTION pgtenant.leave_instances(own_id uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ DELETE FROM pgtenant.instances AS i WHERE i.id = own_id $$;

REVOKE ALL ON FUNCTION pgtenant.meet_instances(uuid, text), pgtenant.leave_instances(uuid) FROM PUBLIC;
