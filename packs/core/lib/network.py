"""What addresses core may reach: http_allow and http_deny of its configuration, and never link-local ones
unless they are allowed. It is checked after name resolution, where the connection is made."""

import ipaddress
import json
import os
import socket
import zlib

# Where clouds keep credentials for whoever asks: never reached unless http_allow says so.
LINK_LOCAL = [ipaddress.ip_network(n) for n in ("169.254.0.0/16", "fe80::/10")]


class BadInput(Exception):
    """A parameter that cannot be used; its text is for the person who gave it."""


class Blocked(OSError):
    """An address that http_deny or the link-local rule forbids."""


# Ways to write an IPv4 address as an IPv6 one that reaches it, where something translates: NAT64 (RFC 6052).
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


def reached(ip):
    """The addresses that a connection to this one reaches or may reach: itself, and what it stands for."""
    found = [ip]
    if ip.version == 6:
        mapped = ip.ipv4_mapped or ip.sixtofour
        if mapped is None and (ip in TRANSLATED or int(ip) >> 32 == 0 and int(ip) > 1):
            mapped = ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
        if mapped is not None:
            found.append(mapped)
    # The kernel takes 0.0.0.0 and :: for this machine.
    for one in list(found):
        if one.is_unspecified:
            found += [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    return found


def networks(name):
    """Reads a list of CIDR networks from the pack's configuration."""
    text = os.environ.get("ATTUNE_PACK_CONFIG_" + name, "") or "[]"
    try:
        return [ipaddress.ip_network(n, strict=False) for n in json.loads(text)]
    except (ValueError, TypeError) as err:
        raise BadInput(f"{name.lower()} must be a list of networks such as 10.0.0.0/8: {err}")


def check_address(address, allow, deny):
    """Raises Blocked for an address that must not be reached."""
    ips = reached(ipaddress.ip_address(address.split("%", 1)[0]))
    if any(ip in n for ip in ips for n in allow if n.version == ip.version):
        return
    for ip in ips:
        for n in LINK_LOCAL:
            if n.version == ip.version and ip in n:
                raise Blocked(f"{ip} is link-local, which is never reached unless http_allow names it")
        for n in deny:
            if n.version == ip.version and ip in n:
                raise Blocked(f"{ip} is in {n}, which http_deny names")


def blocked(err):
    """Says whether an error comes of a forbidden address, however deep that stands in it."""
    seen = []
    while isinstance(err, BaseException) and err not in seen:
        if isinstance(err, Blocked):
            return True
        seen.append(err)
        inner = getattr(err, "reason", None) or err.__cause__ or err.__context__
        if inner is None and err.args:
            inner = err.args[0]
        err = inner
    return False


def bounded_session(follow=True):
    """A session that no answer makes large: bodies of redirects are not read, and what servers pack is unpacked by
    body_of alone, a bounded piece at a time."""
    import requests

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, request, **kwargs):
            response = super().send(request, **kwargs)
            if follow and response.is_redirect:
                response.raw.close()
                response._content, response._content_consumed = b"", True
            return response

    session = requests.Session()
    session.trust_env = False  # no proxy, no .netrc: only what the parameters say
    session.headers["Accept-Encoding"] = "gzip"
    session.mount("http://", Adapter())
    session.mount("https://", Adapter())
    return session


def body_of(response, limit):
    """Reads the body of a streamed answer up to a limit in bytes, unpacked. Gives it, and whether there was more."""
    import requests
    import urllib3

    encoding = (response.headers.get("Content-Encoding") or "").strip().lower()
    unpack = None
    if encoding in ("gzip", "x-gzip", "deflate"):
        # 47: gzip or zlib, whichever it is. Further encodings are left as they came: each multiplies.
        unpack = zlib.decompressobj(47)
    body = bytearray()
    while len(body) <= limit:
        try:
            chunk = response.raw.read(16 * 1024, decode_content=False)
        except urllib3.exceptions.TimeoutError as err:
            raise requests.exceptions.Timeout(err)
        except urllib3.exceptions.HTTPError as err:
            raise OSError(f"the answer ended early: {err}")
        if not chunk:
            return bytes(body), False
        try:
            body += unpack.decompress(chunk, limit + 1 - len(body)) if unpack else chunk
            while unpack and unpack.unconsumed_tail and len(body) <= limit:
                body += unpack.decompress(unpack.unconsumed_tail, limit + 1 - len(body))
        except zlib.error as err:
            raise OSError(f"the answer says that it is {encoding}, and is not: {err}")
    return bytes(body[:limit]), True


def guard(allow, deny):
    """Makes every connection of urllib3 go through check_address."""
    from urllib3.util import connection

    def create_connection(address, timeout=None, source_address=None, socket_options=None):
        host, port = address
        last = None
        for family, kind, proto, _, target in socket.getaddrinfo(
            host.strip("[]"), port, 0, socket.SOCK_STREAM
        ):
            sock = None
            try:
                check_address(target[0], allow, deny)
                sock = socket.socket(family, kind, proto)
                for option in socket_options or []:
                    sock.setsockopt(*option)
                if isinstance(timeout, (int, float)):
                    sock.settimeout(timeout)
                if source_address:
                    sock.bind(source_address)
                sock.connect(target)
                return sock
            except OSError as err:
                last = err
                if sock is not None:
                    sock.close()
        raise last or OSError(f"{host} has no address")

    connection.create_connection = create_connection
