"""What is known of Redis commands: which do no harm when they are done twice, and how long they may wait for something to happen.

Done twice without harm are reads, and writes that leave the same behind however often they are done: SET and DEL, not INCR, LPUSH or
XADD. A SET with NX or GET answers differently the second time, and scripts do what they like, so neither is among them; who knows better
names the command in `repeatable=`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from contextvars import ContextVar

from holdfast.clients.operation import Operation
from holdfast.clients.redis.errors import NOT_BEGUN, judge
from holdfast.outcome import Verdict

IDEMPOTENT = frozenset(
    """
    BITCOUNT BITFIELD_RO BITPOS DBSIZE DEL DUMP ECHO EVALSHA_RO EVAL_RO EXISTS EXPIREAT EXPIRETIME FCALL_RO GEODIST GEOHASH GEOPOS
    GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT GETRANGE HDEL HEXISTS HGET HGETALL HKEYS HLEN HMGET HMSET HRANDFIELD HSCAN HSET
    HSTRLEN HVALS INFO KEYS LCS LINDEX LLEN LPOS LRANGE LSET MGET MSET PERSIST PEXPIREAT PEXPIRETIME PFADD PFCOUNT PFMERGE PING PSETEX
    PTTL RANDOMKEY SADD SCAN SCARD SDIFF SDIFFSTORE SETBIT SETEX SETRANGE SINTER SINTERCARD SINTERSTORE SISMEMBER SMEMBERS SMISMEMBER
    SORT_RO SRANDMEMBER SREM SSCAN STRLEN SUBSTR SUNION SUNIONSTORE TIME TOUCH TTL TYPE UNLINK UNWATCH XINFO XLEN XPENDING XRANGE XREAD
    XREVRANGE XTRIM ZCARD ZCOUNT ZDIFF ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANGESTORE ZRANK
    ZREM ZREMRANGEBYLEX ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION ZUNIONSTORE
    """.split()  # noqa: SIM905  (a table of 110 words is read better so)
) | {"SCRIPT EXISTS", "SCRIPT LOAD"}

# SET and ZADD with one of these do not leave the same behind, or do not answer the same.
_CONDITIONS = {"SET": {"NX", "GET"}, "ZADD": {"NX", "INCR", "CH"}}

# Where they say how long to wait: the argument's place, and its unit in seconds.
_WAITS: dict[str, tuple[int, float]] = {
    **dict.fromkeys(("BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BZPOPMIN", "BZPOPMAX"), (-1, 1.0)),
    **dict.fromkeys(("BLMPOP", "BZMPOP"), (1, 1.0)),
    **dict.fromkeys(("WAIT", "WAITAOF"), (-1, 0.001)),
}
_STREAMS = ("XREAD", "XREADGROUP")


class Command(Operation):
    """One command, or a pipeline of them.

    Args:
        repeatable: whether it may be done again although it may have run.
        waits: seconds that it may wait for something to happen; math.inf for ever.
    """

    __slots__ = ("sent", "waits")

    def __init__(self, *, repeatable: bool, waits: float = 0.0) -> None:
        super().__init__(judge, repeatable=repeatable)
        self.waits = waits
        self.sent = False  # a byte of it went out, in this attempt

    def error(self, error: Exception) -> tuple[Verdict, bool]:
        """See `Reading.error`."""
        verdict, again = super().error(error)
        if not self.sent or isinstance(error, NOT_BEGUN):
            again = self._worth_it(error)
        return verdict, again


# What this code does, for the connections below: they know when the first byte goes out, and how long to wait for an answer.
running: ContextVar[Command | None] = ContextVar("holdfast.redis", default=None)


def command_of(args: Sequence[object], also: Collection[str]) -> Command:
    """Read a command as redis-py has it; `also` are the names of those that the user calls repeatable."""
    name = str(args[0]).upper() if args else ""
    return Command(repeatable=is_repeatable(args, also), waits=_waits(name, args))


def sent_as_one(commands: Iterable[Sequence[object]], also: Collection[str], *, alone: bool) -> Command:
    """Read the commands of a pipeline, which are done again where each of them may be.

    Args:
        commands: as redis-py has them.
        also: see `command_of`.
        alone: whether nothing else hangs on them: no transaction over a cluster's nodes, no watched keys.
    """
    return Command(repeatable=alone and all(is_repeatable(args, also) for args in commands))


def is_repeatable(args: Sequence[object], also: Collection[str]) -> bool:
    """Whether a command does no harm when it is done twice."""
    name = str(args[0]).upper() if args else ""
    if name in also:
        return True
    conditions = _CONDITIONS.get(name)
    if conditions is not None:
        return conditions.isdisjoint(_word(arg) for arg in args[2:])
    return name in IDEMPOTENT or name.partition(" ")[0] in IDEMPOTENT


def _waits(name: str, args: Sequence[object]) -> float:
    if name in _STREAMS:
        words = [_word(arg) for arg in args]
        milliseconds = args[words.index("BLOCK") + 1] if "BLOCK" in words[:-1] else -1
        return _forever(milliseconds, 0.001) if milliseconds != -1 else 0.0
    if name in _WAITS:
        place, unit = _WAITS[name]
        return _forever(args[place], unit)
    return 0.0


def _word(arg: object) -> str:
    text = arg.decode("ascii", "replace") if isinstance(arg, bytes) else arg
    return text.upper() if isinstance(text, str) else ""


def _forever(value: object, unit: float) -> float:
    try:
        seconds = float(str(value)) * unit
    except ValueError:  # the server will say what is wrong with it
        return 0.0
    return seconds or math.inf
