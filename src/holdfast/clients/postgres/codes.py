"""What PostgreSQL's error codes (SQLSTATE) say about the server, and about doing the same again."""

from __future__ import annotations

from holdfast.outcome import FAILURE, SUCCESS, Verdict

# Appendix A of PostgreSQL's documentation. By class: connection, insufficient resources, operator intervention without those that are
# about one statement, system error, internal error.
_SERVER_FAILS = ("08", "53", "57P01", "57P02", "57P03", "57P05", "58", "XX")

QUERY_CANCELED = "57014"

# The transaction was rolled back, and doing all of it again is what PostgreSQL asks for (chapter 13.5).
_TRY_AGAIN = ("40001", "40P01")

# In what a server says that refuses a connection; psycopg has the text only. It may be in another language, and then it is tried again.
_FOR_GOOD = ("authentication failed", "does not exist", "no pg_hba.conf entry", "permission denied", "not permitted to log in")

# In what libpq says, in its last attempt, of a server that cannot prove itself, or of our own side of TLS.
_NO_TLS = (
    "certificate verify failed",
    "does not match host name",
    "certificate file",
    "private key file",
    "SSL was required",
    "weak sslmode",
)


def judge_code(code: str) -> tuple[Verdict, bool]:
    """How an answered error counts, and whether the whole transaction may be done again."""
    if code.startswith(_SERVER_FAILS):
        return FAILURE, True
    if code == QUERY_CANCELED:
        return FAILURE, False
    return SUCCESS, code in _TRY_AGAIN


def is_for_good(message: str) -> bool:
    """Whether a server refused a connection in a way that trying again does not change: wrong password, no such database."""
    return "FATAL" in message and any(text in message for text in _FOR_GOOD)


def lacks_trust(message: str) -> bool:
    """Whether no connection was made for reasons of TLS which trying again does not change: a wrong certificate, or none."""
    said = message.rpartition(" failed: ")[2]
    return any(text in said for text in _NO_TLS)
