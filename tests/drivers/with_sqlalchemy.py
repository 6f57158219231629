"""SQLAlchemy: its core and ORM over psycopg, psycopg2 and asyncpg, with the pools and resets that it comes with."""
import asyncio, ssl
from concurrent.futures import ThreadPoolExecutor
from sqlalchemy import BigInteger, Identity, String, create_engine, event, func, insert as insert_into, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from checks import NEIGHBOUR, ROWS, TENANT, equal, insert, run, schema, url


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    number: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    id: Mapped[int]
    note: Mapped[str | None] = mapped_column(String)


class engine:
    """An engine on one driver, disposed of at the end."""

    def __init__(self, place, driver, tenant=None, **more):
        arguments = {"sslmode": "require" if place["tls"] else "disable", **more.pop("connect_args", {})}
        self.engine = create_engine(url(place, tenant, f"postgresql+{driver}"), connect_args=arguments, **more)

    def __enter__(self):
        return self.engine

    def __exit__(self, *_):
        self.engine.dispose()


SYNCHRONOUS = ("psycopg", "psycopg2")


def on_each(check):
    """A check with each of the synchronous drivers."""
    def checked(place):
        for driver in SYNCHRONOUS:
            check(place, driver)
    checked.__name__ = check.__name__
    return checked


@on_each
def rows_are_its_own(place, driver):
    for tenant in (NEIGHBOUR, TENANT):
        with engine(place, driver, tenant) as there, there.begin() as connection:
            connection.execute(text("DELETE FROM notes"))
            connection.execute(text(insert(tenant)))
    for tenant in (TENANT, NEIGHBOUR):
        with engine(place, driver, tenant) as there, Session(there) as session:
            equal(session.scalars(select(Note.note)).all(), [tenant] * ROWS)


@on_each
def units_of_work(place, driver):
    with engine(place, driver) as there, Session(there) as session:
        made = [Note(id=900 + i, note="x" * i) for i in range(50)]
        session.add_all(made)
        session.flush()
        equal(len({note.number for note in made}), 50)
        made[0].note = "changed"
        nested = session.begin_nested()
        session.add(Note(id=960))
        session.flush()
        nested.rollback()
        session.expire_all()
        equal(session.scalar(select(Note.note).where(Note.id == 900)), "changed")
        equal(session.scalar(select(func.count()).where(Note.id >= 900)), 50)
        session.execute(select(Note).where(Note.id == 901).with_for_update())
        session.rollback()
        equal(session.scalar(select(func.count()).select_from(Note).where(Note.id >= 900)), 0)


@on_each
def many_rows_at_once(place, driver):
    with engine(place, driver) as there, there.connect() as connection:
        returned = connection.execute(insert_into(Note).returning(Note.id), [{"id": 1000 + i} for i in range(2500)])
        equal(sorted(returned.scalars()), list(range(1000, 3500)))
        connection.rollback()


@on_each
def streams(place, driver):
    with engine(place, driver) as there, there.connect() as connection:
        rows = connection.execution_options(stream_results=True, max_row_buffer=100).execute(text("SELECT generate_series(1, 3000)"))
        equal(sum(len(part) for part in rows.partitions(250)), 3000)


@on_each
def isolation_levels(place, driver):
    with engine(place, driver) as there:
        for level in ("SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"):
            with there.connect().execution_options(isolation_level=level) as connection:
                expected = "read committed" if level == "AUTOCOMMIT" else level.lower()
                equal(connection.scalar(text("SHOW transaction_isolation")), expected)
        with there.connect() as connection:
            equal(connection.scalar(text("SHOW transaction_isolation")), "read committed")


@on_each
def errors(place, driver):
    with engine(place, driver) as there, there.connect() as connection:
        for _ in range(3):
            try:
                connection.execute(text("SELECT 1 / :n"), {"n": 0})
            except DBAPIError as error:
                equal(error.orig.sqlstate if driver == "psycopg" else error.orig.pgcode, "22012")
                connection.rollback()
            else:
                raise AssertionError("no error")
        equal(connection.scalar(text("SELECT 1")), 1)


@on_each
def pool_of_connections(place, driver):
    """Checked before each use, reset after it."""
    size = 12 if place["mode"] == "transaction" else 4
    with engine(place, driver, pool_size=size, max_overflow=0, pool_pre_ping=True) as there, ThreadPoolExecutor(size) as threads:
        def work(i):
            with Session(there) as session:
                return session.scalar(select(Note.note + str(i)).where(Note.id == 1))
        equal(list(threads.map(work, range(150))), [f"{TENANT}{i}" for i in range(150)])


@on_each
def a_path_for_each_checkout(place, driver):
    """What applications with a schema a tenant do; in a pool the path is set whenever a connection is taken out of it."""
    with engine(place, driver, pool_size=2) as there:
        @event.listens_for(there, "checkout")
        def sets_path(connection, _record, _proxy):
            with connection.cursor() as cursor:
                cursor.execute(f'SET search_path TO "{schema(place)}", public')
            connection.commit()
        for _ in range(5):
            with there.connect() as connection:
                equal(connection.scalar(select(Note.note).where(Note.id == 1)), TENANT)
                equal(connection.scalar(text("SHOW search_path")), f'{schema(place)}, public'.replace('"', ""))


@on_each
def reflection(place, driver):
    from sqlalchemy import inspect
    with engine(place, driver) as there:
        columns = inspect(there).get_columns("notes", schema=schema(place))
        equal({"number", "id", "note"} - {column["name"] for column in columns}, set())


def events_reset_the_session(place):
    """The documented recipe: DISCARD ALL when a connection returns to the pool."""
    with engine(place, "psycopg", pool_size=1, max_overflow=0, pool_reset_on_return=None) as there:
        @event.listens_for(there, "reset")
        def discards(connection, _record, _state):
            connection.rollback()
            connection.autocommit = True
            connection.execute("DISCARD ALL")
            connection.autocommit = False
        for i in range(4):
            with there.connect() as connection:
                equal(connection.scalar(text("SELECT current_setting('a.b', true)")) or None, None)
                connection.execute(text("SET a.b = 'mine'"))
                connection.commit()
                equal(connection.scalar(text("SELECT current_setting('a.b')")), "mine")


async def asynchronous(place):
    context = False
    if place["tls"]:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    there = create_async_engine(url(place, None, "postgresql+asyncpg"), connect_args={"ssl": context}, pool_size=6, max_overflow=0)
    try:
        async def work(i):
            async with there.connect() as connection:
                return await connection.scalar(select(Note.note + str(i)).where(Note.id == 1))
        equal(await asyncio.gather(*(work(i) for i in range(60))), [f"{TENANT}{i}" for i in range(60)])
        async with there.connect() as connection:
            count = 0
            async for _ in await connection.stream(text("SELECT generate_series(1, 500)")):
                count += 1
            equal(count, 500)
    finally:
        await there.dispose()


run([rows_are_its_own, units_of_work, many_rows_at_once, streams, isolation_levels, errors, pool_of_connections, a_path_for_each_checkout,
     reflection, events_reset_the_session, asynchronous])
