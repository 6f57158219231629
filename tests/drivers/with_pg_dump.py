"""pg_dump and pg_restore: everything in one snapshot, in parallel too, COPY out and in."""
import os, re, subprocess, tempfile
from pathlib import Path
from checks import NEIGHBOUR, TENANT, conninfo, equal, run, schema

PROGRAMS = Path(os.environ["DRIVERS_PROGRAMS"])
MANY = 2000


def program(name, *arguments):
    done = subprocess.run([PROGRAMS / name, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    equal((name, done.returncode, done.stderr), (name, 0, ""))
    return done.stdout


def ask(place, sql, tenant=TENANT):
    return program("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", conninfo(place, tenant), "-c", sql).strip()


def furnish(place):
    for tenant in (NEIGHBOUR, TENANT):
        ask(place, "DELETE FROM notes", tenant)
        ask(place, f"INSERT INTO notes (id, note) SELECT i, '{tenant} \\t ' || i FROM generate_series(1, {MANY}) i", tenant)


def selection(place):
    """A tenant dumps what is its own; with row-level security it sees its own rows only, and PostgreSQL has no COPY into such a table."""
    chosen = ["-d", conninfo(place), "--no-owner", "--no-privileges", "-t", f'"{schema(place)}".notes']
    return chosen + (["--enable-row-security", "--inserts", "--rows-per-insert=500", "--column-inserts"] if place["isolation"] == "shared" else [])


def is_ahead(place):
    """Whether these programs set what the server does not know: a time-out that came with version 17."""
    own = int(re.search(r"(\d+)", program("pg_restore", "--version"))[1])
    return own >= 17 and int(ask(place, "SHOW server_version_num")) < 170000


def restore(place, ahead, *arguments):
    arguments = ["-d", conninfo(place), "--data-only", *arguments]
    if not ahead:
        return program("pg_restore", "--exit-on-error", *arguments)
    # It says so, and goes on.
    done = subprocess.run([PROGRAMS / "pg_restore", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    complaints = set(re.findall(r"ERROR:  (.*)", done.stderr))
    equal((done.returncode, complaints), (1, {'unrecognized configuration parameter "transaction_timeout"'}))


def dumps_its_own_rows_as_text(place):
    furnish(place)
    dump = program("pg_dump", *selection(place))
    equal(("CREATE TABLE" in dump, len(re.findall(rf"{TENANT} ", dump)), NEIGHBOUR in dump), (True, MANY, False))


def dumps_and_restores(place):
    """Every format, restored as data: a tenant's login makes no tables."""
    ahead = is_ahead(place)
    before = ask(place, "SELECT count(*), md5(string_agg(note, ',' ORDER BY id)) FROM notes")
    with tempfile.TemporaryDirectory() as directory:
        for options, more in ((["-Fc"], []), (["-Ft"], []), (["-Fd", "-j", "2"], ["-j", "2"]), (["-Fc"], ["--single-transaction"])):
            if ahead and more == ["--single-transaction"]:
                continue  # There it cannot go on.
            file = f"{directory}/dump{len(os.listdir(directory))}"
            program("pg_dump", *selection(place), *options, "-f", file)
            ask(place, "DELETE FROM notes")
            row_security = ["--enable-row-security"] if place["isolation"] == "shared" else []
            restore(place, ahead, *row_security, *more, file)
            equal(ask(place, "SELECT count(*), md5(string_agg(note, ',' ORDER BY id)) FROM notes"), before)
    equal(ask(place, "SELECT DISTINCT split_part(note, ' ', 1) FROM notes", NEIGHBOUR), NEIGHBOUR)


def the_session_is_left_as_it_was(place):
    """pg_dump sets the path to nothing, row_security off and time-outs to 0: the next client finds none of it."""
    program("pg_dump", *selection(place))
    shown = "SELECT current_setting('search_path') <> '', current_setting('row_security'), count(*) > 0 FROM notes"
    equal(ask(place, shown), "t|on|t")


run([dumps_its_own_rows_as_text, dumps_and_restores, the_session_is_left_as_it_was])
