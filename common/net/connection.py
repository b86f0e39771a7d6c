"""One GET request to a checked address, with an end to it whatever the server does."""

import contextlib
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from common.net.guard import Place, Refused
from common.net.retry import Transient

Dial = Callable[[str, int, float], socket.socket]  # address, port, seconds -> connected socket


class Late(Exception):
    """The time for a file is over."""


class Stopped(Exception):
    """Somebody else asked to stop."""


class Deadline:
    """The time for all of one download, and the wish of the program to end it."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        self.seconds, self.stop = seconds, stop
        self._end = time.monotonic() + seconds

    def left(self, most: float = float("inf")) -> float:
        """Seconds left, at most `most`, and above 0.

        Raises:
            Late: none are. Stopped: the program ends.
        """
        if self.stop.is_set():
            raise Stopped
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise Late
        return min(seconds, most)


def dial(address: str, port: int, seconds: float) -> socket.socket:
    """A TCP connection to a numeric address."""
    return socket.create_connection((address, port), timeout=seconds)


@contextmanager
def get(
    place: Place,
    *,
    headers: Mapping[str, str],
    dial: Dial,
    context: ssl.SSLContext,
    deadline: Deadline,
    connect_timeout: float,
    read_timeout: float,
) -> Iterator[http.client.HTTPResponse]:
    """Sends GET and gives the response, its body unread. Redirects and proxies are not followed.

    The connection goes to an address of `place`, which is not resolved again; TLS and the Host header are about its
    name. A proxy would resolve the name once more, which nobody checks, so that the environment's are not used.

    Raises:
        Transient: no connection, no answer, or a broken one. Refused: the certificate does not fit. Late: no time.
    """
    connection = _Connection(place, dial, context, deadline, connect_timeout, read_timeout)
    with contextlib.closing(connection):
        with network():
            connection.request("GET", place.target, headers={"Host": place.authority, **headers})
            response = connection.getresponse()
        with contextlib.closing(response):
            yield response


@contextmanager
def network() -> Iterator[None]:
    """Tells failures of the network from those of the disk, by where it stands."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise Refused(f"the server's certificate is not accepted ({error.verify_message})") from None
    except TimeoutError:
        raise Transient("the server is silent") from None
    except (OSError, http.client.HTTPException) as error:
        raise Transient(f"the connection failed ({type(error).__name__}: {error})") from None


class _Connection(http.client.HTTPConnection):
    """A connection to one of the addresses of a place."""

    def __init__(
        self,
        place: Place,
        dial: Dial,
        context: ssl.SSLContext,
        deadline: Deadline,
        connect_timeout: float,
        read_timeout: float,
    ) -> None:
        super().__init__(place.host, place.port)
        self._place, self._dial, self._context, self._deadline = place, dial, context, deadline
        self._connect_timeout, self._read_timeout = connect_timeout, read_timeout

    def connect(self) -> None:
        plain = self._dialled()
        try:
            plain.settimeout(self._deadline.left(self._connect_timeout))
            if self._place.scheme == "https":
                # An end without TLS's own goodbye may be a cut by somebody else: an error, not the end of the file.
                plain = self._context.wrap_socket(plain, server_hostname=self._place.host, suppress_ragged_eofs=False)
        except BaseException:
            plain.close()
            raise
        self.sock = _Socket(plain, lambda: self._deadline.left(self._read_timeout))

    def _dialled(self) -> socket.socket:
        failure: OSError | None = None
        for address in self._place.addresses:
            try:
                return self._dial(address, self._place.port, self._deadline.left(self._connect_timeout))
            except OSError as error:
                failure = error
        assert failure is not None, "a place has addresses"
        raise failure


class _Socket:
    """What http.client uses of a socket, each call with the time that is left.

    A timeout alone bounds one silence: a server that sends a byte now and then would hold us for ever.
    """

    def __init__(self, connected: socket.socket, seconds: Callable[[], float]) -> None:
        self._connected, self._seconds = connected, seconds

    def sendall(self, data: bytes) -> None:
        self._connected.settimeout(self._seconds())
        self._connected.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb", mode
        return io.BufferedReader(_Reader(self._connected, self._seconds))

    def close(self) -> None:
        self._connected.close()


class _Reader(io.RawIOBase):
    def __init__(self, connected: socket.socket, seconds: Callable[[], float]) -> None:
        super().__init__()
        self._connected, self._seconds = connected, seconds
        self._file = connected.makefile("rb", buffering=0)  # keeps the socket open until it is closed too

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        self._connected.settimeout(self._seconds())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
