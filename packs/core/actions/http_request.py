#!/usr/bin/env python3
"""core.http_request: makes one HTTP request and prints what came as JSON.

Exit 0 for a 2xx answer, 1 for any other and for none. Addresses are checked after name resolution
and for each redirect, where the connection is made, so that no name can point elsewhere meanwhile.
"""

import json
import os
import sys
import threading
import time

from network import BadInput, blocked, body_of, bounded_session, guard, networks

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# The body stands in the result twice, as text and parsed; both must fit what is kept of a result.
BODY_LIMIT = 256 * 1024


def request_arguments(params):
    """Turns the parameters into what requests wants."""
    url = params.get("url") or ""
    if not isinstance(url, str) or not url.lower().startswith(("http://", "https://")):
        raise BadInput(f'url must begin with http:// or https://, not "{url}"')
    method = params.get("method") or "GET"
    if method not in METHODS:
        raise BadInput(f'method must be one of {", ".join(METHODS)}, not "{method}"')
    if params.get("body") is not None and params.get("json_body") is not None:
        raise BadInput("body and json_body cannot be given together")
    headers = {str(k): str(v) for k, v in (params.get("headers") or {}).items()}
    auth = None
    auth_type = params.get("auth_type") or "none"
    if auth_type == "basic":
        if params.get("auth_username") is None or params.get("auth_password") is None:
            raise BadInput("auth_type basic wants auth_username and auth_password")
        auth = (params["auth_username"].encode(), params["auth_password"].encode())
    elif auth_type == "bearer":
        if not params.get("auth_token"):
            raise BadInput("auth_type bearer wants auth_token")
        headers["Authorization"] = "Bearer " + params["auth_token"]
    elif auth_type != "none":
        raise BadInput(f'auth_type must be none, basic or bearer, not "{auth_type}"')
    body = params.get("body")
    arguments = {
        "method": method,
        "url": url,
        "headers": headers,
        "params": params.get("query_params") or None,
        "data": body.encode() if isinstance(body, str) else None,
        "auth": auth,
        "verify": params.get("verify_ssl", True),
        "allow_redirects": params.get("follow_redirects", True),
        "stream": True,
    }
    if params.get("json_body") is not None:
        arguments["json"] = params["json_body"]
    return arguments


def answer(response, started):
    """Makes the result of an answer."""
    body, truncated = body_of(response, BODY_LIMIT)
    text = body.decode(response.encoding or "utf-8", "replace")
    parsed = None
    if not truncated:
        try:
            parsed = json.loads(text)
        except ValueError:
            pass
    result = {
        "status_code": response.status_code,
        "headers": dict(response.headers),
        "body": text,
        "json": parsed,
        "elapsed_ms": int((time.monotonic() - started) * 1000),
        "url": response.url,
        "success": 200 <= response.status_code < 300,
    }
    if truncated:
        result["body_truncated"] = True
    return result


def no_answer(url, error, started):
    """Makes the result when nothing answered."""
    return {
        "status_code": 0,
        "headers": {},
        "body": None,
        "json": None,
        "elapsed_ms": int((time.monotonic() - started) * 1000),
        "url": url,
        "success": False,
        "error": error,
    }


ending = threading.Lock()


def finish(result):
    """Prints the result and ends the process. Of two threads that come here the first one does."""
    if not ending.acquire(blocking=False):
        threading.Event().wait()
    # ensure_ascii keeps a lone surrogate from a server out of the output.
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    # Not sys.exit: a request that overran its time may still hold a thread.
    os._exit(0 if result["success"] else 1)


def debug(text):
    """Tells on stderr what happens, where the pack's configuration asks for it."""
    if os.environ.get("ATTUNE_PACK_CONFIG_ENABLE_DEBUG_LOGGING") == "true":
        print(text, file=sys.stderr)


def ask(params):
    """Makes the request and gives its result."""
    if not isinstance(params, dict):
        raise BadInput("the parameters must be one JSON object on stdin")
    arguments = request_arguments(params)
    try:
        timeout = float(params.get("timeout") or 30)
        redirects = int(params.get("max_redirects", 10))
    except (ValueError, TypeError) as err:
        raise BadInput(f"timeout and max_redirects must be numbers: {err}")
    guard(networks("HTTP_ALLOW"), networks("HTTP_DENY"))

    try:
        import requests
    except ImportError:
        raise BadInput("the Python package requests is missing; install python3-requests")

    if not arguments["verify"]:
        import urllib3

        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    session = bounded_session(follow=arguments["allow_redirects"])
    session.max_redirects = redirects
    started = time.monotonic()

    # requests' own timeout is for each read; a server that drips bytes would hold it for ever.
    def expire():
        finish(no_answer(arguments["url"], f"no answer within {timeout:g} seconds", started))

    timer = threading.Timer(timeout, expire)
    timer.daemon = True
    timer.start()
    debug(f'{arguments["method"]} {arguments["url"]}')
    try:
        result = answer(session.request(timeout=timeout, **arguments), started)
    except requests.exceptions.TooManyRedirects:
        result = no_answer(
            arguments["url"], f"more than {session.max_redirects} redirects", started
        )
    except requests.exceptions.Timeout:
        result = no_answer(arguments["url"], f"no answer within {timeout:g} seconds", started)
    except (requests.exceptions.RequestException, OSError, ValueError) as err:
        result = no_answer(arguments["url"], reason(err), started)
        if blocked(err):
            result["blocked"] = True
    timer.cancel()
    debug(f'{result["status_code"]} after {result["elapsed_ms"]} ms')
    return result


def main():
    try:
        params = json.load(sys.stdin)
    except ValueError as err:
        raise BadInput(f"the parameters must be one JSON object on stdin: {err}")
    finish(ask(params))


def reason(err):
    """Finds the innermost cause, which says most in fewest words."""
    seen = err
    while True:
        inner = getattr(seen, "reason", None) or seen.__cause__ or seen.__context__
        if inner is None and seen.args and isinstance(seen.args[0], Exception):
            inner = seen.args[0]
        if not isinstance(inner, Exception) or inner is seen:
            return str(seen) or type(seen).__name__
        seen = inner


if __name__ == "__main__":
    try:
        main()
    except BadInput as err:
        print(f"ERROR: {err}", file=sys.stderr)
        sys.exit(1)
