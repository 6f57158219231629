"""django-tenants: before each cursor, or once a request, it sets search_path to the tenant's schema and public."""
from concurrent.futures import ThreadPoolExecutor
from django_site import alias, configure, note_model
from checks import NEIGHBOUR, ROWS, TENANT, equal, run, schema

configure("django_tenants.postgresql_backend", {}, TENANT_LIMIT_SET_CALLS=False)
from django.conf import settings
from django.db import connections, transaction
from django_tenants.utils import schema_context

Note = note_model()


class request:
    """One request of a tenant: the path is set at its beginning and left at its end, as the middleware does."""

    def __init__(self, place, tenant=TENANT):
        self.connection, self.schema = connections[alias(place, tenant)], schema(place, tenant)
        self.notes = Note.objects.using(self.connection.alias)

    def __enter__(self):
        self.connection.set_schema(self.schema)
        return self.notes

    def __exit__(self, *_):
        self.connection.set_schema_to_public()

    def path(self):
        with self.connection.cursor() as cursor:
            cursor.execute("SHOW search_path")
            return cursor.fetchone()[0]


def closing(check):
    """Each check with the path set before every cursor, and with the path set only when it changes."""
    def checked(place):
        for limited in (False, True):
            settings.TENANT_LIMIT_SET_CALLS = limited
            try:
                check(place)
            finally:
                connections[alias(place)].close()
                connections[alias(place, NEIGHBOUR)].close()
    checked.__name__ = check.__name__
    return checked


@closing
def rows_are_its_own(place):
    for tenant in (NEIGHBOUR, TENANT):
        with request(place, tenant) as notes:
            notes.all().delete()
            notes.bulk_create([Note(key=i + 1, note=tenant) for i in range(ROWS)])
    for _ in range(3):
        for tenant in (TENANT, NEIGHBOUR):
            with request(place, tenant) as notes:
                equal(list(notes.values_list("note", flat=True)), [tenant] * ROWS)


@closing
def the_path_is_the_requests_own(place):
    made = request(place)
    with made as notes:
        paths = [made.schema] if made.schema == "public" else [made.schema, "public"]
        for _ in range(3):
            equal([part.strip().strip('"') for part in made.path().split(",")], paths)
            equal(notes.count(), ROWS)


@closing
def transactions(place):
    made = request(place)
    for _ in range(3):
        with made as notes, transaction.atomic(using=made.connection.alias):
            notes.create(key=900)
            with transaction.atomic(using=made.connection.alias):
                notes.create(key=901)
                transaction.set_rollback(True, using=made.connection.alias)
            equal(list(notes.filter(key__gte=900).values_list("key", flat=True)), [900])
            transaction.set_rollback(True, using=made.connection.alias)
        with made as notes:
            equal(notes.filter(key__gte=900).count(), 0)


@closing
def a_rollback_takes_the_path_along(place):
    """The path may be set inside the transaction that fails."""
    made = request(place)
    for _ in range(3):
        with made as notes:
            try:
                with transaction.atomic(using=made.connection.alias):
                    notes.create(key=900)
                    raise KeyError
            except KeyError:
                equal(notes.count(), ROWS)


@closing
def server_side_cursors(place):
    with request(place) as notes:
        equal([note.note for note in notes.iterator(chunk_size=1)], [TENANT] * ROWS)


@closing
def contexts(place):
    """`schema_context`, as commands and tasks use it; it goes back to where the default alias is."""
    made = request(place)
    for _ in range(3):
        with schema_context(made.schema, database=made.connection.alias):
            equal(made.notes.count(), ROWS)


@closing
def requests_of_both_tenants_in_many_threads(place):
    def work(i):
        tenant = TENANT if i % 2 else NEIGHBOUR
        try:
            seen = set()
            for _ in range(8):
                with request(place, tenant) as notes:
                    seen |= set(notes.values_list("note", flat=True))
            return seen
        finally:
            connections[alias(place, tenant)].close()
    count = 16 if place["mode"] == "transaction" else 6
    with ThreadPoolExecutor(count) as threads:
        equal(list(threads.map(work, range(count))), [{TENANT if i % 2 else NEIGHBOUR} for i in range(count)])


run([rows_are_its_own, the_path_is_the_requests_own, transactions, a_rollback_takes_the_path_along, server_side_cursors, contexts,
     requests_of_both_tenants_in_many_threads])
