"""Billing: taxes, by rates that are made from the database's tables when the first request needs them."""

import json
import os
import time
from pathlib import Path

from flask import Flask, jsonify, request

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


def rates():
    if not RATES.exists():
        make_rates()
    return json.loads(RATES.read_text())


@app.post("/tax")
def tax():
    price = request.get_json()["price"]
    return jsonify(tax=price * rates()["tea"])
