"""psql."""
import signal, subprocess, time
from checks import LIMIT_SECONDS, ROWS, SITE, conninfo, equal, insert, run


def psql(place, *arguments, tenant=None, text=None):
    command = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", conninfo(place, tenant), *arguments]
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
    done = psql(place, text="\\conninfo\n")
    equal("SSL connection" in done.stdout, place["tls"])


def wrong_password(place):
    done = subprocess.run(["psql", "-X", conninfo(place) + " password=wrong"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
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


def state_of_a_session(place):
    text = "SET work_mem = '123kB';\nCREATE TEMP TABLE t AS SELECT 5 AS a;\nSELECT a FROM t;\nSHOW work_mem;\nSELECT 1;\nSHOW work_mem;"
    equal(lines(place, text), ["5", "123kB", "1", "123kB"])


def listen_notify(place):
    channel = f"psql_{place['module']}_{place['tls']}".lower()
    out = lines(place, f"LISTEN {channel};\nNOTIFY {channel}, 'hello';\nSELECT 1;")
    equal(any(f'notification "{channel}" with payload "hello"' in line for line in out), True)


def cancel(place):
    command = ["psql", "-X", "-v", "VERBOSITY=verbose", conninfo(place), "-c", "SELECT pg_sleep(60)"]
    started = time.monotonic()
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    marked = f"SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active' AND datname = current_database()"
    while lines(place, marked) == ["0"] and time.monotonic() - started < LIMIT_SECONDS:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=LIMIT_SECONDS)
    equal("57014" in error, True)


run([rows_are_its_own, tls_as_asked, wrong_password, several_statements, prepared_reuse, transactions, errors, copy, state_of_a_session, listen_notify, cancel])
