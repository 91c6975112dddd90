"""A store: every request runs in a transaction of its own, and for some customers the personalization takes its time."""

import os
import time
from functools import wraps

from flask import Flask, jsonify

from holdfast import DeadlineExceeded
from holdfast.clients import postgres
from holdfast.servers.wsgi import Shield

SCALE = float(os.environ["SCALE"])  # the replay's times are this much shorter than the incident's
DATABASE = os.environ["DATABASE_URL"]

app = Flask(__name__)
database = postgres.connect(DATABASE, autocommit=True)


def transactional(view):
    @wraps(view)
    def inside(**arguments):
        global database
        if database.closed:
            database = postgres.connect(DATABASE, autocommit=True)
        with database.transaction():
            return view(**arguments)

    return inside


def personalize(customer):
    pages = 40 if customer.startswith("slow") else 1  # of the customer's history
    score = 0
    for page in range(pages):
        score += database.execute("SELECT price FROM items WHERE id = %s", (1 + page,)).fetchone()[0]
        time.sleep(0.25 / SCALE)
    return score


@app.get("/items/<int:item>")
@transactional
def show(item):
    name, price = database.execute("SELECT name, price FROM items WHERE id = %s", (item,)).fetchone()
    return jsonify(name=name, price=price)


@app.post("/orders/<customer>/<request>")
@transactional
def order(customer, request):
    placed = "INSERT INTO orders (customer, request) VALUES (%s, %s) RETURNING id"
    number = database.execute(placed, (customer, request)).fetchone()[0]
    score = personalize(customer)
    for item in range(1, 4):
        database.execute("INSERT INTO order_lines (order_id, item_id, score) VALUES (%s, %s, %s)", (number, item, score))
    return jsonify(order=number)


@app.errorhandler(DeadlineExceeded)
def late(error):
    return "too late", 504  # for Flask, which would log a traceback; what the client gets is the shield's answer


app.wsgi_app = Shield(app.wsgi_app, deadline=1.0 / SCALE)  # the SLA
