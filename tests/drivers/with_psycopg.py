"""psycopg 3: libpq, extended protocol throughout, server-side prepared statements after a few uses, pipelines."""
import asyncio, threading
from concurrent.futures import ThreadPoolExecutor
import psycopg
from psycopg import errors as sql
from psycopg.types.json import Jsonb
from checks import ROWS, SITE, conninfo, equal, insert, run


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


def state_of_a_session(place):
    with connect(place, autocommit=True) as connection:
        connection.execute("SET work_mem = '123kB'")
        connection.execute("CREATE TEMP TABLE t AS SELECT 5 AS a")
        for _ in range(3):
            equal(one(connection, "SELECT a, current_setting('work_mem') FROM t"), (5, "123kB"))
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", [place["module"]])
        equal(one(connection, "SELECT pg_advisory_unlock(hashtext(%s))", place["module"]), (True,))
    with connect(place, autocommit=True) as connection:
        equal(one(connection, "SELECT to_regclass('t') IS NULL, current_setting('work_mem') <> '123kB'"), (True, True))


def start_up_settings(place):
    with connect(place, autocommit=True, options="-c statement_timeout=12345", application_name="drivers", client_encoding="latin1") as connection:
        equal(one(connection, "SELECT current_setting('application_name'), current_setting('statement_timeout')"), ("drivers", "12345ms"))
        equal((connection.info.parameter_status("client_encoding"), one(connection, "SELECT 'ü'")), ("LATIN1", ("ü",)))


def listen_notify(place):
    channel = f"psycopg_{place['module']}_{place['tls']}".lower()
    with connect(place, autocommit=True) as listener, connect(place, autocommit=True) as sender:
        listener.execute(f"LISTEN {channel}")
        sender.execute("SELECT pg_notify(%s, 'hello')", [channel])
        heard = next(listener.notifies(timeout=20))
        equal((heard.channel, heard.payload), (channel, "hello"))
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


run([rows_are_its_own, wrong_password, parameters, prepared_reuse, transactions, errors, copy, pipelines, cursors, state_of_a_session,
     start_up_settings, listen_notify, cancel, many_clients, asynchronous])
