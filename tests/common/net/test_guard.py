"""What may be asked for: public addresses alone, however an address is written."""

import socket
from ipaddress import ip_address

import pytest

from common.net.guard import Place, Refused, host_name, is_public, locate

PUBLIC = "93.184.215.14"


def place(url: str, *answers: str, allow_private: tuple[str, ...] = (), schemes: tuple[str, ...] = ("http", "https")):
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return list(answers)

    found = locate(url, schemes=schemes, allow_private={host_name(host) for host in allow_private}, resolve=resolve)
    assert len(asked) <= 1
    return found


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f000001",
        "0x7F.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "3232235777",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "168.63.129.16",
        "192.0.0.192",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:169.254.169.254]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
        "[2001:0:7f00:1::1]",
        "[2001:0:5db8:d70e::80ff:fffe]",  # Teredo: a public server, the client is 127.0.0.1
        "[2a00:1450::5efe:10.0.0.1]",
        "[2a00:1450::200:5efe:127.0.0.1]",
        "[fe80::1]",
        "[fec0::1]",
        "[fd00:ec2::254]",
        "[ff0e::1]",
        "[2001:db8::1]",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
    ],
)
def test_a_number_that_means_no_public_address_is_refused_and_not_looked_up(host: str) -> None:
    with pytest.raises(Refused, match=r"not of the public internet"):
        locate(f"http://{host}/clip.mp4", schemes=("http",), allow_private=(), resolve=_never)


def _never(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was looked up")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("134744072", "8.8.8.8"),
        ("0x08080808", "8.8.8.8"),
        ("010.8.8.8", "8.8.8.8"),
        ("[2a00:1450:4001::1]", "2a00:1450:4001::1"),
        ("[::ffff:8.8.8.8]", "::ffff:808:808"),
        ("[64:ff9b::8.8.8.8]", "64:ff9b::808:808"),
    ],
)
def test_a_number_that_means_a_public_address_is_that_address(host: str, address: str) -> None:
    found = locate(f"http://{host}/clip.mp4", schemes=("http",), allow_private=(), resolve=_never)
    assert [ip_address(each) for each in found.addresses] == [ip_address(address)]


@pytest.mark.parametrize("carrier", ["::ffff:{}", "64:ff9b::{}"])
def test_a_carried_address_decides(carrier: str) -> None:
    assert is_public(ip_address(carrier.format("8.8.8.8")))
    assert not is_public(ip_address(carrier.format("10.8.8.8")))


@pytest.mark.parametrize(
    "answer", ["127.0.0.1", "169.254.169.254", "10.1.2.3", "::1", "::ffff:192.168.0.1", "fe80::1%1"]
)
def test_a_name_is_refused_for_any_of_its_addresses(answer: str) -> None:
    for answers in ([answer], [PUBLIC, answer], [answer, PUBLIC]):
        with pytest.raises(Refused, match="not of the public internet"):
            place("http://clips.example/clip.mp4", *answers)


def test_a_public_name_keeps_all_its_addresses_in_order() -> None:
    found = place("https://Clips.Example.:8443/a b/\u00e9.mp4?x=%20y&z=\u00fc#t=3", "2a00:1450::1", PUBLIC)
    target = "/a%20b/%C3%A9.mp4?x=%20y&z=%C3%BC"
    assert found == Place("https", "clips.example", 8443, target, ("2a00:1450::1", PUBLIC))
    assert found.authority == "clips.example:8443"
    assert place("http://[2a00:1450::1]/").authority == "[2a00:1450::1]"
    assert place("https://b\u00fccher.example", PUBLIC) == Place("https", "xn--bcher-kva.example", 443, "/", (PUBLIC,))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "scheme 'file'"),
        ("FILE:///etc/passwd", "scheme 'file'"),
        ("ftp://clips.example/clip.mp4", "scheme 'ftp'"),
        ("data:video/mp4;base64,AAAA", "scheme 'data'"),
        ("gopher://clips.example/", "scheme 'gopher'"),
        ("//clips.example/clip.mp4", "scheme ''"),
        ("http://user@clips.example/", "a user or a password"),
        ("http://user:word@clips.example/", "a user or a password"),
        ("http://clips.example@127.0.0.1/", "a user or a password"),
        ("http://clips.example\\@127.0.0.1/", "backslash"),
        ("http://clips.example/\r\nHost: other", "control character"),
        ("ht\ntp://clips.example/", "control character"),
        ("http:///clip.mp4", "not a name"),
        ("http://./", "not a name"),
        ("http://a..b/", "not a name"),
        ("http://127%2e0.0.1/", "not a name"),
        ("http://clips .example/", "not a name"),
        ("http://[fe80::1%25eth0]/", "not a name"),
        ("http://[::1/", "not a URL"),
        ("http://[::zz]/", "not a"),
        ("http://clips.example:99999/", "not a URL"),
        ("http://clips.example:80:90/", "not a"),
        ("http://clips.example:0/", "port 0"),
        ("http://" + "a" * 64 + ".example/", "not a name"),
    ],
)
def test_a_url_that_is_not_allowed_is_refused_before_anything_is_looked_up(url: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        locate(url, schemes=("http", "https"), allow_private=(), resolve=_never)


def test_a_scheme_can_be_forbidden() -> None:
    with pytest.raises(Refused, match="allowed: https"):
        place("http://clips.example/", PUBLIC, schemes=("https",))


def test_a_private_host_is_allowed_by_its_own_name_alone() -> None:
    allowed = ("Media.Lan", "127.0.0.1", "[0:0::1]")
    assert place("http://media.lan/x", "10.0.0.1", allow_private=allowed).addresses == ("10.0.0.1",)
    assert place("http://127.0.0.1:8000/x", allow_private=allowed).addresses == ("127.0.0.1",)
    assert place("http://[::1]/x", allow_private=allowed).addresses == ("::1",)
    for url in ("http://2130706433/x", "http://a.media.lan/x", "http://10.0.0.1/x"):
        with pytest.raises(Refused):
            place(url, "10.0.0.1", allow_private=allowed)


def test_a_name_that_is_not_there_is_refused_and_one_that_cannot_be_asked_for_now_is_not() -> None:
    def fails(code: int):
        def resolve(host: str, port: int) -> list[str]:
            raise socket.gaierror(code, "no")

        return resolve

    with pytest.raises(Refused, match=r"there is no host gone\.example"):
        locate("http://gone.example/", schemes=("http",), allow_private=(), resolve=fails(socket.EAI_NONAME))
    with pytest.raises(socket.gaierror):
        locate("http://busy.example/", schemes=("http",), allow_private=(), resolve=fails(socket.EAI_AGAIN))
