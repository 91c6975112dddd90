"""A shop's checkout: authorization, the items, their prices, and at last the tax, which billing knows."""

import hashlib
import os
import time

import psycopg
import requests
from flask import Flask, abort, jsonify, request

from holdfast import Breaker, Policy
from holdfast.clients.requests import Session
from holdfast.observe import prometheus
from holdfast.servers.wsgi import Shield

BILLING = os.environ["BILLING_URL"]

app = Flask(__name__)
database = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
billing = Policy(
    "billing",
    deadline=2.0,
    attempt_timeout=1.0,
    breaker=Breaker(consecutive=3, open_for=1.0, open_for_max=2.0, probe_share=1.0, max_probes=1, probes_to_close=2),
)
http = Session(policy=billing)
app.wsgi_app = Shield(app.wsgi_app, deadline=3.0, requires={"/checkout": billing})
prometheus.install()
steps = os.open(os.environ["STEPS_FILE"], os.O_WRONLY | os.O_APPEND)  # what the replay counts


def step(name):
    os.write(steps, f"{time.monotonic():.6f} {name}\n".encode())


def authorize(token):
    step("authorized")
    given = hashlib.sha256(token.encode()).hexdigest()
    customer = database.execute("SELECT name FROM customers WHERE token_hash = %s", (given,)).fetchone()
    if customer is None:
        abort(401)
    return customer[0]


def priced(items):
    step("priced")
    return round(sum(price * 0.97**discount for price, discount in items), 2)


@app.errorhandler(requests.RequestException)
def unavailable(error):
    return jsonify(error="billing is not available"), 503


@app.post("/checkout")
def checkout():
    customer = authorize(request.headers["Authorization"])
    step("queried")
    items = database.execute("SELECT price, discount FROM items LIMIT 100").fetchall()
    price = priced(items)
    step("asked")
    answer = http.post(f"{BILLING}/tax", json={"price": price})
    answer.raise_for_status()
    return jsonify(customer=customer, total=price + answer.json()["tax"])
