#!/usr/bin/env python3
"""Unmodified drivers against every kind of place: `make drivers`; with --quick psql and one driver each of Python and
JavaScript.

Starts `pgtenant demo`, adds by command one module for each isolation, pooling and pool mode to it, and a tenant (and its
neighbour) in all of them. Then each driver's program makes the same checks on every module, with and without TLS, and on
PostgreSQL itself without pgtenant: a check that fails there says nothing of pgtenant, and counts as failed, too. Drivers come
from their registries into target/drivers; one that cannot be had is named and left out. Exit status 1 if any check fails that
is not one of DIFFERENT.
"""
import argparse, json, os, re, signal, subprocess, sys, tempfile, time
from pathlib import Path
from tools import HERE, ROOT, say, tool

DRIVERS = {  # name: (kind of tool, program)
    "psql": ("programs", "with_psql.py"),
    "psql 18": ("programs-18", "with_psql.py"),
    "pg_dump": ("programs", "with_pg_dump.py"),
    "pg_dump 18": ("programs-18", "with_pg_dump.py"),
    "psycopg": ("python", "with_psycopg.py"),
    "psycopg2": ("python", "with_psycopg2.py"),
    "asyncpg": ("python", "with_asyncpg.py"),
    "SQLAlchemy": ("python", "with_sqlalchemy.py"),
    "Django": ("python", "with_django.py"),
    "django-tenants": ("python", "with_django_tenants.py"),
    "node-postgres": ("node", "with_pg.mjs"),
    "postgres.js": ("node", "with_postgres.mjs"),
    "tokio-postgres": ("cargo", None),
    "pgjdbc": ("java", "WithJdbc.java"),
}
QUICK = ["psql", "psycopg", "node-postgres"]
# What transaction mode cannot do, by check: why. README.md says so to users.
DIFFERENT = {
    "process_id": "the process that serves a client changes from transaction to transaction; the id that clients are told is pgtenant's own",
    "lastval": "an INSERT does not show that lastval() will be asked for in a later transaction, on a connection that others may have used since",
}
PLACES = [("database", "per-tenant"), ("schema", "per-tenant"), ("shared", "per-tenant"), ("schema", "shared"), ("shared", "shared")]
TENANT, NEIGHBOUR = "drivers", "neighbour"
PROGRAM_SECONDS_MAX = 1200


class Site:
    """The demo, with a module for each kind of place, and databases that are reached without pgtenant."""

    def __init__(self, pgtenant, files, programs):
        self.pgtenant, self.files = pgtenant, files
        self.log = open(files / "demo.log", "w+")
        environment = {**os.environ, **({"PGTENANT_PG_BIN": programs} if programs else {})}
        command = [pgtenant, "demo", "--port", str(free_port())]
        self.demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        self.registry = self.proxy = None
        for line in self.demo.stdout:
            found = re.search(r"PGTENANT_REGISTRY='(\S+)' PGTENANT_PROXY=(\S+)", line)
            if found:
                self.registry, self.proxy = found.groups()
            if line.startswith("Ctrl-C"):
                break
        if not self.registry:
            self.log.seek(0)
            raise SystemExit(f"the demo did not start: {self.log.read()}")
        self.user, self.password, self.host, self.port = re.match(r"postgres://(\w+):(\w+)@([^:/]+):(\d+)/", self.registry).groups()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.demo.send_signal(signal.SIGINT)
        try:
            self.demo.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.demo.kill()
        self.log.close()

    def run(self, *arguments):
        environment = {**os.environ, "PGTENANT_REGISTRY": self.registry, "PGTENANT_PROXY": self.proxy}
        done = subprocess.run([self.pgtenant, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"pgtenant {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def admin(self, database, *statements):
        """Statements of the superuser on PostgreSQL itself; what psql prints."""
        environment = {**os.environ, "PGPASSWORD": self.password}
        command = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.host, "-p", self.port, "-U", self.user, "-d", database]
        text = ";\n".join(statements)
        return subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    def furnish(self):
        """The modules and tenants; returns what the programs are to connect to."""
        secret = self.files / "secret.json"
        secret.touch(mode=0o600)
        secret.write_text(json.dumps({"admin_username": self.user, "admin_password": self.password,
                                      "app_username": "drivers_service", "app_password": "of the service"}))
        reference = f"file:{secret}"
        self.run("server", "add", "drivers", "--host", self.host, "--port", self.port, "--sslmode", "disable",
                 "--admin-secret", reference, "--app-secret", reference)
        modules = {}
        for isolation, pooling in PLACES:
            for mode in ("session", "transaction"):
                name = f"{isolation}_{pooling}_{mode}".replace("-", "_")
                migrations = self.files / name
                migrations.mkdir()
                column = "tenant_id uuid NOT NULL, " if isolation == "shared" else ""
                (migrations / "0001_notes.sql").write_text(f"CREATE TABLE notes ({column}{COLUMNS})")
                self.run("module", "add", name, "--isolation", isolation, "--pooling", pooling, "--pool-mode", mode, "--server", "drivers",
                         "--database", f"common_{name}", "--pool-size", "8", "--migrations", str(migrations))
                modules[name] = {"isolation": isolation, "pooling": pooling, "mode": mode}
        made = {}
        for slug in (TENANT, NEIGHBOUR):
            made[slug] = json.loads(self.run("tenant", "create", slug, "--name", slug, "--modules", ",".join(modules), "--json"))
        address, port = self.proxy.split(":")
        places = self.direct()
        for module, kind in modules.items():
            logins = {}
            for slug, tenant in made.items():
                schema = next(place["schema"] for place in tenant["modules"] if place["module"] == module)
                logins[slug] = {"user": f"app@{slug}", "password": tenant["password"], "database": module, "schema": schema or "public"}
            if kind["isolation"] == "shared":
                # pg_dump and pg_restore read and set sequences, which tenants of common tables may not unless they are let.
                self.admin(f"common_{module}", f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema or 'public'} TO PUBLIC")
            for tls in (False, True):
                places.append({"name": module, "host": address, "port": int(port), "tls": tls, "logins": logins, **kind})
        return {"tenant": TENANT, "neighbour": NEIGHBOUR, "places": places}

    def direct(self):
        """The same two tenants on PostgreSQL itself, with the rights that pgtenant gives."""
        logins = {}
        for slug in (TENANT, NEIGHBOUR):
            database, role = f"direct_{slug}", f"direct_{slug}"
            self.admin("postgres", f"CREATE ROLE {role} LOGIN PASSWORD '{slug}'", f"CREATE DATABASE {database}")
            self.admin(database, f"CREATE TABLE notes ({COLUMNS})", f"GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO {role}",
                       f"GRANT ALL ON SEQUENCE notes_number_seq TO {role}")
            logins[slug] = {"user": role, "password": slug, "database": database, "schema": "public"}
        kind = {"isolation": "direct", "pooling": "none", "mode": "session", "host": self.host, "port": int(self.port), "logins": logins}
        return [{"name": "PostgreSQL", "tls": tls, **kind} for tls in (False, True) if not tls or self.has_tls()]

    def has_tls(self):
        """PostgreSQL's own TLS, switched on where its build and the machine allow."""
        make = "openssl req -new -x509 -nodes -days 2 -subj /CN=localhost -out server.crt -keyout server.key 2>/dev/null"
        try:
            self.admin("postgres", f"COPY (SELECT 1) TO PROGRAM '{make}'", "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
            for _ in range(50):
                if self.admin("postgres", "SHOW ssl") == "on":
                    return True
                time.sleep(0.1)
            reason = "it does not take the certificate"
        except subprocess.CalledProcessError as error:
            reason = error.stderr.strip()
        say(f"PostgreSQL itself is tried without TLS only: {reason}")
        return False


COLUMNS = "number bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, id int NOT NULL, note text"


def free_port():
    import socket
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_driver(name, found, site):
    """The checks of one driver: {(place, check): None or what went wrong}."""
    site = {**site, "places": [place for place in site["places"] if found.tls or not place["tls"]]}
    environment = {**os.environ, **found.environment, "PYTHONDONTWRITEBYTECODE": "1", "DRIVERS_SITE": json.dumps(site), "DRIVERS_LINES": lines(site)}
    for key in [key for key in environment if key.startswith("PG")]:
        del environment[key]
    program = DRIVERS[name][1]
    command = found.command + ([str(HERE / program)] if program else [])
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROGRAM_SECONDS_MAX)
        output, error, status = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        output, error, status = (late.stdout or b"").decode(), f"still running after {PROGRAM_SECONDS_MAX} s", 1
    results = {}
    for line in output.splitlines():
        result = json.loads(line)
        results[result["place"], result["check"]] = result["error"]
    if status or not results:
        results["-", "program"] = error.strip() or f"ended with {status}"
    return results


def lines(site):
    """The places for a language whose library reads no JSON: one a line, each part after a tab."""
    def line(place):
        logins = [place["logins"][tenant][key] for tenant in (TENANT, NEIGHBOUR) for key in ("user", "password", "database")]
        return "\t".join([shown(place), place["isolation"], place["mode"], str(place["tls"]), place["host"], str(place["port"]), *logins])
    return "\n".join(map(line, site["places"]))


class Count:
    """How many checks there were, and what became of them."""

    def __init__(self):
        self.direct = self.session = self.transaction = self.different = self.failed = 0

    def show(self, driver, results, places):
        """One line a check: how many places it held on."""
        modes = {shown(place): place["mode"] if place["isolation"] != "direct" else "direct" for place in places}
        for check in dict.fromkeys(check for _, check in results):
            outcomes = {place: error for (place, found), error in results.items() if found == check}
            expected = {place for place, error in outcomes.items() if error and check in DIFFERENT and modes.get(place) == "transaction"}
            failed = {place: error for place, error in outcomes.items() if error and place not in expected}
            if check in DIFFERENT:
                # What is documented as different must be so: else the README is wrong.
                failed.update({place: f"holds, although {DIFFERENT[check]}" for place, error in outcomes.items()
                               if not error and modes.get(place) == "transaction"})
            for place in outcomes:
                mode = modes.get(place, "session")
                setattr(self, mode, getattr(self, mode) + 1)
            self.different += len(expected)
            self.failed += len(failed)
            note = f", as documented not on {len(expected)}" if expected else ""
            print(f"  {'FAILED' if failed else 'ok':6} {driver:14} {check:34} {len(outcomes) - len(failed) - len(expected)}/{len(outcomes)} places{note}")
            for place, error in failed.items():
                print(f"         {place}: {error}")

    def __str__(self):
        return (f"{self.direct + self.session + self.transaction} checks: {self.direct} on PostgreSQL itself, {self.session} in session mode, "
                f"{self.transaction} in transaction mode; {self.different} differ as documented, {self.failed} failed")


def shown(place):
    return f"{place['name']}{' TLS' if place['tls'] else ''}"


def postgres_18():
    found = subprocess.run([ROOT / "packaging" / "find-postgres", "18"], capture_output=True, text=True)
    return found.stdout.strip() or None


def try_server(programs, given, tools, count):
    """All drivers against one version of PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="pgtenant-drivers-") as directory:
        # The demo's PostgreSQL and the proxy may run as different users; only the secret in it is private.
        os.chmod(directory, 0o755)
        with Site(given.pgtenant, Path(directory), programs) as demo:
            server = demo.admin("postgres", "SHOW server_version").split()[0]
            say(f"PostgreSQL {server}: making a tenant in ten places …")
            site = demo.furnish()
            site["server"] = int(server.split(".")[0])
            if given.quick:
                # Each kind of place once, every other one with TLS.
                names = list(dict.fromkeys(place["name"] for place in site["places"]))
                site["places"] = [place for place in site["places"] if names.index(place["name"]) % 2 == place["tls"]]
            for name, found in tools.items():
                if name.startswith("pg_dump") and int(found.version.split(".")[0]) < site["server"]:
                    say(f"skipped: {name} (refuses servers newer than {found.version})")
                    continue
                started = time.monotonic()
                results = run_driver(name, found, site)
                print(f"{name} {found.version} with PostgreSQL {server}: {len(results)} checks in {time.monotonic() - started:.0f} s")
                count.show(name, results, site["places"])
                sys.stdout.flush()
            if demo.demo.poll() is not None:
                print(f"  FAILED the proxy ended with {demo.demo.returncode}")
                count.failed += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}, each kind of place once, and one PostgreSQL: 18 where it is found")
    parser.add_argument("--only", action="append", choices=list(DRIVERS), help="only this driver; may be repeated")
    parser.add_argument("--server", choices=["own", "18"], help="only the machine's own PostgreSQL, or only 18 [default: both]")
    parser.add_argument("--pgtenant", default=str(ROOT / "target" / "debug" / "pgtenant"), help="the program [default: target/debug/pgtenant]")
    given = parser.parse_args()
    tools = {name: tool(DRIVERS[name][0], name) for name in given.only or (QUICK if given.quick else list(DRIVERS))}
    tools = {name: found for name, found in tools.items() if found}
    if not tools:
        say("no driver to try")
        return 0
    newer = None if given.server == "own" else postgres_18()
    if not newer and given.server != "own":
        say("skipped: PostgreSQL 18 (not found; 'make postgres-18' fetches it)")
        if given.server == "18":
            return 1
    only_newer = newer and (given.quick or given.server == "18")
    count = Count()
    for programs in [newer] if only_newer else [None, newer] if newer else [None]:
        try_server(programs, given, tools, count)
    print(count)
    return 1 if count.failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
