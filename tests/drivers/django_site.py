"""What both Django programs share: one alias of a database for each place and tenant, and a model of its table."""
import django
from django.conf import settings
from checks import NEIGHBOUR, SITE, TENANT, database, name, parameters, sslmode


def alias(place, tenant=TENANT, kind=""):
    return f"{name(place)} {tenant}{kind}"


def described(engine, place, tenant, **options):
    login = parameters(place, tenant)
    options = {"sslmode": sslmode(place), "connect_timeout": 20, **options}
    return {"ENGINE": engine, "HOST": login["host"], "PORT": login["port"], "USER": login["user"], "PASSWORD": login["password"],
            "NAME": database(place, tenant), "OPTIONS": options, "CONN_MAX_AGE": 0 if "pool" in options else None, "CONN_HEALTH_CHECKS": True}


def configure(engine, kinds, **more):
    """`kinds` are further aliases of each place, with options of their own."""
    databases = {"default": {"ENGINE": engine, "NAME": "none"}}
    for place in SITE["places"]:
        for tenant in (TENANT, NEIGHBOUR):
            databases[alias(place, tenant)] = described(engine, place, tenant)
        for kind, options in kinds.items():
            databases[alias(place, TENANT, kind)] = described(engine, place, TENANT, **options)
    settings.configure(DATABASES=databases, INSTALLED_APPS=["django.contrib.contenttypes"], USE_TZ=True, TIME_ZONE="Asia/Tokyo", **more)
    django.setup()


def note_model():
    from django.db import models

    class Note(models.Model):
        number = models.BigAutoField(primary_key=True)
        key = models.IntegerField(db_column="id")
        note = models.TextField(null=True)

        class Meta:
            managed, app_label, db_table = False, "drivers", "notes"

    return Note
