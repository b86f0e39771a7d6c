"""Pushing to the Hub, against a fake of its HTTP interface: what arrives, patience, and never a deletion."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import huggingface_hub
import pytest

from common.hub import HubError, Patience, files_to_push, patiently, push
from common.made import RECORD
from tests.common.fake_hub import TOKEN, Answer, FakeHub, serving

WEIGHTS = bytes(range(256)) * 5000  # 1.28 MB
CREATE, VALIDATE, PREUPLOAD = "/api/repos/create", "/api/validate-yaml", "/preupload/"
BATCH, STORAGE, COMMIT = "/objects/batch", "/storage/", "/commit/"
BUSY = Answer(429, "slow down", {"Retry-After": "7"})


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub()) as hub:
        yield hub


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that somebody wanted to sleep, in place of the sleep; the token of the environment."""
    wanted: list[float] = []
    monkeypatch.setattr(time, "sleep", wanted.append)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the fake speaks the older protocol
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return wanted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "more").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "more" / "other.bin").write_bytes(WEIGHTS[::-1])
    (folder / "README.md").write_text("---\nlibrary_name: framelab\n---\n\n# it\n")
    (folder / "config.yaml").write_text("name: it\n")
    (folder / RECORD).write_text("{}")
    return folder


def send(hub: FakeHub, folder: Path, *, private: bool = True, patience: Patience | None = None) -> str:
    return push(folder, repo="me/it", private=private, message="m", endpoint=hub.address, patience=patience)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name, _ in files_to_push(folder)}


def test_what_arrives_is_equal_byte_for_byte(hub: FakeHub, folder: Path) -> None:
    url = send(hub, folder)
    assert hub.files == content(folder)
    assert set(hub.files) == {"README.md", "config.yaml", "model.safetensors", "more/other.bin"}
    assert url == f"{hub.address}/me/it/commit/{1:040x}"
    assert hub.private
    assert hub.count("PUT", STORAGE) == 2


def test_a_second_push_sends_what_is_new_and_leaves_the_rest(hub: FakeHub, folder: Path) -> None:
    send(hub, folder)
    hub.files["notes.md"] = b"written on the Hub"
    (folder / "config.yaml").write_text("name: other\n")
    (folder / "more" / "other.bin").unlink()
    send(hub, folder)
    assert [line["value"]["path"] for line in hub.commits[1] if line["key"] != "header"] == ["config.yaml"]
    assert {"notes.md", "more/other.bin"} <= hub.files.keys()
    assert hub.count("PUT", STORAGE) == 2
    send(hub, folder)
    assert len(hub.commits) == 2  # nothing changed


def test_a_push_that_broke_goes_on_where_it_was(hub: FakeHub, folder: Path) -> None:
    hub.troubles = [(COMMIT, Answer(400, {"error": "broken"}))]
    with pytest.raises(HubError, match=r"answered 400.*nothing was deleted; run the command again"):
        send(hub, folder)
    assert hub.files == {}
    assert hub.count("PUT", STORAGE) == 2
    send(hub, folder)
    assert hub.files == content(folder)
    assert hub.count("PUT", STORAGE) == 2  # the large files had arrived


@pytest.mark.parametrize("where", [CREATE, VALIDATE, PREUPLOAD, BATCH, STORAGE, COMMIT])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_waited_for_as_long_as_it_says(
    where: str, status: int, hub: FakeHub, folder: Path, waits: list[float]
) -> None:
    hub.troubles = [(where, BUSY._replace(status=status))]
    send(hub, folder)
    assert hub.files == content(folder)
    assert any(7 <= wait <= 8 for wait in waits), waits  # the library adds a second of its own


def test_a_date_to_come_back_at_is_understood(hub: FakeHub, folder: Path, waits: list[float]) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    hub.troubles = [(COMMIT, Answer(429, {}, {"Retry-After": when}))]
    send(hub, folder)
    assert 90 <= waits[0] <= 101
    hub.troubles = [(CREATE, Answer(429, {}, {"ratelimit": '"api";r=0;t=55'}))]
    send(hub, folder)
    assert waits[1] == 55


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        (CREATE, Answer(409, {"error": "Cannot create repo: another conflicting operation is in progress"})),
        (COMMIT, Answer(409, {"error": "conflict"})),
        (COMMIT, Answer(412, {"error": "A commit has happened since. Please refresh and try again."})),
    ],
)
def test_a_conflict_is_waited_out_and_nothing_is_deleted(
    where: str, answer: Answer, hub: FakeHub, folder: Path, waits: list[float]
) -> None:
    hub.troubles = [(where, answer)] * 2
    send(hub, folder)
    assert hub.files == content(folder)
    assert waits == [2.0, 4.0]


@pytest.mark.parametrize(
    ("where", "answer", "message"),
    [
        (CREATE, BUSY, "429: .*still after 3 tries"),
        (VALIDATE, BUSY, "429: .*still after 3 tries"),
        (COMMIT, BUSY, "429: .*still after 3 tries.*nothing was deleted"),
        (COMMIT, Answer(500, {"error": "no"}), "500: .*still after 3 tries"),
        (COMMIT, Answer(412, {"error": "A commit has happened since"}), "412: A commit has happened.*after 3 tries"),
        (CREATE, Answer(409, {"error": "another conflicting operation is in progress"}), "409: .*after 3 tries"),
    ],
)
def test_patience_ends(
    where: str, answer: Answer, message: str, hub: FakeHub, folder: Path, waits: list[float]
) -> None:
    hub.troubles = [(where, answer)] * 50
    with pytest.raises(HubError, match=message):
        send(hub, folder, patience=Patience(tries=3))
    assert hub.count("POST", where) == 3
    assert len(waits) == 2
    assert hub.files == {}


@pytest.mark.parametrize("where", [PREUPLOAD, BATCH, STORAGE])
def test_patience_of_the_library_is_not_multiplied_by_ours(where: str, hub: FakeHub, folder: Path) -> None:
    hub.troubles = [(where, BUSY)] * 50
    with pytest.raises(HubError, match="the Hub is busy"):
        send(hub, folder)
    assert hub.count("POST", where) + hub.count("PUT", where) <= 12  # six for each of the two large files


def test_an_hour_of_waiting_is_said_instead_of_done(hub: FakeHub, folder: Path, waits: list[float]) -> None:
    hub.troubles = [(COMMIT, Answer(429, {}, {"Retry-After": "3600"}))]
    with pytest.raises(HubError, match="asks for 3600 s; nothing was deleted; run the command again"):
        send(hub, folder)
    assert waits == []


def test_a_token_that_is_wrong_missing_or_too_weak_is_said(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits: list[float]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "another-token")
    with pytest.raises(HubError, match=r"401.*hf auth login.*HF_TOKEN") as caught:
        send(hub, folder)
    assert "another-token" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.exists = True
    hub.troubles = [(PREUPLOAD, Answer(403, {"error": "you need write access"}))]
    with pytest.raises(HubError, match=r"may not write to me/it.*hf auth login.*HF_TOKEN"):
        send(hub, folder)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.asked.clear()
    with pytest.raises(HubError, match=r"no Hugging Face token.*hf auth login"):
        send(hub, folder)
    assert hub.asked == []
    assert waits == []


def test_weights_do_not_become_public_by_accident(hub: FakeHub, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.exists, hub.private = True, False
    with pytest.raises(HubError, match=r"me/it is public; say export\.private=false"):
        send(hub, folder)
    assert hub.files == {}
    send(hub, folder, private=False)
    assert hub.files == content(folder)
    hub.private = True
    send(hub, folder, private=False)
    assert "is private and stays so" in caplog.text


@pytest.mark.parametrize("repo", ["it", "me/it/too", "me/i t", "me/--"])
def test_a_name_that_the_hub_does_not_take_is_refused_at_once(repo: str, hub: FakeHub, folder: Path) -> None:
    with pytest.raises(HubError, match=r"export\.push="):
        push(folder, repo=repo, private=True, message="m", endpoint=hub.address)
    assert hub.asked == []


def test_a_hub_that_cannot_be_reached_is_tried_a_few_times(folder: Path, waits: list[float]) -> None:
    with pytest.raises(HubError, match=r"me/it: .*run the command again"):
        push(folder, repo="me/it", private=True, message="m", endpoint="http://127.0.0.1:1", patience=Patience(tries=3))
    assert waits == [2.0, 4.0]


@pytest.mark.parametrize(
    "error", [PermissionError("no access to the storage"), RuntimeError("shard"), ValueError("LFS")]
)
def test_an_error_of_the_transfer_itself_says_how_to_go_on(error: Exception, waits: list[float]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(HubError, match=f"me/it: {error}; nothing was deleted; run the command again"):
        patiently(fail, repo="me/it", patience=Patience())
    assert waits == []
