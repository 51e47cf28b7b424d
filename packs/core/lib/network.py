"""What addresses core may reach: http_allow and http_deny of its configuration, and never link-local ones
unless they are allowed. It is checked after name resolution, where the connection is made."""

import ipaddress
import json
import os
import socket

# Where clouds keep credentials for whoever asks: never reached unless http_allow says so.
LINK_LOCAL = [ipaddress.ip_network(n) for n in ("169.254.0.0/16", "fe80::/10")]


class BadInput(Exception):
    """A parameter that cannot be used; its text is for the person who gave it."""


class Blocked(OSError):
    """An address that http_deny or the link-local rule forbids."""


def networks(name):
    """Reads a list of CIDR networks from the pack's configuration."""
    text = os.environ.get("ATTUNE_PACK_CONFIG_" + name, "") or "[]"
    try:
        return [ipaddress.ip_network(n, strict=False) for n in json.loads(text)]
    except (ValueError, TypeError) as err:
        raise BadInput(f"{name.lower()} must be a list of networks such as 10.0.0.0/8: {err}")


def check_address(address, allow, deny):
    """Raises Blocked for an address that must not be reached."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    if mapped is not None:
        ip = mapped
    if any(ip in n for n in allow if n.version == ip.version):
        return
    for n in LINK_LOCAL:
        if n.version == ip.version and ip in n:
            raise Blocked(f"{ip} is link-local, which is never reached unless http_allow names it")
    for n in deny:
        if n.version == ip.version and ip in n:
            raise Blocked(f"{ip} is in {n}, which http_deny names")


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
