"""psycopg 3: libpq, extended protocol throughout, server-side prepared statements after a few uses, pipelines."""
import asyncio, threading
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from concurrent.futures import ThreadPoolExecutor
import psycopg
from psycopg import errors as sql
from psycopg.types.json import Jsonb
from checks import ROWS, SITE, channel, conninfo, equal, insert, run


def connect(place, tenant=None, **more):
    return psycopg.connect(conninfo(place, tenant), **more)


def one(connection, text, *values, **more):
    return connection.execute(text, values or None, **more).fetchone()


def rows_are_its_own(place):
    for tenant in (SITE["neighbour"], SITE["tenant"]):
        with connect(place, tenant) as connection:
            connection.execute("DELETE FROM notes")
            connection.execute(insert(tenant))
    for tenant in (SITE["tenant"], SITE["neighbour"]):
        with connect(place, tenant) as connection:
            equal(connection.execute("SELECT note FROM notes").fetchall(), [(tenant,)] * ROWS)


def wrong_password(place):
    try:
        psycopg.connect(conninfo(place), password="wrong")
    except psycopg.OperationalError as error:
        equal("password authentication failed" in str(error), True)
    else:
        raise AssertionError("let in")


def parameters(place):
    with connect(place) as connection:
        values = (1, "grüße", b"\0\xff", [1, 2], Jsonb({"a": [1]}), None)
        found = one(connection, "SELECT %s::int, %s::text, %s::bytea, %s::int[], %s::jsonb, %s::date", *values)
        equal(found, (1, "grüße", b"\0\xff", [1, 2], {"a": [1]}, None))
        equal(one(connection, "SELECT %s::bigint", 2**40, binary=True), (2**40,))
        equal(len(one(connection, "SELECT repeat('x', %s)", 3_000_000)[0]), 3_000_000)
        equal(one(connection, "SELECT length(%s::text)", "y" * 3_000_000), (3_000_000,))


def every_type_in_both_formats(place):
    values = (True, -7, 2**40, 1.5, Decimal("-12345.678900"), "grüße", b"\0\xff", datetime(2026, 11, 26, 1, 2, 3, tzinfo=timezone.utc),
              timedelta(days=1, seconds=2), [[1, None], [3, 4]], ["a,b", 'c"d', None], Jsonb({"a": [1, None]}), None)
    types = "bool int bigint float8 numeric text bytea timestamptz interval int[] text[] jsonb date".split()
    with connect(place) as connection:
        for binary in (False, True):
            mark = "%b" if binary else "%t"
            text = "SELECT " + ", ".join(f"{mark}::{kind}" for kind in types)
            found = connection.execute(text, values, binary=binary).fetchone()
            expected = tuple(value.obj if isinstance(value, Jsonb) else value for value in values)
            equal(found, expected)
        equal(one(connection, "SELECT array_agg(i), sum(i::numeric), json_agg(i) FROM generate_series(1, 3) i", binary=True), ([1, 2, 3], Decimal(6), [1, 2, 3]))


def prepared_reuse(place):
    with connect(place, prepare_threshold=2, autocommit=True) as first, connect(place, prepare_threshold=2, autocommit=True) as second:
        for i in range(12):
            equal(one(first, "SELECT note || %s FROM notes WHERE id = 1", str(i)), (f"{SITE['tenant']}{i}",))
            equal(one(second, "SELECT id * 100 + %s FROM notes WHERE id = 2", i), (200 + i,))
        for i in range(120):  # more than the driver keeps: it deallocates the oldest
            equal(one(first, f"SELECT {i} + %s", 1, prepare=True), (i + 1,))


def transactions(place):
    with connect(place) as connection:
        with connection.transaction() as outer:
            connection.execute("INSERT INTO notes (id) VALUES (900)")
            try:
                with connection.transaction():
                    connection.execute("INSERT INTO notes (id) VALUES (901)")
                    one(connection, "SELECT 1/0")
            except sql.DivisionByZero:
                pass
            equal(connection.execute("SELECT id FROM notes WHERE id >= 900").fetchall(), [(900,)])
            raise psycopg.Rollback(outer)
        equal(one(connection, "SELECT count(*) FROM notes WHERE id >= 900"), (0,))
        connection.rollback()
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        equal(one(connection, "SHOW transaction_isolation"), ("serializable",))


def isolation_levels(place):
    with connect(place) as connection:
        for level in psycopg.IsolationLevel:
            connection.isolation_level, connection.read_only, connection.deferrable = level, True, True
            text = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'), current_setting('transaction_deferrable')"
            equal(one(connection, text), (level.name.lower().replace("_", " "), "on", "on"))
            connection.rollback()
        connection.isolation_level = connection.read_only = connection.deferrable = None
        equal(one(connection, "SHOW transaction_isolation"), ("read committed",))


def settings_follow_transactions(place):
    with connect(place, autocommit=True) as connection:
        show = lambda: one(connection, "SELECT current_setting('work_mem'), current_setting('a.b', true)")
        before = show()
        connection.execute("BEGIN; SET work_mem = '5MB'; SET LOCAL a.b = 'local'")
        equal(show(), ("5MB", "local"))
        connection.execute("SAVEPOINT s; SET work_mem = '6MB'; ROLLBACK TO s")
        equal(show()[0], "5MB")
        connection.execute("ROLLBACK")
        equal((show()[0], show()[1] or None), (before[0], None))
        connection.execute("SET work_mem = '7MB'")
        connection.execute("SELECT set_config('a.b', %s, false)", ["carried"])
        equal(show(), ("7MB", "carried"))
        connection.execute("RESET work_mem")
        equal(show(), (before[0], "carried"))
        connection.execute("SET TIME ZONE 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'")
        equal((connection.info.parameter_status("TimeZone"), connection.info.parameter_status("DateStyle")), ("Asia/Tokyo", "SQL, DMY"))
        connection.execute("DISCARD ALL")
        equal((show()[0], show()[1] or None), (before[0], None))


def timeouts(place):
    with connect(place, autocommit=True) as connection:
        connection.execute("SET statement_timeout = '200ms'")
        for _ in range(2):
            try:
                connection.execute("SELECT pg_sleep(20)")
            except sql.QueryCanceled:
                pass
            else:
                raise AssertionError("no time-out")
        connection.execute("SET statement_timeout = 0; SET lock_timeout = '100ms'")
        with connect(place) as other:
            other.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [place["name"]])
            try:
                connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [place["name"]])
            except sql.LockNotAvailable:
                equal(one(connection, "SELECT 1"), (1,))
            else:
                raise AssertionError("no time-out")


def errors(place):
    with connect(place, autocommit=True) as connection:
        for text, expected in (("SELECT 1/%s", sql.DivisionByZero), ("nonsense %s", sql.SyntaxError), ("SELECT %s FROM nosuch", sql.UndefinedTable)):
            try:
                connection.execute(text, [0])
            except expected:
                equal(one(connection, "SELECT 1"), (1,))
            else:
                raise AssertionError(f"no error: {text}")


def copy(place):
    with connect(place) as connection:
        connection.execute("CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP")
        with connection.cursor().copy("COPY t FROM STDIN") as into:
            for i in range(20_000):
                into.write_row((i, "row"))
        with connection.cursor().copy("COPY t TO STDOUT") as out:
            equal(sum(1 for _ in out.rows()), 20_000)
        connection.rollback()
        connection.execute("CREATE TEMP TABLE t (a int) ON COMMIT DROP")
        try:
            with connection.cursor().copy("COPY t FROM STDIN") as into:
                into.write(b"none\n" * 50_000)
        except sql.InvalidTextRepresentation:
            pass
        else:
            raise AssertionError("no error")
        connection.rollback()
        equal(one(connection, "SELECT 1"), (1,))


def copy_binary(place):
    with connect(place) as connection:
        connection.execute("CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP")
        with connection.cursor().copy("COPY t FROM STDIN (FORMAT BINARY)") as into:
            into.set_types(["int4", "text"])
            for i in range(5000):
                into.write_row((i, None if i % 2 else "x" * 100))
        with connection.cursor().copy("COPY (SELECT * FROM t ORDER BY a) TO STDOUT (FORMAT BINARY)") as out:
            out.set_types(["int4", "text"])
            equal([row[0] for row in out.rows()], list(range(5000)))
        class Mine(Exception):
            pass
        try:
            with connection.cursor().copy("COPY t FROM STDIN") as into:
                into.write_row((1, "one"))
                raise Mine
        except Mine:
            equal(connection.info.transaction_status.name, "INERROR")
        connection.rollback()
        equal(one(connection, "SELECT 1"), (1,))


def pipelines_with_errors_and_syncs(place):
    with connect(place, prepare_threshold=0, autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            first = connection.execute("SELECT %s::int", [1])
            pipeline.sync()
            connection.execute("SET work_mem = '9MB'")
            pipeline.sync()
            seen = connection.execute("SHOW work_mem")
            pipeline.sync()
            with connection.transaction():
                connection.execute("INSERT INTO notes (id) VALUES (%s)", [950])
                inside = connection.execute("SELECT count(*) FROM notes WHERE id = %s", [950])
                connection.execute("DELETE FROM notes WHERE id = %s", [950])
            equal((first.fetchone(), seen.fetchone(), inside.fetchone()), ((1,), ("9MB",), (1,)))
        for _ in range(3):
            try:
                with connection.pipeline() as pipeline:
                    before = connection.execute("SELECT %s::int", [3])
                    pipeline.sync()
                    connection.execute("SELECT 1 / %s::int", [0])
                    connection.execute("INSERT INTO notes (id) VALUES (%s)", [951])
                    pipeline.sync()
            except sql.DivisionByZero:
                pass
            equal((before.fetchone(), one(connection, "SELECT count(*) FROM notes WHERE id = 951")), ((3,), (0,)))
        with connection.pipeline():
            connection.cursor().executemany("SELECT %s::int", [(i,) for i in range(2000)])
        with connection.pipeline():
            big = connection.execute("SELECT repeat('x', %s)", [5_000_000])
            small = connection.execute("SELECT length(%s::text)", ["y" * 5_000_000])
            equal((len(big.fetchone()[0]), small.fetchone()), (5_000_000, (5_000_000,)))


def pipelines(place):
    with connect(place, autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("SELECT %s::int", [i]) for i in range(200)]
            pipeline.sync()
            equal([cursor.fetchone()[0] for cursor in cursors], list(range(200)))
        try:
            with connection.pipeline():
                connection.execute("SELECT 1")
                connection.execute("SELECT 1/0")
                connection.execute("SELECT 2")
        except (sql.DivisionByZero, psycopg.errors.PipelineAborted):
            pass
        equal(one(connection, "SELECT 3"), (3,))


def cursors(place):
    with connect(place) as connection:
        with connection.cursor("named") as cursor:
            cursor.execute("SELECT generate_series(1, 1000)")
            equal([len(cursor.fetchmany(100)) for _ in range(11)], [100] * 10 + [0])
        with connection.cursor("held", withhold=True) as cursor:
            cursor.execute("SELECT generate_series(1, 100)")
            connection.commit()
            equal(len(cursor.fetchall()), 100)


def scrollable_and_binary_cursors(place):
    with connect(place) as connection:
        with connection.cursor("scrolling", scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, 100)", binary=True)
            cursor.scroll(50)
            equal(cursor.fetchone(), (51,))
            cursor.scroll(0, mode="absolute")
            equal(cursor.fetchmany(2), [(1,), (2,)])
        rows = connection.cursor().stream("SELECT generate_series(1, 2000)")
        equal(sum(row[0] for row in rows), 2001000)


def process_id(place):
    """What a client was told is the process that serves it."""
    with connect(place, autocommit=True) as connection:
        equal(one(connection, "SELECT pg_backend_pid()"), (connection.info.backend_pid,))


def newest_protocol(place):
    """Protocol 3.2 is spoken where both sides know it; its cancel keys are longer."""
    if psycopg.pq.version() < 180000:
        return
    with psycopg.connect(conninfo(place) + " max_protocol_version=latest", autocommit=True) as connection:
        timer = threading.Timer(0.3, connection.cancel_safe)
        timer.start()
        try:
            connection.execute("SELECT pg_sleep(60)")
        except sql.QueryCanceled:
            equal(one(connection, "SELECT 1"), (1,))
        else:
            raise AssertionError("not canceled")
        finally:
            timer.join()


def state_of_a_session(place):
    with connect(place, autocommit=True) as connection:
        connection.execute("SET work_mem = '123kB'")
        connection.execute("CREATE TEMP TABLE t AS SELECT 5 AS a")
        for _ in range(3):
            equal(one(connection, "SELECT a, current_setting('work_mem') FROM t"), (5, "123kB"))
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", [place["name"]])
        equal(one(connection, "SELECT pg_advisory_unlock(hashtext(%s))", place["name"]), (True,))
    with connect(place, autocommit=True) as connection:
        equal(one(connection, "SELECT to_regclass('t') IS NULL, current_setting('work_mem') <> '123kB'"), (True, True))


def start_up_settings(place):
    with connect(place, autocommit=True, options="-c statement_timeout=12345", application_name="drivers", client_encoding="latin1") as connection:
        equal(one(connection, "SELECT current_setting('application_name'), current_setting('statement_timeout')"), ("drivers", "12345ms"))
        equal((connection.info.parameter_status("client_encoding"), one(connection, "SELECT 'ü'")), ("LATIN1", ("ü",)))


def listen_notify(place):
    name = channel("psycopg", place)
    with connect(place, autocommit=True) as listener, connect(place, autocommit=True) as sender:
        listener.execute(f"LISTEN {name}")
        sender.execute("SELECT pg_notify(%s, 'hello')", [name])
        heard = next(listener.notifies(timeout=20))
        equal((heard.channel, heard.payload), (name, "hello"))
        if place["mode"] == "session":
            equal((heard.pid, one(sender, "SELECT pg_backend_pid()")), (sender.info.backend_pid, (sender.info.backend_pid,)))


def cancel(place):
    with connect(place, autocommit=True) as connection:
        timer = threading.Timer(0.3, connection.cancel_safe)
        timer.start()
        try:
            connection.execute("SELECT pg_sleep(60)")
        except sql.QueryCanceled:
            equal(one(connection, "SELECT 1"), (1,))
        else:
            raise AssertionError("not canceled")
        finally:
            timer.join()


def many_clients(place):
    """Three times as many clients as the pool has connections, in transaction mode."""
    def work(i):
        with connect(place, SITE["tenant"] if i % 2 else SITE["neighbour"], autocommit=True) as connection:
            return {one(connection, "SELECT note FROM notes WHERE id = %s", 1)[0] for _ in range(20)}
    clients = 24 if place["mode"] == "transaction" else 6
    with ThreadPoolExecutor(clients) as threads:
        seen = list(threads.map(work, range(clients)))
    equal(seen, [{SITE["tenant"] if i % 2 else SITE["neighbour"]} for i in range(clients)])


async def asynchronous(place):
    async with await psycopg.AsyncConnection.connect(conninfo(place), autocommit=True) as connection:
        task = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.3)
        await connection.cancel_safe()
        try:
            await task
        except sql.QueryCanceled:
            pass
        equal(await (await connection.execute("SELECT %s::int", [4])).fetchone(), (4,))


run([rows_are_its_own, wrong_password, parameters, every_type_in_both_formats, prepared_reuse, transactions, isolation_levels,
     settings_follow_transactions, timeouts, errors, copy, copy_binary, pipelines, pipelines_with_errors_and_syncs, cursors,
     scrollable_and_binary_cursors, state_of_a_session, start_up_settings, listen_notify, cancel, newest_protocol, many_clients, asynchronous,
     process_id])
