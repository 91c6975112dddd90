"""A shop on Flask behind the shield.

gunicorn -c python:holdfast.servers.gunicorn -w 4 flask_shop:app
gunicorn -c python:holdfast.servers.gunicorn -k gthread --threads 8 flask_shop:app
"""

import time

from flask import Flask, request

import holdfast
from holdfast import Breaker, Policy
from holdfast.servers import Admission, Idempotency, MemoryStore, Readiness
from holdfast.servers.wsgi import Shield

billing = Policy("billing", deadline=0.5, breaker=Breaker(min_calls=20))
app = Flask(__name__)
app.config["PROPAGATE_EXCEPTIONS"] = True  # to the shield, which answers; else Flask logs each deadline with its traceback


@app.get("/")
def hello():
    return {"hello": "world"}


@app.get("/slow")
def slow():
    until = time.monotonic() + 30
    while time.monotonic() < until:  # stopped at the deadline in a sync worker, whatever it does
        holdfast.check()  # and in a thread, because it asks
        time.sleep(0.01)
    return {"never": "sent"}


@app.post("/orders")
def order():
    return {"ordered": request.json["item"], "left": holdfast.remaining()}


app.wsgi_app = Shield(
    app.wsgi_app,
    deadline={"/": 1.0, "/reports": 20.0},
    requires={"/orders": [billing]},
    admission=Admission(limit=50, priority={"/": "normal", "/orders": "critical"}),
    idempotency=Idempotency(MemoryStore()),  # of one process; for several workers RedisStore or SQLStore
    readiness=Readiness(drain=0.5),
)
