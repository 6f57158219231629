"""psql."""
import os, signal, subprocess, time
from checks import LIMIT_SECONDS, ROWS, SITE, channel, conninfo, equal, insert, run

# The program itself, not a distribution's chooser of versions.
PSQL = f"{os.environ['DRIVERS_PROGRAMS']}/psql"


def psql(place, *arguments, tenant=None, text=None):
    command = [PSQL, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", conninfo(place, tenant), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=LIMIT_SECONDS)


def lines(place, text, tenant=None):
    """The script's output, which must have succeeded."""
    done = psql(place, tenant=tenant, text=text)
    equal((done.returncode, done.stderr), (0, ""))
    return done.stdout.splitlines()


def rows_are_its_own(place):
    for tenant in (SITE["neighbour"], SITE["tenant"]):
        lines(place, f"DELETE FROM notes; {insert(tenant)};", tenant)
    for tenant in (SITE["tenant"], SITE["neighbour"]):
        equal(lines(place, "SELECT note FROM notes", tenant), [tenant] * ROWS)


def tls_as_asked(place):
    # What it says of TLS has changed from version to version.
    done = psql(place, "-v", "ON_ERROR_STOP=0", text="\\conninfo\n")
    equal("SSL connection (" in done.stdout or "SSL Connection|true" in done.stdout, place["tls"])


def wrong_password(place):
    done = subprocess.run([PSQL, "-X", conninfo(place) + " password=wrong"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    equal((done.returncode, "password authentication failed" in done.stderr), (2, True))


def several_statements(place):
    equal(lines(place, "SELECT 1\\; SELECT 2;\nSELECT repeat('x', 100000) || 'y';"), ["1", "2", "x" * 100000 + "y"])


def prepared_reuse(place):
    equal(lines(place, "PREPARE add AS SELECT $1::int + 1;\nEXECUTE add(1);\nEXECUTE add(2);\nSELECT $$a$$ AS a \\gdesc"), ["2", "3", "a|text"])


def transactions(place):
    text = "BEGIN; INSERT INTO notes (id) VALUES (900); SAVEPOINT s; INSERT INTO notes (id) VALUES (901); ROLLBACK TO s;\n"
    equal(lines(place, text + "SELECT id FROM notes WHERE id >= 900; ROLLBACK; SELECT count(*) FROM notes WHERE id >= 900;"), ["900", "0"])


def errors(place):
    done = psql(place, "-v", "ON_ERROR_STOP=0", "-v", "VERBOSITY=verbose", text="SELECT 1/0;\nBEGIN;\nnonsense;\nSELECT 1;\nROLLBACK;\nSELECT 7;")
    equal(done.stdout, "7\n")
    for code in ("22012", "42601", "25P02"):
        equal((code, code in done.stderr), (code, True))


def copy(place):
    text = "BEGIN;\nCREATE TEMP TABLE t (a int, b text);\nCOPY t FROM STDIN;\n1\tone\n2\ttwo\n\\.\nCOPY t TO STDOUT;\nROLLBACK;"
    equal(lines(place, text), ["1\tone", "2\ttwo"])
    text = "BEGIN;\nCREATE TEMP TABLE t (a int);\nCOPY t FROM STDIN;\nnone\n\\.\n"
    equal("22P02" in psql(place, "-v", "VERBOSITY=verbose", text=text).stderr, True)
    # A client-side failure: the copy is ended by CopyFail.
    done = psql(place, "-v", "ON_ERROR_STOP=0", text="BEGIN;\nCREATE TEMP TABLE t (a int);\n\\copy t from '/nonexistent'\nROLLBACK;\nSELECT 8;")
    equal(done.stdout.splitlines()[-1:], ["8"])


def state_of_a_session(place):
    text = "SET work_mem = '123kB';\nCREATE TEMP TABLE t AS SELECT 5 AS a;\nSELECT a FROM t;\nSHOW work_mem;\nSELECT 1;\nSHOW work_mem;"
    equal(lines(place, text), ["5", "123kB", "1", "123kB"])


def listen_notify(place):
    name = channel("psql", place)
    out = lines(place, f"LISTEN {name};\nNOTIFY {name}, 'hello';\nSELECT 1;")
    equal(any(f'notification "{name}" with payload "hello"' in line for line in out), True)


def fetches_in_pieces(place):
    equal(len(lines(place, "\\set FETCH_COUNT 100\nSELECT generate_series(1, 1050);")), 1050)


def meta_commands(place):
    out = "\n".join(lines(place, "\\d notes\n\\dt\n\\df pg_catalog.now\nSELECT 6 AS six \\gset\nSELECT :six;"))
    equal(("notes" in out, out.splitlines()[-1]), (True, "6"))


def extended_protocol(place):
    """\\bind came with psql 16, pipelines with 18."""
    if major() >= 16:
        equal(lines(place, "SELECT $1::int + $2::int \\bind 3 4 \\g\nSELECT 1 \\bind \\g"), ["7", "1"])
    if major() >= 18:
        text = "\\startpipeline\nSELECT $1 \\parse one\n\\bind_named one 'a' \\sendpipeline\nSELECT 2 \\bind \\sendpipeline\n\\endpipeline\nSELECT 3;"
        equal(lines(place, text), ["a", "2", "3"])


def major():
    return int(subprocess.run([PSQL, "--version"], capture_output=True, text=True).stdout.split()[2].split(".")[0])


def newest_protocol(place):
    """Protocol 3.2 is spoken where both sides know it; its cancel keys are longer."""
    if major() < 18:
        return
    done = subprocess.run([PSQL, "-X", "-A", "-t", conninfo(place) + " max_protocol_version=3.2", "-c", "\\conninfo", "-c", "SELECT 1"],
                          capture_output=True, text=True, timeout=LIMIT_SECONDS)
    equal((done.returncode, done.stderr), (0, ""))
    spoken = "3.2" if place["isolation"] != "direct" or SITE["server"] >= 18 else "3.0"
    equal(f"Protocol Version|{spoken}" in done.stdout, True)


def cancel(place):
    command = [PSQL, "-X", "-v", "VERBOSITY=verbose", conninfo(place), "-c", "SELECT pg_sleep(60)"]
    started = time.monotonic()
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    marked = f"SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active' AND datname = current_database()"
    while lines(place, marked) == ["0"] and time.monotonic() - started < LIMIT_SECONDS:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=LIMIT_SECONDS)
    equal("57014" in error, True)


run([rows_are_its_own, tls_as_asked, wrong_password, several_statements, prepared_reuse, transactions, errors, copy, state_of_a_session, listen_notify, fetches_in_pieces,
     meta_commands, extended_protocol, newest_protocol, cancel])
