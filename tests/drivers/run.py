#!/usr/bin/env python3
"""Unmodified drivers against every kind of place: `make drivers`; with --quick psql and one driver each of Python and
JavaScript.

Starts `pgtenant demo`, adds by command one module for each isolation, pooling and pool mode to it, and a tenant (and its
neighbour) in all of them. Then each driver's program makes the same checks on every module, with and without TLS. Drivers
come from their registries into target/drivers; a driver whose tool is missing is named and left out. Exit status 1 if any
check fails.
"""
import argparse, json, os, re, shutil, signal, subprocess, sys, tempfile, time, venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KEPT = ROOT / "target" / "drivers"
PYTHON = ["psycopg[binary]==3.3.*", "psycopg2-binary==2.9.*", "asyncpg==0.32.*"]
NODE = ["pg@8", "postgres@3"]
DRIVERS = {  # name: (tool, program)
    "psql": ("psql", "with_psql.py"),
    "psycopg": ("python", "with_psycopg.py"),
    "psycopg2": ("python", "with_psycopg2.py"),
    "asyncpg": ("python", "with_asyncpg.py"),
    "node-postgres": ("node", "with_pg.mjs"),
    "postgres.js": ("node", "with_postgres.mjs"),
}
QUICK = ["psql", "psycopg", "node-postgres"]
PLACES = [("database", "per-tenant"), ("schema", "per-tenant"), ("shared", "per-tenant"), ("schema", "shared"), ("shared", "shared")]
TENANT, NEIGHBOUR = "drivers", "neighbour"
PROGRAM_SECONDS_MAX = 900


def say(text):
    print(text, file=sys.stderr, flush=True)


def tools(wanted):
    """What runs each kind of program; None, with the reason said, where it cannot be had."""
    found = {"psql": sys.executable if shutil.which("psql") else None}
    if not found["psql"]:
        say("skipped: psql (not installed)")
    kinds = {DRIVERS[name][0] for name in wanted}
    if "python" in kinds:
        found["python"] = python()
    if "node" in kinds:
        found["node"] = node()
    return found


def python():
    home = KEPT / "venv"
    interpreter = home / "bin" / "python"
    try:
        if not interpreter.exists():
            venv.create(home, with_pip=True)
        install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PYTHON]
        subprocess.run(install, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return missing("psycopg, psycopg2, asyncpg", "pip", error)
    return str(interpreter)


def node():
    if not (shutil.which("node") and shutil.which("npm")):
        say("skipped: node-postgres, postgres.js (node or npm is not installed)")
        return None
    home = KEPT / "node"
    home.mkdir(parents=True, exist_ok=True)
    try:
        if not all((home / "node_modules" / name.split("@")[0]).is_dir() for name in NODE):
            (home / "package.json").write_text("{}")
            install = ["npm", "install", "--silent", "--no-audit", "--no-fund", *NODE]
            subprocess.run(install, check=True, cwd=home, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return missing("node-postgres, postgres.js", "npm", error)
    return "node"


def missing(names, tool, error):
    said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
    say(f"skipped: {names} ({tool} could not install them: {said[-1] if said else error})")
    return None


class Site:
    """The demo, with a module for each kind of place."""

    def __init__(self, pgtenant, files):
        self.pgtenant, self.files = pgtenant, files
        self.log = open(files / "demo.log", "w+")
        self.demo = subprocess.Popen([pgtenant, "demo", "--port", str(free_port())], stdout=subprocess.PIPE, stderr=self.log, text=True)
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

    def furnish(self):
        """The modules and tenants; returns what the programs are to connect to."""
        user, password, host, port = re.match(r"postgres://(\w+):(\w+)@([^:/]+):(\d+)/", self.registry).groups()
        secret = self.files / "secret.json"
        secret.touch(mode=0o600)
        secret.write_text(json.dumps({"admin_username": user, "admin_password": password,
                                      "app_username": "drivers_service", "app_password": "of the service"}))
        reference = f"file:{secret}"
        self.run("server", "add", "drivers", "--host", host, "--port", port, "--admin-secret", reference, "--app-secret", reference)
        modules = {}
        for isolation, pooling in PLACES:
            for mode in ("session", "transaction"):
                name = f"{isolation}_{pooling}_{mode}".replace("-", "_")
                migrations = self.files / name
                migrations.mkdir()
                column = "tenant_id uuid NOT NULL, " if isolation == "shared" else ""
                (migrations / "0001_notes.sql").write_text(f"CREATE TABLE notes ({column}id int NOT NULL, note text)")
                self.run("module", "add", name, "--isolation", isolation, "--pooling", pooling, "--pool-mode", mode, "--server", "drivers",
                         "--database", f"common_{name}", "--pool-size", "8", "--migrations", str(migrations))
                modules[name] = {"isolation": isolation, "pooling": pooling, "mode": mode}
        made = {}
        for slug in (TENANT, NEIGHBOUR):
            printed = self.run("tenant", "create", slug, "--name", slug, "--modules", ",".join(modules), "--json")
            made[slug] = json.loads(printed)["password"]
        address, port = self.proxy.split(":")
        places = [{"module": name, "tls": tls, **kind} for name, kind in modules.items() for tls in (False, True)]
        return {"host": address, "port": int(port), "passwords": made, "tenant": TENANT, "neighbour": NEIGHBOUR, "places": places}


def free_port():
    import socket
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_driver(name, tool, site):
    """The checks of one driver: {(place, check): None or what went wrong}."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "DRIVERS_SITE": json.dumps(site),
                   "DRIVERS_NODE": str(KEPT / "node" / "node_modules")}
    for key in [key for key in environment if key.startswith("PG") and not key.startswith("PGTENANT")]:
        del environment[key]
    try:
        done = subprocess.run([tool, HERE / DRIVERS[name][1]], env=environment, capture_output=True, text=True, timeout=PROGRAM_SECONDS_MAX)
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


def show(driver, results, places):
    """One line a check: how many places it held on."""
    checks = list(dict.fromkeys(check for _, check in results))
    for check in checks:
        outcomes = {place: error for (place, found), error in results.items() if found == check}
        failed = {place: error for place, error in outcomes.items() if error}
        print(f"  {'FAILED' if failed else 'ok':6} {driver:14} {check:26} {len(outcomes) - len(failed)}/{len(outcomes)} places")
        for place, error in failed.items():
            print(f"         {place}: {error}")
    return sum(bool(error) for error in results.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--only", action="append", choices=list(DRIVERS), help="only this driver; may be repeated")
    parser.add_argument("--pgtenant", default=str(ROOT / "target" / "debug" / "pgtenant"), help="the program [default: target/debug/pgtenant]")
    given = parser.parse_args()
    wanted = given.only or (QUICK if given.quick else list(DRIVERS))
    found = tools(wanted)
    wanted = [name for name in wanted if found.get(DRIVERS[name][0])]
    if not wanted:
        say("no driver to try")
        return 0
    failures = 0
    with tempfile.TemporaryDirectory(prefix="pgtenant-drivers-") as directory:
        # The demo's PostgreSQL and the proxy may run as different users; only the secret in it is private.
        os.chmod(directory, 0o755)
        with Site(given.pgtenant, Path(directory)) as demo:
            say("making a tenant in ten places …")
            site = demo.furnish()
            for name in wanted:
                say(f"{name} …")
                started = time.monotonic()
                results = run_driver(name, found[DRIVERS[name][0]], site)
                failures += show(name, results, site["places"])
                say(f"{name}: {len(results)} checks in {time.monotonic() - started:.0f} s")
            if demo.demo.poll() is not None:
                print(f"  FAILED the proxy ended with {demo.demo.returncode}")
                failures += 1
    print(f"{failures} failed" if failures else "all held")
    return 1 if failures else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
