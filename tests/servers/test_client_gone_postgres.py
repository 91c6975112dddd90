"""A client that goes away while its request waits for PostgreSQL: the statement ends, and its transaction with it."""

import psycopg
import pytest
from serving import eventually, serve
from test_deadline_servers import Site

from holdfast.replay.parts.postgres import postgres_server
from holdfast.replay.parts.process import Unavailable

APP = """
import os
from holdfast.clients import postgres
from holdfast.servers.wsgi import Shield

def note(text):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(text + "\\n")

def app(environ, start_response):
    try:
        with postgres.connect(os.environ["DATABASE_URL"]) as connection:
            connection.execute("INSERT INTO orders VALUES (1)")
            connection.execute("SELECT pg_sleep(30)")
    except BaseException as error:
        note(f"{type(error).__name__}: {error}")
        raise
    start_response("200 OK", [])
    return [b"ok"]

app = Shield(app, deadline=30)
"""


@pytest.mark.realtime
@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_the_statement_of_a_client_that_has_gone_ends_and_is_rolled_back(kind, tmp_path, monkeypatch):
    try:
        database = postgres_server()
        server = database.__enter__()
    except Unavailable as missing:
        pytest.fail(str(missing))
    open_now = "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND usename IS NOT NULL"
    asleep = f"{open_now} AND wait_event = 'PgSleep'"
    try:
        with psycopg.connect(server.url, autocommit=True) as look:
            look.execute("CREATE TABLE orders (id int)")
            monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
            monkeypatch.setenv("DATABASE_URL", server.url)
            site = Site(serve(kind, tmp_path, APP), tmp_path / "notes")
            with site.served.process:
                # Cancelling has a twentieth of a second, which a busy machine may take away: then it would be for the server's timer.
                for tries in range(1, 6):
                    site.leave("/", lambda: look.execute(asleep).fetchone() == (1,))
                    assert eventually(
                        lambda tries=tries: site.notes.exists() and site.notes.read_text().count("the client has gone") == tries
                    )
                    if eventually(lambda: look.execute(open_now).fetchone() == (0,), 3):
                        break
                    look.execute(f"SELECT pg_terminate_backend(pid) {open_now.removeprefix('SELECT count(*) ')}")
                else:
                    pytest.fail("the statement went on each time")
                assert look.execute("SELECT count(*) FROM orders").fetchone() == (0,)
    finally:
        database.__exit__(None, None, None)
