"""Kinds of media files that may be fetched, by their content type."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from common.net.guard import Refused

# The suffix comes from here, never from a stranger's text; a type that is not here is one that no reader takes.
SUFFIXES = {
    "video/mp4": ".mp4",
    "video/x-m4v": ".m4v",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/matroska": ".mkv",
    "video/x-msvideo": ".avi",
    "video/avi": ".avi",
    "video/mpeg": ".mpg",
    "video/mp2t": ".ts",
    "video/x-flv": ".flv",
    "video/x-ms-wmv": ".wmv",
    "video/ogg": ".ogv",
    "video/3gpp": ".3gp",
    "image/gif": ".gif",
    "image/png": ".png",
    "image/apng": ".apng",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
}
UNNAMED = ("application/octet-stream", "binary/octet-stream")  # servers' word for a file that they know nothing of


def suffix(header: str | None, *, allowed: Sequence[str], urls: Sequence[str]) -> str:
    """Suffix for a file.

    Args:
        header: Content-Type of the response.
        allowed: patterns such as video/*.
        urls: where the file comes from, for a server that does not say what it is.

    Raises:
        Refused: the type is not allowed, or not one of a video or an image.
    """
    kind = (header or "").partition(";")[0].strip().lower()
    if not kind:
        raise Refused("the server gives no content type")
    if not any(fnmatchcase(kind, pattern.lower()) for pattern in allowed):
        raise Refused(f"content type {kind}; allowed: {', '.join(allowed)}")
    if kind in SUFFIXES:
        return SUFFIXES[kind]
    if kind in UNNAMED:
        for url in urls:
            named = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower()
            if named in SUFFIXES.values():
                return named
    raise Refused(f"content type {kind} is not one of a video or an image that is read")
