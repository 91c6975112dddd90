"""A shop's gateway: its customers' tokens are checked by an authorization provider, its partners' API keys in its own database."""

import hashlib
import os

import psycopg
import requests
from flask import Flask, abort, jsonify, request

AUTHORIZATION = os.environ["AUTHORIZATION_URL"]

app = Flask(__name__)
database = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
http = requests.Session()


def authorize(token):
    answer = http.get(f"{AUTHORIZATION}/authorize", headers={"Authorization": token})
    answer.raise_for_status()
    return answer.json()["customer"]


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
