"""An application for gunicorn whose workers are measured together."""

import os

import prometheus_client

from holdfast import Backoff, Breaker, Bulkhead, Policy, Retry
from holdfast.observe import prometheus

prometheus.install(pools=[])

billing = Policy("billing", retry=Retry(backoff=Backoff(base=0.0)), breaker=Breaker(), bulkhead=Bulkhead(5))


def app(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        body = prometheus_client.generate_latest(prometheus.scrape_registry(pools=["observed"]))
    elif environ["PATH_INFO"] == "/trip":
        billing.breaker.force_open()
        body = str(os.getpid()).encode()
    else:
        body = str(billing.call(os.getpid)).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
