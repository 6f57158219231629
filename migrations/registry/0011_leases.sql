-- What instances may have of a server's connections. Each has a lease of some, renewed every second; the sum of what is leased is never more than the
-- server's max_connections, but where that was lowered or an instance has more open. All times are this database's.

-- One row a server that is leased: its lock is what makes instances take turns.
CREATE TABLE pgtenant.lease_books (
    server   text COLLATE "C" PRIMARY KEY REFERENCES pgtenant.servers (name) ON DELETE CASCADE,
    -- When any instance was last heard.
    heard_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE TABLE pgtenant.server_leases (
    server      text COLLATE "C" NOT NULL REFERENCES pgtenant.servers (name) ON DELETE CASCADE,
    -- A running proxy, new with each start.
    instance    uuid NOT NULL,
    -- What it may have, and what it has open if that is more.
    connections integer NOT NULL CHECK (connections >= 0),
    -- What it has use for.
    need        integer NOT NULL CHECK (need >= 0),
    -- It drains: it wants no more than it has use for.
    leaving     boolean NOT NULL,
    -- Counts what the instance has said: a request that was overtaken by a later one does nothing.
    turn        bigint NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (server, instance)
) WITH (fillfactor = 50);
REVOKE ALL ON pgtenant.lease_books, pgtenant.server_leases FROM PUBLIC;

-- Renews an instance's leases of these servers, of which it holds so many connections, needs so many and asks for so many. The lease of each is what it
-- holds, and of what it asks for beyond that as much as is free. Returns all leases of these servers, by server and instance. `period` changes every few
-- seconds: so that all take turns by the same clock where there are fewer connections than instances.
CREATE FUNCTION pgtenant.lease_connections(own_id uuid, own_turn bigint, lifetime_seconds double precision, is_leaving boolean,
                                           names text[], holds integer[], needs integer[], asks integer[])
    RETURNS TABLE (server text, most integer, period bigint, instance uuid, connections integer, need integer, leaving boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    said record;
    was pgtenant.server_leases;
    server_most integer;
    others integer;
    heard timestamptz;
    this_time timestamptz;
    lifetime interval := make_interval(secs => lifetime_seconds);
BEGIN
    -- In one order, so that no two wait for each other.
    FOR said IN SELECT * FROM unnest(names, holds, needs, asks) AS s (name, held, need, ask) ORDER BY s.name COLLATE "C" LOOP
        INSERT INTO pgtenant.lease_books AS b (server)
            SELECT s.name FROM pgtenant.servers AS s WHERE s.name = said.name AND s.max_connections IS NOT NULL
            ON CONFLICT (server) DO NOTHING;
        SELECT b.heard_at INTO heard FROM pgtenant.lease_books AS b WHERE b.server = said.name FOR UPDATE;
        SELECT s.max_connections INTO server_most FROM pgtenant.servers AS s WHERE s.name = said.name;
        SELECT * INTO was FROM pgtenant.server_leases AS l WHERE l.server = said.name AND l.instance = own_id;
        IF was.turn >= own_turn THEN
            CONTINUE;
        END IF;
        IF server_most IS NULL THEN
            DELETE FROM pgtenant.server_leases AS l WHERE l.server = said.name AND l.instance = own_id;
            CONTINUE;
        END IF;
        -- After the wait for the lock.
        this_time := clock_timestamp();
        -- If nobody was heard for a while, this instance among them, it was this database that was away: nobody's lease ends for that.
        IF was.turn IS NOT NULL AND heard < this_time - lifetime / 2 THEN
            UPDATE pgtenant.server_leases AS l SET expires_at = this_time + lifetime WHERE l.server = said.name;
        END IF;
        DELETE FROM pgtenant.server_leases AS l
            WHERE l.server = said.name AND l.instance <> own_id AND l.expires_at < this_time;
        SELECT coalesce(sum(l.connections), 0) INTO others FROM pgtenant.server_leases AS l
            WHERE l.server = said.name AND l.instance <> own_id;
        INSERT INTO pgtenant.server_leases AS l (server, instance, connections, need, leaving, turn, expires_at)
            VALUES (said.name, own_id, greatest(said.held, least(said.ask, server_most - others)), said.need, is_leaving, own_turn, this_time + lifetime)
            ON CONFLICT (server, instance) DO UPDATE
            SET (connections, need, leaving, turn, expires_at)
                = (EXCLUDED.connections, EXCLUDED.need, EXCLUDED.leaving, EXCLUDED.turn, EXCLUDED.expires_at);
        UPDATE pgtenant.lease_books AS b SET heard_at = this_time WHERE b.server = said.name;
        RETURN QUERY SELECT l.server, server_most, (extract(epoch FROM this_time) / 5)::bigint, l.instance, l.connections, l.need, l.leaving
            FROM pgtenant.server_leases AS l WHERE l.server = said.name ORDER BY l.instance;
    END LOOP;
END $$;

-- An instance is no more.
CREATE FUNCTION pgtenant.end_leases(own_id uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ DELETE FROM pgtenant.server_leases AS l WHERE l.instance = own_id $$;

REVOKE ALL ON FUNCTION pgtenant.lease_connections(uuid, bigint, double precision, boolean, text[], integer[], integer[], integer[]),
    pgtenant.end_leases(uuid) FROM PUBLIC;
