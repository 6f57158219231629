"""What the Python programs share: the site, and one JSON line for each check."""
import asyncio, inspect, json, os, sys, traceback

SITE = json.loads(os.environ["DRIVERS_SITE"])
TENANT, NEIGHBOUR = SITE["tenant"], SITE["neighbour"]
ROWS = 3
LIMIT_SECONDS = 30


def name(place):
    return f"{place['name']}{' TLS' if place['tls'] else ''}"


def sslmode(place):
    return "require" if place["tls"] else "disable"


def channel(driver, place):
    """For notifications: places may share a database."""
    return f"{driver}_{place['name']}_{place['tls']}".lower()


def login(place, tenant):
    return place["logins"][tenant or TENANT]


def parameters(place, tenant=None):
    return {"host": place["host"], "port": place["port"], "user": login(place, tenant)["user"], "password": login(place, tenant)["password"]}


def database(place, tenant=None):
    return login(place, tenant)["database"]


def schema(place, tenant=None):
    return login(place, tenant)["schema"]


def conninfo(place, tenant=None):
    given = {**parameters(place, tenant), "dbname": database(place, tenant), "sslmode": sslmode(place), "connect_timeout": 20}
    return " ".join(f"{key}='{value}'" for key, value in given.items())


def url(place, tenant=None, scheme="postgresql"):
    given = parameters(place, tenant)
    user = given["user"].replace("@", "%40")
    return f"{scheme}://{user}:{given['password']}@{given['host']}:{given['port']}/{database(place, tenant)}"


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


def through_pgtenant(check):
    """A check of what PostgreSQL alone does not have."""
    check.proxied = True
    return check


def run(checks, places=None):
    """Every check on every place; `checks` are functions of one place, named for what they hold."""
    only = sys.argv[1:]
    for place in places or SITE["places"]:
        for check in checks:
            if (place["isolation"] == "direct" and hasattr(check, "proxied")) or (only and check.__name__ not in only):
                continue
            error = None
            try:
                if inspect.iscoroutinefunction(check):
                    asyncio.run(asyncio.wait_for(check(place), LIMIT_SECONDS))
                else:
                    check(place)
            except Exception as failure:
                error = shown(failure)
            report(place, check.__name__, error)
