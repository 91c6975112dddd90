"""Work that is asked for twice and done once: for requests by their `Idempotency-Key`, for messages by their id.

| file | what |
|---|---|
| `store` | what a store promises: `Store`, `Claim`, and for async code `AsyncStore`, `AsyncClaim` |
| `memory`, `redis`, `sql` | the stores |
| `keys`, `answers` | pure: the key, whose it is, what request it stands for; which answers are kept, and in which form |
| `part`, `wsgi`, `asgi` | `Idempotency`, and the applications it surrounds |
| `inbox` | the same for consumers of messages |
"""
