"""core.http_poll: tells when what an address answers has changed."""

import hashlib
import json

import attune
from network import BadInput, blocked, body_of, bounded_session, guard, networks
from watching import Watches

# How much of an answer is compared, and how much of it an event carries, in bytes.
READ_LIMIT = 8 << 20
CARRIED = 64 << 10


def read(response):
    """The body, up to the limit."""
    body, more = body_of(response, READ_LIMIT)
    if more:
        raise OSError(f"the answer has more than {READ_LIMIT} bytes")
    return body


def describe(url, response, body):
    """The event's payload for an answer."""
    etag = response.headers.get("ETag")
    payload = {"url": url, "status_code": response.status_code, "etag": etag, "json": None, "body": None}
    try:
        value = json.loads(body)
        compared = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        if len(body) <= CARRIED:
            payload["json"] = value
    except ValueError:
        compared = b"ETag " + etag.encode("latin-1", "replace") if etag else body
        payload["body"] = body[:CARRIED].decode("utf-8", "replace").replace("\0", "\ufffd")
    payload["digest"] = hashlib.sha256(compared).hexdigest()
    return payload


def poll(watch, session, known):
    """One request. Gives the state after it."""
    p = watch.parameters
    headers = dict(p.get("headers") or {})
    if known and known.get("etag"):
        headers.setdefault("If-None-Match", known["etag"])
    with session.get(
        p["url"], headers=headers, timeout=p.get("timeout") or 30, verify=p.get("verify_ssl", True), stream=True
    ) as response:
        if response.status_code == 304 and known:
            return known
        if not response.ok:
            raise OSError(f"the answer is {response.status_code}")
        payload = describe(p["url"], response, read(response))
    payload["previous_digest"] = known["digest"] if known else None
    count = (known or {}).get("count", 0)
    state = {"digest": payload["digest"], "etag": (payload["etag"] or "")[:200], "count": count}
    if known and known["digest"] == payload["digest"] or not known and not p.get("initial"):
        watch.keep(state)
        return state
    state["count"] = count + 1
    watch.emit(payload, f"{watch.id}:{state['count']}:{payload['digest'][:32]}", state)
    return state


def watch_address(watch):
    known = watch.state
    session = bounded_session()
    while not watch.stopped.is_set():
        try:
            known = poll(watch, session, known)
            watch.complain(None)
        except (OSError, ValueError) as err:
            if blocked(err):
                attune.blocked()
            watch.complain(f"cannot ask {watch.parameters['url']}: {err}")
        watch.stopped.wait(max(1.0, float(watch.parameters.get("interval") or 60)))


try:
    guard(networks("HTTP_ALLOW"), networks("HTTP_DENY"))
except BadInput as problem:
    raise SystemExit(f"ERROR: {problem}")
Watches(watch_address).run()
