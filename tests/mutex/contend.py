"""One of the processes that contend for a lock: it takes it again and again, and writes to a guarded table with its token.

Arguments: store's URL, database's URL, rounds in all, ttl in seconds. While it is in the lock it sometimes stops itself (SIGSTOP) for
longer than the ttl; the test wakes it.
"""

from __future__ import annotations

import os
import random
import signal
import sys

import psycopg

import holdfast


def main(store: str, database: str, rounds: int, ttl: float) -> None:
    rng = random.Random(os.getpid())
    with psycopg.connect(database, autocommit=True) as table:
        while True:
            try:
                with holdfast.lock("guarded", ttl, store, wait=10.0) as held:
                    done = table.execute("select value from guarded").fetchone()[0]
                    if done >= rounds:
                        return
                    if rng.random() < 0.05:
                        os.kill(os.getpid(), signal.SIGSTOP)  # past the ttl: the lock is another's when this goes on
                    written = table.execute(
                        "with guard as (update guarded set value = value + 1, token = %(token)s where token < %(token)s returning value)"
                        " insert into journal (token, value) select %(token)s, (select value from guard) returning token",
                        {"token": held.token},
                    ).fetchone()
                    assert written is not None
            except (holdfast.LockOverrun, holdfast.LockTaken, holdfast.StoreUnavailable):
                continue


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
