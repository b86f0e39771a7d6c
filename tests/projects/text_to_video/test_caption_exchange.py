"""Requests out and responses in, with a made-up engine in vLLM's place; the published pickle, read and never run."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from projects.text_to_video.caption_exchange import import_responses, write_requests
from projects.text_to_video.caption_report import TextLimit
from projects.text_to_video.captions import CaptionError, key_of, read_captions
from projects.text_to_video.published_captions import import_published, read_caption_pickle
from tests.projects.text_to_video.tiny_chat import CLIP, ROOT, captions, rewriter, write_table

SCRIPT = ROOT / "projects/text_to_video/recaption_vllm.py"
TEXT = TextLimit(tokenizer=str(CLIP), max_tokens=9)
# Answers with the words of the caption in reverse, so that a mix-up would show; dies after some batches if told to.
ENGINE = """
import os

class SamplingParams:
    def __init__(self, *, max_tokens, temperature, top_p, seed):
        self.max_tokens = max_tokens

class _Reply:
    def __init__(self, text, finish_reason):
        self.text, self.finish_reason = text, finish_reason

class _Answer:
    def __init__(self, reply):
        self.outputs = [reply]

class LLM:
    def __init__(self, *, model, dtype, quantization, tensor_parallel_size, max_model_len, enable_prefix_caching):
        assert enable_prefix_caching
        self.calls = 0

    def chat(self, chats, sampling):
        self.calls += 1
        if self.calls > int(os.environ.get("CALLS", "1000")):
            os.kill(os.getpid(), 9)
        words = [chat[-1]["content"].split()[::-1] for chat in chats]
        assert all(chat[0] == {"role": "system", "content": "describe the video in 8 words"} for chat in chats)
        return [
            _Answer(_Reply(" ".join(each[: one.max_tokens]), "length" if len(each) > one.max_tokens else "stop"))
            for each, one in zip(words, sampling)
        ]
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "table", captions(30) + captions(4))


def ask(table: Path, root: Path, **changes: Any) -> dict[str, int]:
    settings = {"table": str(table), "output": str(root / "out"), "requests": str(root / "requests.jsonl")}
    return write_requests(**{**settings, "rewriter": rewriter(Path("some/model"))} | changes)


def answer(root: Path, *, calls: int = 1000, at_once: int = 7) -> int:
    """Runs the script with the made-up engine; returns its exit status."""
    (root / "engine").mkdir(exist_ok=True)
    (root / "engine/vllm.py").write_text(ENGINE)
    files = [str(root / "requests.jsonl"), str(root / "responses.jsonl")]
    command = [sys.executable, str(SCRIPT), *files, "--model", "some/model", "--at-once", str(at_once)]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root / "engine"), "CALLS": str(calls)}
    return subprocess.run(command, env=env, cwd=root, check=False, capture_output=True).returncode


def bring_in(table: Path, root: Path, **changes: Any) -> dict[str, Any]:
    settings = {"table": str(table), "output": str(root / "out"), "responses": [str(root / "responses.jsonl")]}
    return import_responses(**{**settings, "rewriter": rewriter(Path("some/model")), "text": TEXT} | changes)


def test_out_answered_and_in(table: Path, tmp_path: Path) -> None:
    assert ask(table, tmp_path) == {"captions": 30, "requests": 30}
    assert answer(tmp_path) == 0
    figures = bring_in(table, tmp_path)
    found = read_captions(tmp_path / "out")
    assert found == {key_of(text): " ".join(text.split()[::-1][:12]) for text in captions(30)}
    long = sum(len(text.split()) > 8 for text in found.values())
    assert figures.items() >= {"written": 30, "captions": 30, "left": 0, "empty": 0, "over_words": long}.items()
    assert figures["over_tokens"] >= long > 0
    assert figures["cut"] == 0
    before = (tmp_path / "out/captions_000_of_001.jsonl").read_bytes()
    assert bring_in(table, tmp_path)["written"] == 0
    assert (tmp_path / "out/captions_000_of_001.jsonl").read_bytes() == before
    assert ask(table, tmp_path)["requests"] == 0


def test_the_engine_killed_goes_on(table: Path, tmp_path: Path) -> None:
    ask(table, tmp_path)
    assert answer(tmp_path, calls=2) == -9
    path = tmp_path / "responses.jsonl"
    assert len(path.read_text().splitlines()) == 14
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CaptionError, match=r"responses\.jsonl line 14: .*let the engine go on"):
        bring_in(table, tmp_path)
    assert answer(tmp_path) == 0
    assert len(path.read_text().splitlines()) == 30
    assert bring_in(table, tmp_path)["left"] == 0


def test_parts_of_requests_and_what_is_missing(table: Path, tmp_path: Path) -> None:
    counts = [ask(table, tmp_path, shard=f"{part}/2", requests=str(tmp_path / f"{part}.jsonl")) for part in range(2)]
    assert sum(count["requests"] for count in counts) == 30
    (tmp_path / "0.jsonl").rename(tmp_path / "requests.jsonl")
    assert answer(tmp_path) == 0
    with pytest.raises(CaptionError, match=rf"{counts[1]['requests']} of 30 captions have no response"):
        bring_in(table, tmp_path)
    assert not (tmp_path / "out").exists()
    assert bring_in(table, tmp_path, max_missing=1.0)["left"] == counts[1]["requests"]
    assert ask(table, tmp_path)["requests"] == counts[1]["requests"]  # what is still missing
    assert answer(tmp_path) == 0
    assert bring_in(table, tmp_path)["left"] == 0


def test_a_reply_that_was_cut_is_counted(table: Path, tmp_path: Path) -> None:
    ask(table, tmp_path, rewriter=rewriter(Path("some/model"), max_new_tokens=8))
    answer(tmp_path)
    figures = bring_in(table, tmp_path, rewriter=rewriter(Path("some/model"), max_new_tokens=8))
    assert figures["cut"] == sum(len(text.split()) > 8 for text in captions(30)) > 0


def change(how: str, rows: list[dict[str, Any]]) -> str:
    if how == "twice":
        rows.append(rows[0] | {"text": "another"})
    elif how == "unknown":
        rows[3]["id"] = "0" * 32
    elif how == "field":
        del rows[3]["finish"]
    elif how == "number":
        rows[3]["text"] = 3
    elif how == "model":
        rows[3]["model"] = "another"
    elif how == "empty":
        rows.clear()
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("twice", r"responses\.jsonl line 31: a second response to \w{32}, with another text"),
        ("unknown", "line 4: no caption has the id 0000"),
        ("field", "line 4: finish is missing or no text"),
        ("number", "line 4: text is missing or no text"),
        ("model", "these are of another, some/model"),
        ("empty", "none: the files have no rows"),
    ],
)
def test_responses_that_do_not_fit_are_named(table: Path, tmp_path: Path, how: str, message: str) -> None:
    ask(table, tmp_path)
    answer(tmp_path)
    path = tmp_path / "responses.jsonl"
    path.write_text(change(how, [json.loads(line) for line in path.read_text().splitlines()]))
    with pytest.raises(CaptionError, match=message):
        bring_in(table, tmp_path)
    assert not (tmp_path / "out").exists()


def test_responses_of_another_model_do_not_mix(table: Path, tmp_path: Path) -> None:
    ask(table, tmp_path)
    answer(tmp_path)
    bring_in(table, tmp_path)
    path = tmp_path / "responses.jsonl"
    path.write_text(path.read_text().replace("some/model", "another"))
    with pytest.raises(CaptionError, match=r"other settings \(model: 'some/model' there, 'another' asked"):
        bring_in(table, tmp_path)


# The published pickle


def published(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def bring_published(table: Path, root: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"captions": str(root / "caption_dict.pkl"), "max_words": 8, "max_missing": 0.0}
    return import_published(table=str(table), output=str(root / "published"), text=TEXT, **settings | changes)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_published_captions_come_in(table: Path, tmp_path: Path, protocol: int) -> None:
    content = {f"videos/{i}.mp4" if i % 2 else f"{i}.mp4": f"new\n{i}" for i in range(30)} | {"x.mp4": "another"}
    published(tmp_path / "caption_dict.pkl", content, protocol)
    figures = bring_published(table, tmp_path)
    assert (figures["written"], figures["left"], figures["differing"]) == (30, 0, 0)
    assert read_captions(tmp_path / "published") == {key_of(text): f"new {i}" for i, text in enumerate(captions(30))}
    assert bring_published(table, tmp_path)["written"] == 0


def test_equal_originals_with_different_published_captions_are_counted(table: Path, tmp_path: Path) -> None:
    published(tmp_path / "caption_dict.pkl", {f"{i}.mp4": [f"new {i}"] for i in range(34)})
    assert bring_published(table, tmp_path)["differing"] == 4
    assert read_captions(tmp_path / "published")[key_of(captions(1)[0])] == "new 0"


def test_too_many_that_are_missing_are_an_error(table: Path, tmp_path: Path) -> None:
    published(tmp_path / "caption_dict.pkl", {f"{i}.mp4": "new" for i in range(27)})
    with pytest.raises(CaptionError, match="3 of 30 captions are not in"):
        bring_published(table, tmp_path)
    assert bring_published(table, tmp_path, max_missing=0.1)["left"] == 3


class Runs:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, ("ran",)


class Refers(pickle.Pickler):
    def persistent_id(self, value: Any) -> str | None:
        return "outside" if value == "a" else None


def refers(path: Path) -> bytes:
    with open(path, "wb") as file:
        Refers(file).dump({"v.mp4": "a"})
    return path.read_bytes()


BAD: dict[str, tuple[bytes, str]] = {
    "function": (pickle.dumps({"v.mp4": Runs()}), r"it calls \w+\.mkdir"),
    "key": (pickle.dumps({Runs(): "a"}), r"it calls \w+\.mkdir"),
    "bytes": (pickle.dumps({"v.mp4": bytearray(3)}, protocol=2), r"it calls __builtin__\.bytearray"),
    "set": (pickle.dumps({"v.mp4": {1}}), "'v.mp4' is not a text"),
    "number": (pickle.dumps({"v.mp4": 3}), "'v.mp4' is not a text"),
    "two": (pickle.dumps({"v.mp4": ["a", "b"]}), "'v.mp4' is not a text"),
    "name": (pickle.dumps({3: "a"}), "3 is not a text"),
    "list": (pickle.dumps(["a"]), "holds list, not captions"),
    "nothing": (pickle.dumps({}), "holds dict, not captions"),
    "truncated": (pickle.dumps({"v.mp4": "a" * 200})[:-100], "not a whole pickle"),
    "empty": (b"", "not a whole pickle"),
    "text": (b"<html>not found</html>", "not a whole pickle"),
    "calls a text": (b"\x80\x04\x8c\x01a)R.", "not a whole pickle"),
    "sets": (b"\x80\x04}}\x8c\x01a\x8c\x01bsb.", "not a whole pickle"),
}


@pytest.mark.parametrize("kind", [*BAD, "refers"])
def test_a_bad_pickle_is_named_and_runs_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "caption_dict.pkl"
    data, message = (refers(path), "refers to something outside") if kind == "refers" else BAD[kind]
    path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaptionError, match=rf"caption_dict\.pkl: .*({message})"):
        read_caption_pickle(path)
    assert [each.name for each in tmp_path.iterdir()] == ["caption_dict.pkl"]
