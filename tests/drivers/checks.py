"""What the Python programs share: the site, and one JSON line for each check."""
import asyncio, inspect, json, os, traceback

SITE = json.loads(os.environ["DRIVERS_SITE"])
ROWS = 3
LIMIT_SECONDS = 30


def name(place):
    return f"{place['module']}{' TLS' if place['tls'] else ''}"


def sslmode(place):
    return "require" if place["tls"] else "disable"


def parameters(tenant=None):
    tenant = tenant or SITE["tenant"]
    return {"host": SITE["host"], "port": SITE["port"], "user": f"app@{tenant}", "password": SITE["passwords"][tenant]}


def conninfo(place, tenant=None):
    given = {**parameters(tenant), "dbname": place["module"], "sslmode": sslmode(place), "connect_timeout": 20}
    return " ".join(f"{key}='{value}'" for key, value in given.items())


def insert(tenant):
    """Rows 1…ROWS of a tenant. Nothing says whose they are: that is the connection's."""
    return f"INSERT INTO notes (id, note) SELECT i, '{tenant}' FROM generate_series(1, {ROWS}) i"


def equal(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")


def report(place, check, error):
    print(json.dumps({"place": name(place), "check": check, "error": error}), flush=True)


def shown(error):
    last = traceback.extract_tb(error.__traceback__)[-1]
    here = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if "with_" in f.filename), last)
    return f"{type(error).__name__} in line {here.lineno}: {str(error).strip()}"


def run(checks):
    """Every check on every place; `checks` are functions of one place, named for what they hold."""
    for place in SITE["places"]:
        for check in checks:
            error = None
            try:
                if inspect.iscoroutinefunction(check):
                    asyncio.run(asyncio.wait_for(check(place), LIMIT_SECONDS))
                else:
                    check(place)
            except Exception as failure:
                error = shown(failure)
            report(place, check.__name__, error)
