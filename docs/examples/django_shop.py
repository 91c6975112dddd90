"""A shop on Django, in one file, behind the shield. In a project of your own the last lines go into its `wsgi.py`.

gunicorn -c python:holdfast.servers.gunicorn -w 4 django_shop:app
gunicorn -c python:holdfast.servers.gunicorn -k gthread --threads 8 django_shop:app
"""

import json
import secrets
import time

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

import holdfast
from holdfast import Breaker, Policy
from holdfast.servers import Admission, Idempotency, MemoryStore, Readiness
from holdfast.servers.wsgi import Shield

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY=secrets.token_hex(), ALLOWED_HOSTS=["127.0.0.1", "localhost"])
django.setup()

billing = Policy("billing", deadline=0.5, breaker=Breaker(min_calls=20))


def hello(request):
    return JsonResponse({"hello": "world"})


def slow(request):
    until = time.monotonic() + 30
    while time.monotonic() < until:  # stopped at the deadline in a sync worker, whatever it does
        holdfast.check()  # and in a thread, because it asks
        time.sleep(0.01)
    return JsonResponse({"never": "sent"})


def order(request):
    return JsonResponse({"ordered": json.loads(request.body)["item"], "left": holdfast.remaining()})


urlpatterns = [path("", hello), path("slow", slow), path("orders", order)]

app = Shield(
    get_wsgi_application(),
    deadline={"/": 1.0, "/reports": 20.0},
    requires={"/orders": [billing]},
    admission=Admission(limit=50, priority={"/": "normal", "/orders": "critical"}),
    idempotency=Idempotency(MemoryStore()),  # of one process; for several workers RedisStore or SQLStore
    readiness=Readiness(drain=0.5),
)
