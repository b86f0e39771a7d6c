"""The files of a media folder that came from URLs: each fetched once, known by its checksum."""

import hashlib
import json
import logging
import threading
import urllib.request
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.files import atomic_write_text
from common.net.download import Downloader, DownloadError
from common.net.part import discard
from common.progress import track

log = logging.getLogger(__name__)

BOOKS = ".fetch"  # folder inside the media folder: parts, and a record of each file that is there
Record = dict[str, Any]  # url, final_url, file, bytes, sha256, content_type, date
Outcome = Record | str  # or why there is none


class Shelf:
    """The files of a media folder that came from URLs, and what is known of each."""

    def __init__(self, media: Path) -> None:
        self.media, self.books = media, media / BOOKS

    def get_all(self, urls: Sequence[str], *, download: Downloader, parallel: int) -> tuple[dict[str, Outcome], int]:
        """Sees that the file of each URL is there.

        Args:
            urls: distinct.
            download: what fetches those that are not.
            parallel: downloads at a time.

        Returns:
            What became of each URL, and how many files were there already.

        Raises:
            ValueError: another process is at work in the folder. OSError: the disk failed.
        """
        if not urls:
            return {}, 0
        _mention_proxies()
        self.books.mkdir(parents=True, exist_ok=True)
        outcomes: dict[str, Outcome] = {}
        reused = 0
        stop = threading.Event()
        try:
            with FileLock(self.books / "lock", timeout=0), ThreadPoolExecutor(parallel) as pool:
                futures = {pool.submit(self._get, url, download, stop): url for url in urls}
                try:
                    for future in track(as_completed(futures), description="videos", total=len(futures)):
                        outcomes[futures[future]], there = _outcome(future, futures[future])
                        reused += there
                finally:
                    stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)
        except Timeout:
            raise ValueError(f"another fetch_videos is at work in {self.media}; let it end, or end it") from None
        return outcomes, reused

    def _get(self, url: str, download: Downloader, stop: threading.Event) -> tuple[Record, bool]:
        """Record of a URL's file, and whether it was there already.

        Raises:
            DownloadError: the file cannot be had.
        """
        key = hashlib.sha256(url.encode()).hexdigest()[:32]
        record_path, part = self.books / f"{key}.json", self.books / f"{key}.part"
        found = self._there(record_path, part)
        if found is not None:
            return found, True
        source = download.download(url, part, stop)
        record: Record = {
            "url": url,
            "final_url": source.final_url,
            "file": f"{key}{source.suffix}",
            "bytes": source.size,
            "sha256": _sha256(part),
            "content_type": source.content_type,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        atomic_write_text(record_path, json.dumps(record))
        self._shelve(record, part)
        return record, False

    def _there(self, record_path: Path, part: Path) -> Record | None:
        if not record_path.is_file():
            return None
        record: Record = json.loads(record_path.read_text(encoding="utf-8"))
        path = self.media / record["file"]
        if path.is_file():
            if _sha256(path) == record["sha256"]:
                return record
            log.warning("%s is not what was fetched from %s; fetching it again", path, record["url"])
        elif part.is_file() and _sha256(part) == record["sha256"]:  # killed between the record and the move
            self._shelve(record, part)
            return record
        return None

    def _shelve(self, record: Record, part: Path) -> None:
        part.replace(self.media / record["file"])
        discard(part)


def _outcome(future: Future[tuple[Record, bool]], url: str) -> tuple[Outcome, bool]:
    try:
        return future.result()
    except DownloadError as error:
        log.warning("%s: %s", url, error)
        return str(error), False


def _mention_proxies() -> None:
    # A proxy resolves the name itself: what was checked would not be what is connected to.
    if urllib.request.getproxies():
        log.warning("the environment names a proxy; videos are fetched without it, over direct connections")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
