"""Billing: taxes, by rates that are made from the database's tables before the first request is served."""

import json
import os
import time
from pathlib import Path

from flask import Flask, jsonify, request

from holdfast.servers import Readiness
from holdfast.servers.wsgi import Shield

RATES = Path(os.environ["CACHE_DIR"]) / "rates.json"  # shared by the workers, and gone with the container

app = Flask(__name__)


def make_rates():
    tables = []
    for _ in range(10):  # 100 MB, in 1.5 s
        tables.append(b"\x07" * (10 * 2**20))
        time.sleep(0.15)
    half = RATES.with_suffix(f".{os.getpid()}")
    half.write_text(json.dumps({"tea": 0.07, "pots": 0.19}))
    half.rename(RATES)


app.wsgi_app = Shield(app.wsgi_app, deadline=1.0, readiness=Readiness(warm_up=[make_rates]))


def rates():
    return json.loads(RATES.read_text())


@app.post("/tax")
def tax():
    price = request.get_json()["price"]
    return jsonify(tax=price * rates()["tea"])
