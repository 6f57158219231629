"""psycopg2: libpq, simple protocol throughout."""
import io, select, threading
from concurrent.futures import ThreadPoolExecutor
import psycopg2
from psycopg2 import errors as sql
from psycopg2.extras import execute_values
from psycopg2.pool import ThreadedConnectionPool
from checks import ROWS, SITE, conninfo, equal, insert, run


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
    channel = f"psycopg2_{place['module']}_{place['tls']}".lower()
    with connect(place) as listener, connect(place) as sender:
        all_of(listener, f"LISTEN {channel}")
        all_of(sender, f"NOTIFY {channel}, 'hello'")
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


run([rows_are_its_own, parameters, prepared_reuse, transactions, errors, copy, cursors, listen_notify, cancel, pool_of_connections])
