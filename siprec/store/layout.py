"""How sessions lie in Redis (all keys begin with `srs:`), for every node and every version.

    s:{<session id>}   hash own, boot, fence, ver, state, end, schema, blob, sdp, xml      24 h from the last write
    q:{<session id>}   the same, set aside because it could not be read
    ix:<index>:<key>   hash whose fields are session ids (a third of a set's memory): hints, to be verified     24 h
    n:<node>           set of the ids of the sessions that a node owns
    hb:<node>          the lease of a node: its boot id                                     10 s
    epoch              random: another one, or none, means that this Redis was wiped
    ev                 stream of session events
    rq:<node>          channel: what other nodes ask of a node, and answer to it

Scripts touch nothing but the one key they are given, so they run on Redis Cluster. What is read is taken for what
anybody may have written: checked, or set aside.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from siprec.store.base import Index, IndexKey
from siprec.store.codec import Row, Unreadable

PREFIX = "srs:"

SESSION_TTL_SECONDS = 24 * 3600
"""A session nobody writes any more for a day belongs to nobody; living ones are refreshed at half of it."""

EVENTS_LIMIT = 10_000
"""Entries kept in the stream of events: some minutes of a busy cluster, a few MB."""

EPOCH = PREFIX + "epoch"
EVENTS = PREFIX + "ev"

_INDEXES: dict[Index, str] = {"dialog": "dlg", "call_id": "cid", "media": "med", "cs_id": "cs", "external": "ext"}
_PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,40}")


def session(session_id: str) -> str:
    """Key of a session's hash; the braces keep all its keys in one slot of a cluster."""
    return f"{PREFIX}s:{{{session_id}}}"


def quarantine(session_id: str) -> str:
    """Key that an unreadable session is renamed to."""
    return f"{PREFIX}q:{{{session_id}}}"


def index(key: IndexKey) -> str:
    """Key of an index entry. Text from the network is hashed unless it is short and plain: no braces, no length."""
    name, text = key
    if not _PLAIN.fullmatch(text):
        text = "~" + hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{PREFIX}ix:{_INDEXES[name]}:{text}"


def node(name: str) -> str:
    """Key of the set of a node's sessions."""
    return f"{PREFIX}n:{name}"


def heartbeat(name: str) -> str:
    """Key of a node's lease."""
    return f"{PREFIX}hb:{name}"


def channel(name: str) -> str:
    """Channel on which a node is asked and answered."""
    return f"{PREFIX}rq:{name}"


HINT = """
redis.call('HSET', KEYS[1], ARGV[1], '')
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 'noted'
"""
"""KEYS: an index entry. ARGV: session id, life in seconds."""

SAVE = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local held = redis.call('HMGET', KEYS[1], 'fence', 'own', 'boot', 'ver', 'end')
local fence, version = tonumber(held[1]), tonumber(held[4])
local mine, newer = tonumber(ARGV[3]), tonumber(ARGV[4])
if fence then
  if fence > mine then return 'owner' end
  if fence == mine and (held[2] ~= ARGV[1] or held[3] ~= ARGV[2]) then return 'owner' end
  if fence == mine and version and version > newer then return 'version' end
end
redis.call('HSET', KEYS[1], 'own', ARGV[1], 'boot', ARGV[2], 'fence', ARGV[3], 'ver', ARGV[4], 'state', ARGV[5],
  'end', ARGV[6], 'schema', ARGV[7], unpack(ARGV, 9))
if ARGV[6] ~= '' then redis.call('HDEL', KEYS[1], 'sdp', 'xml') end
redis.call('PEXPIRE', KEYS[1], ARGV[8])
return 'kept'
"""
"""KEYS: the session. ARGV: own, boot, fence, ver, state, end, schema, life in ms, then pairs of changed bodies."""

ADOPT = """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 'unknown' end
local held = redis.call('HMGET', KEYS[1], 'fence', 'end')
if not held[1] or (held[2] and held[2] ~= '') then return 'unknown' end
if held[1] ~= ARGV[1] then return 'changed' end
local before = redis.call('HGET', KEYS[1], 'own') or ''
redis.call('HSET', KEYS[1], 'own', ARGV[2], 'boot', ARGV[3], 'fence', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 'from ' .. before
"""
"""KEYS: the session. ARGV: expected fence, own, boot, new fence, life in ms."""

FIELD_LIMIT = 128
"""Characters of an owner, boot id or state that are believed."""


def row(session_id: str, raw: Mapping[bytes, bytes]) -> Row:
    """The row in a session's hash. Raises Unreadable."""
    try:
        return Row(
            session_id,
            node=_text(raw[b"own"]),
            boot=_text(raw[b"boot"]),
            fence=_number(raw[b"fence"]),
            version=_number(raw[b"ver"]),
            state=_text(raw[b"state"]),
            ended=_text(raw.get(b"end", b"")),
            schema=_number(raw[b"schema"]),
            core=raw[b"blob"],
            sdp=raw.get(b"sdp", b""),
            xml=raw.get(b"xml", b""),
        )
    except (KeyError, ValueError) as error:
        raise Unreadable(f"{session_id}: {error!r}") from None


def _text(value: bytes) -> str:
    if len(value) > FIELD_LIMIT:
        raise ValueError("too long")
    return value.decode()


def _number(value: bytes) -> int:
    # Not int(): it takes spaces, signs and underscores, and a script would not agree with it.
    if not value.isdigit() or len(value) > 15:
        raise ValueError("not a number")
    return int(value)
