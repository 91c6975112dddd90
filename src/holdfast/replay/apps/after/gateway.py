"""A shop's gateway: its customers' tokens are checked by an authorization provider, its partners' API keys in its own database."""

import hashlib
import os

import psycopg
import requests
from flask import Flask, abort, jsonify, request

from holdfast import Breaker, Bulkhead, Policy
from holdfast.clients.requests import Session
from holdfast.observe import prometheus

AUTHORIZATION = os.environ["AUTHORIZATION_URL"]
SCALE = float(os.environ["SCALE"])  # the replay's times are this much shorter than the incident's

app = Flask(__name__)
database = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
authorization = Policy(
    "authorization",
    deadline=1.5 / SCALE,
    attempt_timeout=1.0 / SCALE,
    breaker=Breaker(
        min_calls=5,  # each worker sees a tenth of the calls
        window=30.0 / SCALE,
        open_for=5.0 / SCALE,
        open_for_max=10.0 / SCALE,
        probe_share=0.5,
        probes_to_close=2,
    ),
    bulkhead=Bulkhead(7, across="host"),  # of the 10 workers
)
http = Session(policy=authorization)
prometheus.install()


def authorize(token):
    answer = http.get(f"{AUTHORIZATION}/authorize", headers={"Authorization": token})
    answer.raise_for_status()
    return answer.json()["customer"]


@app.errorhandler(requests.RequestException)
def unavailable(error):
    return jsonify(error="authorization is not available"), 503


@app.get("/cart")
def cart():
    customer = authorize(request.headers["Authorization"])
    return jsonify(customer=customer, items=3)


@app.get("/stock")
def stock():
    given = hashlib.sha256(request.headers["X-Api-Key"].encode()).hexdigest()
    partner = database.execute("SELECT name FROM partners WHERE key_hash = %s", (given,)).fetchone()
    if partner is None:
        abort(401)
    return jsonify(partner=partner[0], stock=42)
