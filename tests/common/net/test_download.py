"""Downloads from a real server: where they go, how large and how long they get, and how they go on."""

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.net.connection import Stopped
from common.net.download import Downloader, DownloadError
from common.net.part import Source
from tests.common.net.server import (
    CLIP,
    PUBLIC,
    Reply,
    Server,
    World,
    drip,
    file,
    redirect,
    silence,
    status,
)

URL = "http://clips.example/a.mp4"


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "clip.part"


def get(downloader: Downloader, part: Path, url: str = URL) -> Source:
    return downloader.download(url, part, threading.Event())


def refused(downloader: Downloader, part: Path, url: str = URL) -> str:
    with pytest.raises(DownloadError) as caught:
        get(downloader, part, url)
    return str(caught.value)


# Where


def test_a_file_arrives_whole_from_the_host_that_was_asked(server: Server, part: Path) -> None:
    server.pages["/a.mp4?x=1"] = [file()]
    world = World(server)
    source = get(world.downloader(user_agent="tests"), part, URL + "?x=1")
    assert part.read_bytes() == CLIP
    assert source == Source(URL + "?x=1", URL + "?x=1", "video/mp4", ".mp4", len(CLIP), '"one"', None)
    [(_, headers)] = server.requests
    assert headers["Host"] == "clips.example"
    assert headers["User-Agent"] == "tests"
    assert headers["Accept-Encoding"] == "identity"
    assert (world.looked_up, world.dialled) == (["clips.example"], [PUBLIC])


def test_this_machine_is_reached_only_where_it_is_allowed(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [file()]
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.1", "127.1", "[::1]", "[::ffff:127.0.0.1]"):
        assert "not of the public internet" in refused(Downloader(), part, f"http://{host}:{server.port}/a.mp4")
    assert server.requests == []
    assert get(Downloader(allow_private=["127.0.0.1"]), part, server.url("/a.mp4")).size == len(CLIP)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.1:{port}/secret",
        "//localhost:{port}/secret",
        "http://2130706433:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://metadata.example/computeMetadata/v1/",
    ],
)
def test_a_redirect_to_a_private_address_is_refused(code: int, to: str, server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [redirect(to.format(port=server.port), code)]
    server.pages["/secret"] = [file()]
    names = {"localhost": [["127.0.0.1"]], "metadata.example": [["169.254.169.254"]]}
    world = World(server, names)
    assert "not of the public internet" in refused(world.downloader(), part)
    assert world.dialled == [PUBLIC]
    assert server.asked("/secret") == 0
    assert not part.exists()


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("file:///etc/passwd", "scheme 'file'"),
        ("ftp://clips.example/a.mp4", "scheme 'ftp'"),
        ("data:video/mp4;base64,AAAA", "scheme 'data'"),
        ("http://user:word@clips.example/", "a user or a password"),
        ("http://clips.example\\@127.0.0.1/", "backslash"),
        ("http://[/", "no URL"),
        ("", "without a place to go"),
        ("/a.mp4", "more than 5 redirects"),
    ],
)
def test_a_redirect_to_nowhere_is_refused(to: str, reason: str, server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [redirect(to)]
    assert reason in refused(World(server).downloader(), part)


def test_redirects_are_followed_each_host_looked_up_once(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [redirect("//cdn.example/b")]
    server.pages["/b"] = [redirect("/c%20d?\u00e9=1")]
    server.pages["/c%20d?%E9=1"] = [file()]
    world = World(server, {"cdn.example": [["8.8.8.8"]]})
    source = get(world.downloader(max_redirects=2), part)
    assert source.final_url == "http://cdn.example/c%20d?%E9=1"
    assert world.looked_up == ["clips.example", "cdn.example", "cdn.example"]
    assert world.dialled == [PUBLIC, "8.8.8.8", "8.8.8.8"]
    assert "more than 1 redirects" in refused(world.downloader(max_redirects=1), part.with_name("other"))


def test_a_name_that_changes_its_answer_is_asked_once_and_the_checked_address_is_used(
    server: Server, part: Path
) -> None:
    server.pages["/a.mp4"] = [file()]
    world = World(server, {"clips.example": [[PUBLIC], ["127.0.0.1"]]})
    get(world.downloader(), part)
    assert (world.looked_up, world.dialled) == (["clips.example"], [PUBLIC])


def test_a_name_that_changes_its_answer_between_tries_is_refused(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [status(503), file()]
    world = World(server, {"clips.example": [[PUBLIC], ["127.0.0.1"]]})
    assert "clips.example, which is 127.0.0.1," in refused(world.downloader(), part)
    assert world.dialled == [PUBLIC]


def test_the_next_address_is_tried_where_one_does_not_answer(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [file()]
    world = World(server, {"clips.example": [["2a00:1450::1", PUBLIC]]})

    def dial(address: str, port: int, seconds: float) -> Any:
        if ":" in address:
            world.dialled.append(address)
            raise OSError("no route")
        return world.dial(address, port, seconds)

    assert get(world.downloader(dial=dial), part).size == len(CLIP)
    assert world.dialled == ["2a00:1450::1", PUBLIC]


def test_proxies_of_the_environment_are_not_used(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.pages["/a.mp4"] = [file()]
    assert get(World(server).downloader(), part).size == len(CLIP)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of clips.example, which nobody but the tests trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout - -out - -days 2 -subj /CN=clips.example -addext"
    made = subprocess.run([*command.split(), "subjectAltName=DNS:clips.example"], check=True, capture_output=True)
    path.write_bytes(made.stdout)
    return path


@pytest.fixture
def tls(certificate: Path) -> Iterator[tuple[Server, ssl.SSLContext]]:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate)
    server = Server(ours)
    yield server, ssl.create_default_context(cafile=str(certificate))
    server.close()


def test_tls_is_about_the_name_though_the_address_is_pinned(tls: Any, part: Path) -> None:
    server, context = tls
    server.pages["/a.mp4"] = [file()]
    world = World(server)
    assert get(world.downloader(context=context), part, "https://clips.example/a.mp4").size == len(CLIP)
    assert world.dialled == [PUBLIC]
    for url, settings in (
        ("https://other.example/a.mp4", {"context": context}),  # another name than the certificate's
        (f"https://{PUBLIC}/a.mp4", {"context": context}),
        ("https://clips.example/a.mp4", {}),  # nobody whom the system trusts has signed it
    ):
        assert "certificate is not accepted" in refused(world.downloader(**settings), part.with_name("other"), url)
    assert server.asked("/a.mp4") == 1


def test_a_redirect_from_https_to_http_is_refused(tls: Any, part: Path) -> None:
    server, context = tls
    server.pages["/a.mp4"] = [redirect("http://clips.example/b.mp4")]
    server.pages["/up"] = [redirect("https://clips.example/b.mp4")]
    server.pages["/b.mp4"] = [file()]
    downloader = World(server).downloader(context=context)
    assert "redirected from https to http" in refused(downloader, part, "https://clips.example/a.mp4")
    assert server.asked("/b.mp4") == 0
    assert get(downloader, part, "https://clips.example/up").final_url == "https://clips.example/b.mp4"


# What and how much


@pytest.mark.parametrize("length", [True, False])
def test_a_file_that_is_too_large_is_refused_and_nothing_stays(length: bool, server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [file(length=length)]
    assert "download.max_bytes is 1000000" in refused(World(server).downloader(max_bytes=1_000_000), part)
    assert list(part.parent.iterdir()) == []
    assert get(World(server).downloader(max_bytes=len(CLIP)), part).size == len(CLIP)


def chunks(*, whole: bool) -> Reply:
    """Two chunks of CLIP, and the empty one at the end where it is whole."""

    def reply(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nTransfer-Encoding: chunked\r\n\r\n")
        for data in (CLIP[:1000], CLIP[1000:5000]):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if whole:
            handler.wfile.write(b"0\r\n\r\n")

    return reply


def test_a_file_in_chunks_has_no_length_and_no_end_before_its_last_chunk(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [chunks(whole=False), chunks(whole=True)]
    assert get(World(server).downloader(), part).size == 5000
    assert part.read_bytes() == CLIP[:5000]
    assert server.asked("/a.mp4") == 2


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("video/webm", ".webm"), ("Video/MP4; codecs=avc1", ".mp4"), ("image/gif", ".gif"), ("image/jpeg", ".jpg")],
)
def test_the_suffix_is_that_of_the_content_type(kind: str, suffix: str, server: Server, part: Path) -> None:
    server.pages["/a.exe"] = [file(kind=kind)]
    assert get(World(server).downloader(), part, "http://clips.example/a.exe").suffix == suffix


@pytest.mark.parametrize(
    "kind", ["text/html", "application/octet-stream", "image/svg+xml", "video/../../x", "multipart/byteranges", None]
)
def test_another_content_type_is_refused(kind: str | None, server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [file(kind=kind)]
    assert "content type" in refused(World(server).downloader(), part)
    assert not part.exists()


def test_a_server_that_does_not_know_the_type_is_believed_by_the_url_where_that_is_allowed(
    server: Server, part: Path
) -> None:
    server.pages["/a.mp4"] = [redirect("/signed")]
    server.pages["/signed"] = server.pages["/a.exe"] = [file(kind="application/octet-stream")]
    downloader = World(server).downloader(content_types=["video/*", "application/octet-stream"])
    assert get(downloader, part).suffix == ".mp4"
    assert "is not one of a video" in refused(downloader, part.with_name("other"), "http://clips.example/a.exe")


@pytest.mark.parametrize("length", [True, False])
def test_an_empty_file_is_refused(length: bool, server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [file(b"", length=length)]
    assert refused(World(server).downloader(), part) == "the file is empty"


def test_compressed_bytes_are_refused(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [file(Content_Encoding="gzip")]
    assert "content encoding gzip" in refused(World(server).downloader(), part)


# How long


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 100000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: ",
    ],
)
def test_a_server_that_sends_a_byte_now_and_then_does_not_hold_us(head: bytes, server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [drip(head)]
    downloader = World(server).downloader(deadline=0.3, read_timeout=60.0)
    assert "the deadline of 0.3 s" in refused(downloader, part)
    assert server.asked("/a.mp4") == 1


def test_the_deadline_counts_all_tries_together(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [status(503)]
    reason = refused(World(server).downloader(deadline=2.0, retries=10**6), part)
    assert "HTTP 503" in reason or "the deadline of 2.0 s" in reason, reason  # between two tries, or within one
    assert server.asked("/a.mp4") > 2


def test_a_silent_server_is_asked_again_and_given_up(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [silence]
    assert refused(World(server).downloader(read_timeout=0.1), part) == "the server is silent; tried 3 times"
    assert server.asked("/a.mp4") == 3


def test_a_download_stops_when_it_is_told_to(server: Server, part: Path) -> None:
    stop = threading.Event()
    server.pages["/a.mp4"] = [file(cut=500_000, before=lambda handler: stop.set())]
    with pytest.raises(Stopped):
        World(server).downloader(retries=10**6).download(URL, part, stop)
    assert server.asked("/a.mp4") == 1


# Trying again, and going on


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(code: int, server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [status(code), status(code), file()]
    assert get(World(server).downloader(), part).size == len(CLIP)


def test_a_busy_server_says_when(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [status(429, Retry_After="0.2"), file()]
    start = time.monotonic()
    get(World(server).downloader(), part)
    assert time.monotonic() - start >= 0.2
    server.pages["/b.mp4"] = [status(429, Retry_After="3600")]
    reason = refused(World(server).downloader(), part, "http://clips.example/b.mp4")
    assert reason == "HTTP 429, and asks to wait 3600 s; tried 1 times"


@pytest.mark.parametrize("code", [204, 206, 304, 400, 401, 403, 404, 410])
def test_another_answer_is_final(code: int, server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [status(code)]
    assert refused(World(server).downloader(), part) == f"HTTP {code}"
    assert server.asked("/a.mp4") == 1


def test_a_broken_download_goes_on_where_it_was(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [file(cut=300_000), file(cut=600_000), file()]
    get(World(server).downloader(), part)
    assert part.read_bytes() == CLIP
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges == [None, "bytes=300000-", "bytes=600000-"]
    assert server.requests[1][1]["If-Range"] == '"one"'


def test_it_goes_on_in_another_process_too(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [file(cut=300_000), file()]
    assert "ended after 300000 of 1048576 bytes" in refused(World(server).downloader(retries=0), part)
    assert part.stat().st_size == 300_000
    get(World(server).downloader(retries=0), part)
    assert part.read_bytes() == CLIP
    assert server.requests[1][1]["Range"] == "bytes=300000-"
    get(World(server).downloader(retries=0), part)  # it is whole: nobody is asked
    assert server.asked("/a.mp4") == 2


def test_the_date_of_the_file_serves_where_there_is_no_strong_tag(server: Server, part: Path) -> None:
    date = "Tue, 02 Jan 2024 03:04:05 GMT"
    pages = [file(cut=300_000, etag='W/"one"', Last_Modified=date), file(etag='W/"one"', Last_Modified=date)]
    server.pages["/a.mp4"] = pages
    get(World(server).downloader(), part)
    assert part.read_bytes() == CLIP
    assert server.requests[1][1]["If-Range"] == date


OTHER = CLIP[::-1]


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (file(cut=300_000, etag=None), [file(OTHER, etag=None)]),  # nothing tells whether it is the same file
        (file(cut=300_000), [file(OTHER, ranges=False)]),  # no ranges
        (file(cut=300_000), [file(OTHER, etag='"two"')]),  # another file now
        (file(cut=300_000), [status(416), file(OTHER)]),
        (file(cut=300_000), [file(OTHER + b"more", etag='"one"'), file(OTHER)]),  # a tag that lies about the size
    ],
)
def test_what_cannot_go_on_starts_anew(first: Reply, later: list[Reply], server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [first, *later]
    source = get(World(server).downloader(), part)
    assert part.read_bytes() == OTHER
    assert source.size == len(OTHER)


@pytest.mark.parametrize(
    ("given", "etag"),
    [
        ("bytes 0-1048575/1048576", '"one"'),
        ("bytes 300001-1048575/1048576", '"one"'),
        ("bytes 300000-1048576/1048577", '"one"'),
        ("300000-", '"one"'),
        (None, '"one"'),
        ("bytes 300000-1048575/1048576", '"two"'),
    ],
)
def test_another_part_than_the_one_asked_for_is_not_taken(
    given: str | None, etag: str, server: Server, part: Path
) -> None:
    def wrong(handler: Any) -> None:
        handler.send_response(206)
        handler.send_header("Content-Type", "video/mp4")
        handler.send_header("ETag", etag)
        if given is not None:
            handler.send_header("Content-Range", given)
        handler.end_headers()
        handler.wfile.write(OTHER[300_000:])

    server.pages["/a.mp4"] = [file(cut=300_000), wrong, file()]
    get(World(server).downloader(), part)
    assert part.read_bytes() == CLIP


def test_the_rest_of_a_file_is_held_to_the_limits_too(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [file(length=False), file()]
    get(World(server).downloader(), part)
    part.write_bytes(CLIP[:200_000])  # as if it had been killed
    assert "download.max_bytes is 900000" in refused(World(server).downloader(max_bytes=900_000), part)
    assert server.requests[1][1]["Range"] == "bytes=200000-"
    assert not part.exists()


def test_a_part_of_another_url_is_not_gone_on_with(server: Server, part: Path) -> None:
    server.pages["/a.mp4"] = [file(cut=300_000)]
    server.pages["/b.mp4"] = [file(OTHER)]
    refused(World(server).downloader(retries=0), part)
    get(World(server).downloader(), part, "http://clips.example/b.mp4")
    assert part.read_bytes() == OTHER


@pytest.mark.parametrize(
    "settings",
    [
        {"schemes": ["ftp"]},
        {"schemes": []},
        {"max_bytes": 0},
        {"deadline": 0.0},
        {"first_wait": 2.0, "longest_wait": 1.0},
        {"retries": -1},
        {"allow_private": ["a b"]},
    ],
)
def test_limits_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"download|host"):
        Downloader(**settings)
