"""Django: its ORM over psycopg 3, with kept connections, their health checks, server-side cursors, bindings and pools."""
from concurrent.futures import ThreadPoolExecutor
from django_site import alias, configure, note_model
from checks import NEIGHBOUR, ROWS, TENANT, equal, run

configure("django.db.backends.postgresql", {
    " bound": {"server_side_binding": True},
    " pooled": {"pool": {"min_size": 1, "max_size": 4}},
    " serializable": {"isolation_level": 4},
})
from django.db import DataError, IntegrityError, connections, transaction
from django.db.models import Count, F, TextField, Value
from django.db.models.functions import Concat

Note = note_model()
KINDS = ("", " bound", " pooled")


def closing(check):
    """Connections are kept from request to request, but not from place to place."""
    def checked(place):
        try:
            check(place)
        finally:
            for kind in ("", " bound", " pooled", " serializable"):
                connections[alias(place, TENANT, kind)].close()
            if "pool" in connections[alias(place, TENANT, " pooled")].settings_dict["OPTIONS"]:
                connections[alias(place, TENANT, " pooled")].close_pool()
            connections[alias(place, NEIGHBOUR)].close()
    checked.__name__ = check.__name__
    return checked


def notes(place, kind="", tenant=TENANT):
    return Note.objects.using(alias(place, tenant, kind))


@closing
def rows_are_its_own(place):
    for tenant in (NEIGHBOUR, TENANT):
        notes(place, tenant=tenant).all().delete()
        notes(place, tenant=tenant).bulk_create([Note(key=i + 1, note=tenant) for i in range(ROWS)])
    for tenant in (TENANT, NEIGHBOUR):
        equal(list(notes(place, tenant=tenant).values_list("note", flat=True)), [tenant] * ROWS)


@closing
def queries(place):
    for kind in KINDS:
        found = notes(place, kind)
        equal(list(found.filter(key__in=[1, 2], note__startswith=TENANT[:3]).annotate(n=Concat("note", Value("x"), output_field=TextField())).values_list("n", flat=True)), [TENANT + "x"] * 2)
        equal(found.aggregate(n=Count("key"))["n"], ROWS)
        equal(found.filter(note=None).exists(), False)
        connection = connections[alias(place, TENANT, kind)]
        equal(connection.timezone_name, "UTC")
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s::jsonb->>'a', current_setting('TimeZone')", ['{"a": "b"}'])
            equal(cursor.fetchone(), ("b", "UTC"))


@closing
def requests_in_transactions(place):
    for kind in KINDS:
        using = alias(place, TENANT, kind)
        for _ in range(3):
            with transaction.atomic(using=using):
                made = notes(place, kind).create(key=900, note="new")
                try:
                    with transaction.atomic(using=using):
                        notes(place, kind).create(key=901)
                        Note(key="none").save(using=using)
                except (DataError, ValueError):
                    pass
                try:
                    with transaction.atomic(using=using):
                        notes(place, kind).create(number=made.number, key=902)
                except IntegrityError:
                    pass
                notes(place, kind).filter(key=900).update(key=F("key") + 5)
                notes(place, kind).select_for_update().get(number=made.number)
                equal(list(notes(place, kind).filter(key__gte=900).values_list("key", flat=True)), [905])
                transaction.set_rollback(True, using=using)
            equal(notes(place, kind).filter(key__gte=900).count(), 0)


@closing
def server_side_cursors(place):
    """Outside a transaction they are WITH HOLD."""
    for kind in KINDS:
        using = alias(place, TENANT, kind)
        with transaction.atomic(using=using):
            notes(place, kind).bulk_create([Note(key=1000 + i) for i in range(1500)], batch_size=400)
            equal(sum(1 for _ in notes(place, kind).filter(key__gte=1000).iterator(chunk_size=200)), 1500)
            transaction.set_rollback(True, using=using)
        equal(sum(1 for _ in notes(place, kind).iterator(chunk_size=2)), ROWS)
        first = next(iter(notes(place, kind).order_by("key").iterator(chunk_size=1)))
        equal(first.key, 1)


@closing
def isolation_level_of_a_connection(place):
    connection = connections[alias(place, TENANT, " serializable")]
    for _ in range(3):
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute("SHOW transaction_isolation")
            equal(cursor.fetchone(), ("serializable",))


@closing
def health_checks_between_requests(place):
    connection = connections[alias(place)]
    for _ in range(4):
        # What the end and the beginning of a request do.
        connection.close_if_unusable_or_obsolete()
        connection.health_check_done = False
        equal(notes(place).count(), ROWS)
    equal(connection.is_usable(), True)


@closing
def introspection(place):
    connection = connections[alias(place)]
    with connection.cursor() as cursor:
        equal("notes" in connection.introspection.table_names(cursor), True)
        equal({"number", "id", "note"} - {column.name for column in connection.introspection.get_table_description(cursor, "notes")}, set())


@closing
def many_threads(place):
    def work(i):
        tenant = TENANT if i % 2 else NEIGHBOUR
        try:
            return {notes(place, tenant=tenant).get(key=1).note for _ in range(10)}
        finally:
            connections[alias(place, tenant)].close()
    count = 16 if place["mode"] == "transaction" else 6
    with ThreadPoolExecutor(count) as threads:
        equal(list(threads.map(work, range(count))), [{TENANT if i % 2 else NEIGHBOUR} for i in range(count)])


run([rows_are_its_own, queries, requests_in_transactions, server_side_cursors, isolation_level_of_a_connection, health_checks_between_requests,
     introspection, many_threads])
