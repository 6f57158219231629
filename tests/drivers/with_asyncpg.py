"""asyncpg: its own protocol code, binary parameters, named prepared statements cached by text, a pool that resets."""
import asyncio, io, json, ssl
from datetime import datetime, timedelta, timezone
from decimal import Decimal
import asyncpg
from checks import ROWS, SITE, channel, database, equal, insert, parameters as login, run, through_pgtenant


def tls(place):
    if not place["tls"]:
        return False
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def how(place, tenant=None, **more):
    return {**login(place, tenant), "database": database(place, tenant), "ssl": tls(place), "timeout": 20, **more}


class connect:
    def __init__(self, place, tenant=None, **more):
        self.how = how(place, tenant, **more)

    async def __aenter__(self):
        self.connection = await asyncpg.connect(**self.how)
        return self.connection

    async def __aexit__(self, *_):
        await self.connection.close()


async def rows_are_its_own(place):
    for tenant in (SITE["neighbour"], SITE["tenant"]):
        async with connect(place, tenant) as connection:
            await connection.execute(f"DELETE FROM notes; {insert(tenant)}")
    for tenant in (SITE["tenant"], SITE["neighbour"]):
        async with connect(place, tenant) as connection:
            equal([row["note"] for row in await connection.fetch("SELECT note FROM notes")], [tenant] * ROWS)


@through_pgtenant
async def tenant_in_server_settings(place):
    async with connect(place, user="app", server_settings={"tenant": SITE["tenant"], "application_name": "drivers"}) as connection:
        equal(await connection.fetchval("SELECT note || current_setting('application_name') FROM notes LIMIT 1"), SITE["tenant"] + "drivers")


async def parameters(place):
    async with connect(place) as connection:
        found = await connection.fetchrow("SELECT $1::int, $2::text, $3::bytea, $4::int[], $5::timestamptz IS NULL", 1, "grüße", b"\0\xff", [1, 2], None)
        equal(tuple(found), (1, "grüße", b"\0\xff", [1, 2], True))
        equal(await connection.fetchval("SELECT length($1)", "y" * 3_000_000), 3_000_000)
        equal(len(await connection.fetchval("SELECT repeat('x', $1)", 3_000_000)), 3_000_000)


async def every_type(place):
    values = [True, -7, 2**40, 1.5, Decimal("-12345.678900"), "grüße", b"\0\xff", datetime(2026, 11, 26, 1, 2, 3, tzinfo=timezone.utc),
              timedelta(days=1, seconds=2), [[1, None], [3, 4]], ["a,b", 'c"d', None], json.dumps({"a": [1, None]}), None]
    types = "bool int bigint float8 numeric text bytea timestamptz interval int[] text[] jsonb date".split()
    async with connect(place) as connection:
        found = await connection.fetchrow("SELECT " + ", ".join(f"${i + 1}::{kind}" for i, kind in enumerate(types)), *values)
        equal([json.dumps(json.loads(value)) if kind == "jsonb" else value for value, kind in zip(found, types)], values)


async def settings_and_time_outs(place):
    async with connect(place, command_timeout=20) as connection:
        await connection.execute("SET statement_timeout = '200ms'; SET work_mem = '5MB'")
        for _ in range(2):
            try:
                await connection.fetch("SELECT pg_sleep(20)")
            except asyncpg.QueryCanceledError:
                equal(await connection.fetchval("SHOW work_mem"), "5MB")
            else:
                raise AssertionError("no time-out")
        # What the driver's pool sends when a connection comes back to it.
        await connection.reset()
        equal(await connection.fetchval("SELECT current_setting('statement_timeout') || (current_setting('work_mem') <> '5MB')"), "0true")


async def schema_changes(place):
    """The driver parses again what no longer fits, and tells what it cannot do so."""
    async with connect(place) as connection:
        await connection.execute("CREATE TEMP TABLE changing (a int); INSERT INTO changing VALUES (1)")
        equal([dict(row) for row in await connection.fetch("SELECT * FROM changing")], [{"a": 1}])
        await connection.execute("ALTER TABLE changing ADD COLUMN b int DEFAULT 2")
        equal([dict(row) for row in await connection.fetch("SELECT * FROM changing")], [{"a": 1, "b": 2}])


async def process_id(place):
    async with connect(place) as connection:
        equal(await connection.fetchval("SELECT pg_backend_pid()"), connection.get_server_pid())


async def prepared_reuse(place):
    async with connect(place) as first, connect(place, statement_cache_size=4) as second:
        statement = await first.prepare("SELECT note || $1 FROM notes WHERE id = 1")
        for i in range(20):
            equal(await statement.fetchval(str(i)), f"{SITE['tenant']}{i}")
            equal(await second.fetchval(f"SELECT {i % 8} + $1", i), i % 8 + i)
        equal([(column.name, column.type.name) for column in statement.get_attributes()], [("?column?", "text")])


async def transactions(place):
    async with connect(place) as connection:
        transaction = connection.transaction(isolation="repeatable_read")
        await transaction.start()
        await connection.execute("INSERT INTO notes (id) VALUES (900)")
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO notes (id) VALUES ($1)", 901)
                await connection.fetchval("SELECT 1/0")
        except asyncpg.DivisionByZeroError:
            pass
        equal([row[0] for row in await connection.fetch("SELECT id FROM notes WHERE id >= 900")], [900])
        await transaction.rollback()
        equal(await connection.fetchval("SELECT count(*) FROM notes WHERE id >= 900"), 0)


async def errors(place):
    async with connect(place) as connection:
        for text, expected in (("SELECT 1/$1::int", asyncpg.DivisionByZeroError), ("nonsense $1", asyncpg.PostgresSyntaxError)):
            try:
                await connection.fetch(text, 0)
            except expected:
                equal(await connection.fetchval("SELECT 1"), 1)
            else:
                raise AssertionError(f"no error: {text}")


async def many_rows_at_once(place):
    async with connect(place) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.executemany("INSERT INTO notes (id, note) VALUES ($1, $2)", [(1000 + i, "x" * 50) for i in range(3000)])
        equal(await connection.fetchval("SELECT count(*) FROM notes WHERE id >= 1000"), 3000)
        equal([len(await (await connection.cursor("SELECT generate_series(1, 500)")).fetch(200))], [200])
        await transaction.rollback()


async def copy(place):
    async with connect(place) as connection, connection.transaction():
        await connection.execute("CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP")
        await connection.copy_records_to_table("t", records=[(i, "row") for i in range(20_000)])
        out = io.BytesIO()
        await connection.copy_from_query("SELECT * FROM t", output=out)
        equal(out.getvalue().count(b"\n"), 20_000)


async def listen_notify(place):
    name = channel("asyncpg", place)
    heard = asyncio.get_running_loop().create_future()
    async with connect(place) as listener, connect(place) as sender:
        await listener.add_listener(name, lambda _connection, _pid, _channel, payload: heard.set_result(payload))
        await sender.execute("SELECT pg_notify($1, 'hello')", name)
        equal(await asyncio.wait_for(heard, 20), "hello")


async def cancel(place):
    async with connect(place) as connection:
        try:
            await connection.fetch("SELECT pg_sleep(60)", timeout=0.3)  # the driver sends a cancel request
        except asyncio.TimeoutError:
            equal(await connection.fetchval("SELECT 1"), 1)
        else:
            raise AssertionError("not canceled")


async def state_of_a_session(place):
    async with connect(place) as connection:
        await connection.execute("SET work_mem = '123kB'")
        await connection.execute("CREATE TEMP TABLE t AS SELECT 5 AS a")
        for _ in range(3):
            equal(tuple(await connection.fetchrow("SELECT a, current_setting('work_mem') FROM t")), (5, "123kB"))


async def pool_of_connections(place):
    size = 12 if place["mode"] == "transaction" else 4
    async with asyncpg.create_pool(min_size=size, max_size=size, **how(place)) as pool:
        found = await asyncio.gather(*(pool.fetchval("SELECT note || $1 FROM notes WHERE id = 1", str(i)) for i in range(200)))
        equal(found, [f"{SITE['tenant']}{i}" for i in range(200)])


run([rows_are_its_own, tenant_in_server_settings, parameters, every_type, prepared_reuse, transactions, errors, many_rows_at_once, copy,
     settings_and_time_outs, schema_changes, listen_notify, cancel, state_of_a_session, pool_of_connections, process_id])
