"""What holdfast does, for who watches it: metrics and log lines, made from `holdfast.events` and from snapshots.

    from holdfast.observe import logging, prometheus

    stop = prometheus.install()      # metrics on prometheus_client's registry
    logging.install()                # a line for what matters
    stop()                           # takes them off again

| file | what |
|---|---|
| `metrics` | every metric: name, kind, unit, labels |
| `readings` | what an event and a snapshot say in metrics |
| `prometheus`, `multiprocess` | for prometheus_client, also with several processes |
| `otel` | for OpenTelemetry's API: metrics, and events on the current span |
| `logging` | for the standard library's logging |
"""
