-- What one tenant may take, where that differs from the proxies' configuration: an object such as
-- {"max_clients": 50, "statement": "30s"}, with the keys of src/limits.rs. Checked here, so that plain SQL cannot write what no proxy understands.
CREATE FUNCTION pgtenant.are_limits(limits jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_typeof(limits) = 'object', false) AND NOT EXISTS (
        SELECT 1 FROM jsonb_each(CASE jsonb_typeof(limits) WHEN 'object' THEN limits ELSE '{}' END) AS l
        WHERE NOT CASE
            WHEN l.key IN ('max_clients', 'connect_rate', 'max_connections', 'min_connections')
                THEN jsonb_typeof(l.value) = 'number' AND l.value::text ~ '^[0-9]{1,9}$'
            WHEN l.key IN ('weight', 'queue_length_max')
                THEN jsonb_typeof(l.value) = 'number' AND l.value::text ~ '^[1-9][0-9]{0,8}$'
            WHEN l.key IN ('checkout_timeout', 'login', 'idle_in_transaction', 'client_idle', 'statement')
                THEN jsonb_typeof(l.value) = 'string' AND l.value #>> '{}' ~ '^([0-9]{1,9} ?(ms|s|m|h|d) ?)+$'
            ELSE false END)
$$;
REVOKE ALL ON FUNCTION pgtenant.are_limits(jsonb) FROM PUBLIC;

ALTER TABLE pgtenant.tenants ADD COLUMN limits jsonb NOT NULL DEFAULT '{}' CHECK (pgtenant.are_limits(limits));
