"""Where a request may go: an address of the public internet, resolved once and checked before anything is sent.

Addresses in annotations and redirects are written by strangers. Without this, one that means this machine, the network
behind it or a cloud's metadata service would be read with our rights (server-side request forgery).
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import quote, urlsplit

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Sequence[str]]  # host and port -> addresses

PORTS = {"http": 80, "https": 443}
SAFE = "/%:=&?~+!$,;'@()*[]|"  # stays as it is in a path or query; what is already quoted is not quoted again
HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")  # parsers disagree about these, so that one may see another host

UNICAST6 = ipaddress.ip_network("2000::/3")  # all that is handed out of IPv6; outside are local and retired forms
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214, third 32 bits of the address
# Not of the public internet, although the standard library counts them as global (in part by its version).
SPECIAL4 = [
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata service at .192
        "192.88.99.0/24",  # 6to4 relays, retired
        "168.63.129.16/32",  # a cloud's service for its own machines
    )
]


class Refused(ValueError):
    """A download that is not allowed or not possible, and will not be by trying again."""


class Place(NamedTuple):
    """Where one request goes.

    Attributes:
        scheme: http or https.
        host: name in ASCII or numeric address, lower case, without brackets or a final dot.
        port: 1..65535.
        target: path and query, quoted.
        addresses: numeric and checked; the connection is made to one of these and to nothing else.
    """

    scheme: str
    host: str
    port: int
    target: str
    addresses: tuple[str, ...]

    @property
    def authority(self) -> str:
        """Host and port as the Host header gives them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a name by the system's resolver, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def locate(url: str, *, schemes: Sequence[str], allow_private: Collection[str], resolve: Resolve) -> Place:
    """Checks a URL and resolves its host, once.

    Args:
        url: absolute.
        schemes: allowed, of http and https.
        allow_private: hosts, as `host_name` gives them, that may have any address.
        resolve: asked at most once; not for numeric hosts.

    Raises:
        Refused: the URL is malformed, or its scheme or one of its addresses is not allowed.
        OSError: the name could not be resolved now.
    """
    scheme, host, port, target = _parts(url, schemes)
    number = _number(host)
    addresses = [str(number)] if number is not None else _resolved(host, port, resolve)
    if host not in allow_private:
        for address in addresses:
            if not is_public(ipaddress.ip_address(address)):
                named = host if host == address else f"{host}, which is {address},"
                raise Refused(f"{named} is not of the public internet, nor named in download.allow_private")
    return Place(scheme, host, port, target, tuple(addresses))


def is_public(address: Address) -> bool:
    """Whether an address, and every IPv4 address that it carries, belongs to the public internet."""
    if isinstance(address, IPv4Address):
        special = address.is_multicast or any(address in network for network in SPECIAL4)
        return address.is_global and not special
    carried = _carried(address)
    if carried:
        return all(is_public(each) for each in carried)
    return address.is_global and address in UNICAST6


def _carried(address: IPv6Address) -> Sequence[IPv4Address]:
    """IPv4 addresses to which a packet for this one may be handed on."""
    low = int(address) & 0xFFFFFFFF
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return address.teredo
    if address in NAT64 or (int(address) >> 32) & 0xFFFFFFFF in ISATAP:
        return [IPv4Address(low)]
    return []


def _parts(url: str, schemes: Sequence[str]) -> tuple[str, str, int, str]:
    if CONTROL.search(url):
        raise Refused("the URL holds a control character or a backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Refused(f"not a URL ({error})") from None
    if parts.scheme not in schemes:
        raise Refused(f"scheme {parts.scheme!r}; allowed: {', '.join(schemes)}")
    if "@" in parts.netloc:
        raise Refused("the URL holds a user or a password")
    host = host_name(parts.hostname or "")
    if port == 0:
        raise Refused("port 0")
    target = quote(parts.path or "/", safe=SAFE) + (f"?{quote(parts.query, safe=SAFE)}" if parts.query else "")
    return parts.scheme, host, PORTS[parts.scheme] if port is None else port, target


def host_name(text: str) -> str:
    """A host as the network knows it: ASCII, lower case, without brackets or a final dot.

    Raises:
        Refused: it is no name and no address.
    """
    host = text.strip("[]").lower().removesuffix(".")
    try:
        if ":" in host and "%" not in host:  # behind % stands an interface of this machine
            return str(IPv6Address(host))
        host = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except ValueError:  # also of the codec
        host = ""
    if not HOST.fullmatch(host):
        raise Refused(f"host {text!r} is not a name or an address")
    return host


def _number(host: str) -> Address | None:
    """The address that a numeric host means, in any form that the system's resolver takes; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))  # decimal, octal, hexadecimal, and less than four parts
    except OSError:
        return None


def _resolved(host: str, port: int, resolve: Resolve) -> list[str]:
    try:
        addresses = list(resolve(host, port))
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
            raise Refused(f"there is no host {host}") from None
        raise
    except UnicodeError:  # a label that the system's codec does not take
        raise Refused(f"host {host!r} is not a name or an address") from None
    if not addresses:
        raise Refused(f"{host} has no address")
    return addresses
