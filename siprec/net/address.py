"""IP literals and the sockets bound to them."""

import ipaddress
import socket
from functools import lru_cache

from siprec.errors import ListenError

# How many addresses keep their verdict: more than a recorder has peers.
_REMEMBERED = 4096


@lru_cache(maxsize=_REMEMBERED)
def family_of(host: str) -> socket.AddressFamily | None:
    """AF_INET or AF_INET6 for an IP literal, None for anything else: a name handed to a socket call would block
    the event loop on DNS.
    """
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6


def sendable(host: str, port: int) -> bool:
    """Whether a socket call may see this address: a port above 65535 raises OverflowError deep inside asyncio."""
    return 1 <= port <= 65535 and family_of(host) is not None


def is_wildcard(host: str) -> bool:
    return ipaddress.ip_address(host).is_unspecified


def bare(host: str) -> str:
    """An address without the scope that the kernel adds to link-local IPv6."""
    return host.partition("%")[0]


def bound_socket(kind: socket.SocketKind, host: str, port: int, *, setting: str) -> socket.socket:
    """A non-blocking socket bound to `host` and `port` (0: any). Raises ListenError that names `setting`.

    Never SO_REUSEPORT: with it a second server would silently take half of the calls.
    """
    family = family_of(host)
    if family is None:
        raise ListenError(f"{setting}: {host} is not an IP address")
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        reason = error.strerror if isinstance(error, OSError) else "no such port"
        raise ListenError(f"{setting}: cannot listen on {host} port {port}: {reason}") from error
    return sock
