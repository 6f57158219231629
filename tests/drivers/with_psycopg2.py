"""psycopg2: libpq, simple protocol throughout."""
import io, select, threading
from concurrent.futures import ThreadPoolExecutor
import psycopg2
from psycopg2 import errors as sql
from psycopg2.extras import execute_values
from psycopg2.pool import ThreadedConnectionPool
from checks import ROWS, SITE, channel, conninfo, equal, insert, run


class connect:
    """A connection in autocommit (or not), closed at the end: psycopg2's own `with` only commits."""
    def __init__(self, place, tenant=None, autocommit=True, **more):
        self.connection = psycopg2.connect(conninfo(place, tenant), **more)
        self.connection.autocommit = autocommit

    def __enter__(self):
        return self.connection

    def __exit__(self, *_):
        self.connection.close()


def all_of(connection, text, values=None):
    with connection.cursor() as cursor:
        cursor.execute(text, values)
        return cursor.fetchall() if cursor.description else None


def rows_are_its_own(place):
    for tenant in (SITE["neighbour"], SITE["tenant"]):
        with connect(place, tenant) as connection:
            all_of(connection, f"DELETE FROM notes; {insert(tenant)}")
    for tenant in (SITE["tenant"], SITE["neighbour"]):
        with connect(place, tenant) as connection:
            equal(all_of(connection, "SELECT note FROM notes"), [(tenant,)] * ROWS)


def parameters(place):
    with connect(place) as connection:
        equal(all_of(connection, "SELECT %s, %s::text, %s", (1, "grüße", [1, 2])), [(1, "grüße", [1, 2])])


def prepared_reuse(place):
    with connect(place) as connection:
        all_of(connection, "PREPARE note AS SELECT note FROM notes WHERE id = $1")
        for i in (1, 2, 3):
            equal(all_of(connection, "EXECUTE note(%s)", [i]), [(SITE["tenant"],)])
        all_of(connection, "DEALLOCATE note")


def transactions(place):
    with connect(place, autocommit=False) as connection:
        with connection.cursor() as cursor:
            execute_values(cursor, "INSERT INTO notes (id, note) VALUES %s", [(900 + i, "x") for i in range(50)])
        equal(all_of(connection, "SELECT count(*) FROM notes WHERE id >= 900"), [(50,)])
        connection.rollback()
        equal(all_of(connection, "SELECT count(*) FROM notes WHERE id >= 900"), [(0,)])


def errors(place):
    with connect(place, autocommit=False) as connection:
        for text, expected in (("SELECT 1/0", sql.DivisionByZero), ("SELECT 1", sql.InFailedSqlTransaction)):
            try:
                all_of(connection, text)
            except expected:
                pass
            else:
                raise AssertionError(f"no error: {text}")
        connection.rollback()
        equal(all_of(connection, "SELECT 1"), [(1,)])


def copy(place):
    with connect(place, autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP")
        cursor.copy_expert("COPY t FROM STDIN", io.StringIO("".join(f"{i}\trow\n" for i in range(20_000))))
        out = io.StringIO()
        cursor.copy_expert("COPY t TO STDOUT", out)
        equal(out.getvalue().count("\n"), 20_000)


def cursors(place):
    with connect(place, autocommit=False) as connection, connection.cursor("named") as cursor:
        cursor.execute("SELECT generate_series(1, 5000)")
        equal(sum(1 for _ in cursor), 5000)


def listen_notify(place):
    name = channel("psycopg2", place)
    with connect(place) as listener, connect(place) as sender:
        all_of(listener, f"LISTEN {name}")
        all_of(sender, f"NOTIFY {name}, 'hello'")
        equal(select.select([listener], [], [], 20)[0], [listener])
        listener.poll()
        equal([notify.payload for notify in listener.notifies], ["hello"])


def cancel(place):
    with connect(place) as connection:
        timer = threading.Timer(0.3, connection.cancel)
        timer.start()
        try:
            all_of(connection, "SELECT pg_sleep(60)")
        except sql.QueryCanceled:
            equal(all_of(connection, "SELECT 1"), [(1,)])
        else:
            raise AssertionError("not canceled")
        finally:
            timer.join()


def held_and_scrolling_cursors(place):
    with connect(place, autocommit=False) as connection:
        with connection.cursor("held", withhold=True, scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, 300)")
            connection.commit()
            cursor.scroll(100)
            equal(len(cursor.fetchall()), 200)
        connection.commit()


def large_objects(place):
    with connect(place, autocommit=False) as connection:
        made = connection.lobject(0, "wb")
        made.write(b"large" * 50_000)
        made.seek(5)
        made.close()
        equal(len(connection.lobject(made.oid, "rb").read()), 250_000)
        connection.rollback()


def isolation_levels(place):
    with connect(place, autocommit=False) as connection:
        for level in ("REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED"):
            connection.set_session(isolation_level=level, readonly=True)
            equal(all_of(connection, "SHOW transaction_isolation"), [(level.lower(),)])
            connection.rollback()
        connection.set_session(autocommit=True, readonly=False)
        # In autocommit the driver sets it for the session.
        connection.set_session(isolation_level="SERIALIZABLE", autocommit=True)
        equal(all_of(connection, "SHOW transaction_isolation"), [("serializable",)])


def reset_of_a_pool(place):
    with connect(place) as connection:
        all_of(connection, "SET work_mem = '123kB'")
        connection.reset()
        equal(all_of(connection, "SELECT current_setting('work_mem') <> '123kB'"), [(True,)])


def encodings(place):
    with connect(place) as connection:
        connection.set_client_encoding("LATIN1")
        for _ in range(2):
            equal(all_of(connection, "SELECT %s, length(%s)", ("grüße", "grüße")), [("grüße", 5)])
        equal(connection.encoding, "LATIN1")


def process_id(place):
    with connect(place) as connection:
        equal(all_of(connection, "SELECT pg_backend_pid()"), [(connection.info.backend_pid,)])


def lastval(place):
    """As MySQL's habits and PHP's lastInsertId() have it: the connection serves others between the two."""
    with connect(place) as connection, connect(place) as other:
        all_of(connection, "INSERT INTO notes (id) VALUES (960)")
        # Whoever holds the connection now keeps it from the first client's next statement.
        other.autocommit = False
        all_of(other, "SELECT 1")
        found = all_of(connection, "SELECT lastval() = max(number) FROM notes WHERE id = 960")
        all_of(connection, "DELETE FROM notes WHERE id = 960")
        equal(found, [(True,)])


def pool_of_connections(place):
    pool = ThreadedConnectionPool(4, 6, conninfo(place))

    def work(i):
        connection = pool.getconn()
        try:
            connection.autocommit = True
            return all_of(connection, "SELECT note, %s FROM notes WHERE id = 1", [i])
        finally:
            pool.putconn(connection)
    try:
        with ThreadPoolExecutor(6) as threads:
            equal(list(threads.map(work, range(60))), [[(SITE["tenant"], i)] for i in range(60)])
    finally:
        pool.closeall()


run([rows_are_its_own, parameters, prepared_reuse, transactions, isolation_levels, errors, copy, cursors, held_and_scrolling_cursors, large_objects,
     encodings, reset_of_a_pool, listen_notify, cancel, pool_of_connections, process_id, lastval])
