"""A file from a URL under limits, resumable: redirects, retries, and the part that is there already."""

import http.client
import random
import re
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from common.net.connection import Deadline, Dial, Late, dial, get, network
from common.net.guard import PORTS, SAFE, Refused, Resolve, host_name, locate, resolve
from common.net.kinds import suffix
from common.net.part import Source, begin, discard, source_of
from common.net.retry import Transient, asks_for_patience, retry_after

REDIRECTS = (301, 302, 303, 307, 308)
CHUNK = 1 << 18
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class DownloadError(ValueError):
    """A file could not be had; the message is the reason."""


class Downloader:
    """Downloads files, each under the same limits, from the public internet and from the hosts that are named."""

    def __init__(
        self,
        *,
        schemes: Sequence[str] = ("https", "http"),
        content_types: Sequence[str] = ("video/*", "image/*"),
        max_bytes: int = 1 << 30,
        connect_timeout: float = 10.0,
        read_timeout: float = 30.0,
        deadline: float = 1800.0,
        max_redirects: int = 5,
        retries: int = 4,
        first_wait: float = 1.0,
        longest_wait: float = 120.0,
        allow_private: Sequence[str] = (),
        user_agent: str = "framelab",
        resolve: Resolve = resolve,
        dial: Dial = dial,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """
        Args:
            schemes: of http and https, also for redirects.
            content_types: patterns of what the server may send.
            max_bytes: of a file.
            connect_timeout: seconds for a connection.
            read_timeout: seconds that the server may be silent.
            deadline: seconds for a file with all its tries; the system's look-up of a name is not interrupted.
            max_redirects: for one try.
            retries: tries after the first; they wait 1, 2, 4, ... times `first_wait`, or as long as the server asks.
            first_wait: seconds before the second try.
            longest_wait: most seconds between tries; a server that asks for more is given up.
            allow_private: hosts that need not have an address of the public internet.
            user_agent: how the program calls itself.
            resolve: looks up a name.
            dial: connects to an address.
            context: of TLS; by default the system's certificates are trusted.

        Raises:
            ValueError: a limit is out of range.
        """
        if not schemes or set(schemes) - set(PORTS):
            raise ValueError(f"download.schemes is {list(schemes)}; it takes {' and '.join(PORTS)}")
        if min(max_bytes, connect_timeout, read_timeout, deadline, first_wait) <= 0 or longest_wait < first_wait:
            raise ValueError("download: sizes and seconds are above 0, and longest_wait is at least first_wait")
        if min(max_redirects, retries) < 0:
            raise ValueError("download: max_redirects and retries are 0 or more")
        self.schemes, self.content_types, self.max_bytes = tuple(schemes), tuple(content_types), max_bytes
        self.connect_timeout, self.read_timeout, self.deadline = connect_timeout, read_timeout, deadline
        self.max_redirects, self.retries = max_redirects, retries
        self.first_wait, self.longest_wait = first_wait, longest_wait
        self.allow_private = frozenset(host_name(host) for host in allow_private)
        # Compressed bytes have no length that could be checked in advance, and no end.
        self._headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._resolve, self._dial, self._context = resolve, dial, context or ssl.create_default_context()

    def download(self, url: str, part: Path, stop: threading.Event) -> Source:
        """Writes the file to `part`, or goes on with it where the server still has the same file.

        Args:
            url: absolute.
            part: file that grows; its source is kept beside it. After a failure both stay for the next time, unless
                the file is too large.
            stop: ends the download soon after it is set.

        Raises:
            DownloadError: the file cannot be had. connection.Stopped: `stop` was set. OSError: the disk failed.
        """
        deadline = Deadline(self.deadline, stop)
        wait = self.first_wait
        try:
            for tries in range(1, self.retries + 2):
                try:
                    return self._try(url, part, deadline)
                except Transient as error:
                    seconds = wait * random.uniform(0.5, 1.0) if error.wait is None else error.wait
                    if tries > self.retries or seconds > min(self.longest_wait, deadline.left()):
                        asked = "" if error.wait is None else f", and asks to wait {error.wait:.0f} s"
                        raise DownloadError(f"{error}{asked}; tried {tries} times") from None
                    stop.wait(seconds)
                    wait = min(2 * wait, self.longest_wait)
        except Late:
            raise DownloadError(f"took longer than the deadline of {self.deadline:g} s") from None
        except Refused as error:
            raise DownloadError(str(error)) from None
        raise AssertionError("the last try returns or raises")

    def _try(self, url: str, part: Path, deadline: Deadline) -> Source:
        known = source_of(part, url)
        have = part.stat().st_size if known is not None else 0
        if known is not None and have == known.size:
            self._check_size(have, part)
            return known
        headers = dict(self._headers)
        if known is not None and known.validator is not None:
            headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
        with self._open(url, headers, deadline) as (final_url, response):
            if response.status == 206 and "Range" in headers and known is not None:
                return self._append(part, self._rest(known, have, response, final_url, part), response)
            if response.status == 416:
                discard(part)
                raise Transient("the server has no rest of the file")
            if asks_for_patience(response.status):
                raise Transient(f"HTTP {response.status}", retry_after(response.headers))
            if response.status != 200:
                raise Refused(f"HTTP {response.status}")
            source = self._described(url, final_url, response)
            self._check_size(source.size or 0, part)
            begin(part, source)
            return self._append(part, source, response)

    @contextmanager
    def _open(
        self, url: str, headers: dict[str, str], deadline: Deadline
    ) -> Iterator[tuple[str, http.client.HTTPResponse]]:
        """The response at the end of the redirects, each hop checked as the first."""
        for _ in range(self.max_redirects + 1):
            deadline.left()
            with network():
                place = locate(url, schemes=self.schemes, allow_private=self.allow_private, resolve=self._resolve)
            with get(
                place,
                headers=headers,
                dial=self._dial,
                context=self._context,
                deadline=deadline,
                connect_timeout=self.connect_timeout,
                read_timeout=self.read_timeout,
            ) as response:
                if response.status not in REDIRECTS:
                    yield url, response
                    return
                url = _next(url, response)
        raise Refused(f"more than {self.max_redirects} redirects")

    def _described(self, url: str, final_url: str, response: http.client.HTTPResponse) -> Source:
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding != "identity":
            raise Refused(f"content encoding {coding}, which was not asked for")
        kind = response.headers.get("Content-Type")
        return Source(
            url=url,
            final_url=final_url,
            content_type=kind or "",
            suffix=suffix(kind, allowed=self.content_types, urls=(final_url, url)),
            size=response.length,
            etag=response.headers.get("ETag"),
            modified=response.headers.get("Last-Modified"),
        )

    def _rest(self, known: Source, have: int, response: http.client.HTTPResponse, final_url: str, part: Path) -> Source:
        """Source of the rest of a file; the file is got anew where this is not the rest of what we have."""
        rest = self._described(known.url, final_url, response)
        found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        size = int(found[2]) if found is not None and found[2] != "*" else known.size
        same = (rest.etag or known.etag) == known.etag and (rest.modified or known.modified) == known.modified
        if found is None or int(found[1]) != have or not same or size != (known.size or size):
            discard(part)
            raise Transient("the server sent another part than the one asked for")
        self._check_size(size or 0, part)
        return replace(known, final_url=final_url, size=size)

    def _append(self, part: Path, source: Source, response: http.client.HTTPResponse) -> Source:
        with open(part, "ab", buffering=0) as file:
            size = file.tell()
            while size != source.size:
                with network():
                    data = response.read1(CHUNK if source.size is None else min(CHUNK, source.size - size))
                if not data:
                    break
                size += len(data)
                self._check_size(size, part)
                file.write(data)
        if source.size is not None and size != source.size:
            raise Transient(f"the connection ended after {size} of {source.size} bytes")
        if size == 0:
            raise Refused("the file is empty")
        return replace(source, size=size)

    def _check_size(self, size: int, part: Path) -> None:
        if size > self.max_bytes:
            discard(part)
            raise Refused(f"holds {size} bytes or more; download.max_bytes is {self.max_bytes}")


def _next(url: str, response: http.client.HTTPResponse) -> str:
    location = response.headers.get("Location")
    if not location:
        raise Refused(f"HTTP {response.status} without a place to go")
    try:
        # Headers arrive as Latin-1, whatever bytes they hold.
        target = urljoin(url, quote(location.encode("latin-1"), safe=SAFE + "#\\"))
        downgraded = urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http"
    except ValueError as error:
        raise Refused(f"redirected to what is no URL ({error})") from None
    if downgraded:
        raise Refused("redirected from https to http")
    return target
