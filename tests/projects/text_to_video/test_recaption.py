"""Captions rewritten once each: batches and the shared beginning change nothing, nothing is lost or made twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from projects.text_to_video.captions import CaptionError, key_of, read_captions
from projects.text_to_video.continuation import Continuation
from projects.text_to_video.rewriter import Rewriter, clean
from tests.experiments import in_turn
from tests.projects.text_to_video.tiny_chat import ROOT, captions, rewriter, run, write_chat, write_table

COUNT = 24


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat(tmp_path_factory.mktemp("model") / "chat")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table"), captions(COUNT) + captions(5))


@pytest.fixture(scope="module")
def whole(chat: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert run(rewriter(chat), table, folder)["written"] == COUNT
    return folder


def lines(folder: Path) -> list[str]:
    return [line for path in sorted(folder.glob("captions_*.jsonl")) for line in path.read_text().splitlines()]


def test_equal_captions_are_rewritten_once(whole: Path) -> None:
    written = [json.loads(line) for line in lines(whole)]
    assert sorted(row["key"] for row in written) == sorted(key_of(caption) for caption in captions(COUNT))
    assert [position for position, row in enumerate(written) if row.get("end")] == [3, 7, 11, 15, 19, 23]


def test_the_longest_come_first(whole: Path) -> None:
    lengths = {key_of(caption): len(caption.split()) for caption in captions(COUNT)}
    found = [lengths[json.loads(line)["key"]] for line in lines(whole)]
    assert found == sorted(found, reverse=True)
    assert len({*found}) > 1


@pytest.mark.parametrize("caption", captions(COUNT)[::7])
def test_what_is_written_is_what_generate_of_transformers_gives(chat: Path, whole: Path, caption: str) -> None:
    asked = rewriter(chat)
    model = AutoModelForCausalLM.from_pretrained(chat, dtype=torch.float32)
    ids = torch.tensor(asked.prompts([caption]))
    output = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=0)
    expected = clean(asked.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    assert read_captions(whole).get(key_of(caption), "") == expected


def test_the_shared_beginning_goes_through_the_model_once_and_changes_nothing(chat: Path) -> None:
    texts = captions(8)
    seen: list[int] = []
    replies = []
    for reuse in (True, False):
        asked = rewriter(chat, reuse_prefix=reuse)
        model = asked.build()
        seen.clear()
        handle = model.model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(args[0].shape[1]), with_kwargs=True
        )
        replies.append([asked.rewrite(texts[start : start + 4], model) for start in (0, 4)])
        handle.remove()
        prefix = asked.prefix()
        longest = max(len(ids) for ids in asked.prompts(texts))
        assert len(prefix) > 8
        assert seen.count(len(prefix)) == (1 if reuse else 0)
        assert max(seen) == (max(len(prefix), longest - len(prefix)) if reuse else longest)
    assert replies[0] == replies[1]
    assert len({written.caption for batch in replies[0] for written in batch}) > 4


def test_a_prompt_that_begins_otherwise_goes_without_the_shared_beginning(tmp_path: Path, table: Path) -> None:
    template = "{% if messages[-1]['content'].startswith('a red') %}user : {% endif %}"
    chat = write_chat(
        tmp_path / "chat", template + "{{ messages[0]['content'] }} ; {{ messages[-1]['content'] }} assistant :"
    )
    with_reuse, without = rewriter(chat), rewriter(chat, reuse_prefix=False)
    run(with_reuse, table, tmp_path / "with")
    run(without, table, tmp_path / "without")
    assert read_captions(tmp_path / "with") == read_captions(tmp_path / "without")


def continuation(chat: Path, **changes: Any) -> tuple[Rewriter, Continuation]:
    asked = rewriter(chat, **changes)
    return asked, asked.build()


def test_draws_belong_to_the_caption_and_the_seed(chat: Path) -> None:
    texts = captions(6)
    asked, model = continuation(chat, temperature=2.0, top_p=0.95)
    together = asked.rewrite(texts, model)
    alone = [asked.rewrite([text], model)[0] for text in reversed(texts)]
    assert together == alone[::-1]
    greedy, greedy_model = continuation(chat)
    assert together != greedy.rewrite(texts, greedy_model)
    other, other_model = continuation(chat, temperature=2.0, top_p=0.95, seed=1)
    assert other.rewrite(texts, other_model) != together


def test_draws_follow_the_probabilities_within_top_p(chat: Path) -> None:
    model = continuation(chat, temperature=1.0, top_p=0.75)[1]
    logits = torch.tensor([0.1, 0.5, 0.05, 0.3, 0.05]).log()
    draws = (torch.arange(1000) + 0.5) / 1000
    chosen = model._choose(logits.expand(1000, -1), draws)
    share = torch.bincount(chosen, minlength=5) / 1000
    torch.testing.assert_close(share, torch.tensor([0, 0.625, 0, 0.375, 0]), atol=0.002, rtol=0)


def test_a_reply_ends_at_its_end_or_at_the_greatest_length(chat: Path) -> None:
    asked, model = continuation(chat, max_new_tokens=2)
    cut = asked.rewrite(captions(8), model)
    asked, model = continuation(chat, max_new_tokens=60)
    whole = asked.rewrite(captions(8), model)
    assert any(each.cut for each in cut)
    for short, long in zip(cut, whole, strict=True):
        if not short.cut:
            assert short == long
        if not long.cut:
            replies = model(asked.prompts([captions(8)[whole.index(long)]]), seeds=[0])
            assert replies[0][-1] in model.ends


# Restarts


def test_started_again_nothing_is_loaded(chat: Path, table: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rewriter, "build", None)
    before = lines(whole)
    figures = run(rewriter(chat), table, whole)
    assert (figures["written"], figures["left"]) == (0, 0)
    assert lines(whole) == before


@pytest.mark.parametrize("kept", [0, 1, 60, 1000, 1300, 2400])
def test_cut_off_anywhere_it_ends_with_the_same_file(
    chat: Path, table: Path, whole: Path, tmp_path: Path, kept: int
) -> None:
    name = "captions_000_of_001.jsonl"
    content = (whole / name).read_bytes()
    assert len(content) > 2400
    (tmp_path / name).write_bytes(content[:kept])
    whole_batches = content[:kept].count(b'"end": true}\n')
    assert run(rewriter(chat), table, tmp_path)["written"] == COUNT - 4 * whole_batches
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("devices", [["cpu", "cpu"], "cpu"])
def test_devices_change_nothing(chat: Path, table: Path, whole: Path, tmp_path: Path, devices: Any) -> None:
    run(rewriter(chat), table, tmp_path, devices=devices)
    assert lines(tmp_path) == lines(whole)


def test_parts_make_all_of_it(chat: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    figures = [run(rewriter(chat), table, tmp_path, shard=f"{part}/3") for part in range(3)]
    assert sum(figure["written"] for figure in figures) == COUNT
    assert min(figure["written"] for figure in figures) > 0
    assert [figure["left"] for figure in figures][-1] == 0
    assert len(list(tmp_path.glob("captions_*_of_003.jsonl"))) == 3
    assert read_captions(tmp_path) == read_captions(whole)
    assert run(rewriter(chat), table, tmp_path)["written"] == 0  # another division of the work repeats nothing


def test_more_captions_are_added_to_what_is_there(chat: Path, whole: Path, table: Path, tmp_path: Path) -> None:
    run(rewriter(chat), write_table(tmp_path / "few", captions(10)), tmp_path / "out")
    first = lines(tmp_path / "out")
    assert run(rewriter(chat), table, tmp_path / "out")["written"] == COUNT - 10
    assert lines(tmp_path / "out")[:10] == first
    assert read_captions(tmp_path / "out") == read_captions(whole)


def test_captions_of_another_request_are_refused(chat: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match=r"other settings \(instruction: 'describe.*choose another task\.output"):
        run(rewriter(chat, max_words=9), table, whole)
    other = write_chat(tmp_path / "chat")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    with pytest.raises(CaptionError, match=r"other settings \(content:"):
        run(rewriter(other), table, whole)


# The report


def test_what_is_too_long_is_counted_and_listed(chat: Path, table: Path, whole: Path) -> None:
    figures = run(rewriter(chat), table, whole)
    found = read_captions(whole)
    assert figures["captions"] == COUNT
    assert figures["empty"] == COUNT - len(found)
    over = [text for text in found.values() if len(text.split()) > 8]
    assert figures["over_words"] == len(over)
    listed = [json.loads(line) for line in (whole / "too_long.jsonl").read_text().splitlines()]
    assert figures["over_tokens"] == sum(row["tokens"] > 9 for row in listed)
    assert {row["caption"] for row in listed} >= {*over}
    assert figures["over_tokens"] > 0
    assert all(row["tokens"] >= row["words"] + 2 for row in listed)  # both ends


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (" A man walks. ", "A man walks."),
        ('"A man walks."', "A man walks."),
        ("Here is the description:\n\nA man\nwalks.", "A man walks."),
        ("A man says: walk.", "A man says: walk."),
        ("A man walks. He says:\nhello", "hello"),
        ('"Go" and "stop"', 'Go" and "stop'),
        ("\u201cA man.\u201d", "A man."),
        ("", ""),
        ('"', '"'),
    ],
)
def test_replies_are_read_as_captions(reply: str, expected: str) -> None:
    assert clean(reply) == expected


# What cannot be done


def test_without_a_chat_template_it_says_so(table: Path, tmp_path: Path) -> None:
    model = ROOT / "common/tiny/weights/causal_lm"
    with pytest.raises(ValueError, match="has no chat template; choose a model that was tuned to chat"):
        run(rewriter(model), table, tmp_path)


def test_a_prompt_without_room_is_named_before_any_work(chat: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path, ["a red ring", "a " * 600])
    with pytest.raises(ValueError, match=r"a prompt of \d+ tokens, .* has room for 500: 'a a a"):
        run(rewriter(chat), table, tmp_path / "out")
    assert lines(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1}, "temperature from 0"),
        ({"top_p": 0}, "top_p above 0"),
        ({"max_new_tokens": 0}, "from 1"),
        ({"weights": "nowhere/at-all"}, "hf download nowhere/at-all"),
    ],
)
def test_bad_settings_of_the_model_are_named(
    chat: Path, table: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings = {"weights": str(chat), "instruction": "describe", "dtype": "float32"} | changes
    with pytest.raises(ValueError, match=message):
        run(Rewriter(**settings), table, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch": 0}, r"task\.batch=0"), ({"shard": "3/3"}, "shard=3/3"), ({"devices": "tpu"}, r"task\.devices=tpu")],
)
def test_bad_settings_are_named(chat: Path, table: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(rewriter(chat), table, tmp_path, **changes)


def test_a_damaged_line_is_named_and_two_texts_are_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match="no rewritten captions in"):
        read_captions(tmp_path)
    for name in ("settings.json", "captions_000_of_001.jsonl"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    path = tmp_path / "captions_000_of_002.jsonl"
    path.write_text("{}\n")
    with pytest.raises(CaptionError, match=r"captions_000_of_002\.jsonl line 1: not a rewritten caption"):
        read_captions(tmp_path)
    first = json.loads(lines(whole)[0])
    path.write_text(json.dumps(first | {"caption": "another", "end": True}) + "\n")
    with pytest.raises(CaptionError, match=f"caption {first['key']} has another text in another file"):
        read_captions(tmp_path)


def test_one_process_writes_at_a_time(chat: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = rewriter(chat)
    inner = Rewriter.rewrite

    def rewrite(self: Rewriter, texts: list[str], model: Continuation) -> Any:
        if threads:
            threads.clear()
            with pytest.raises(CaptionError, match="another process writes here"):
                run(asked, table, tmp_path)
        return inner(self, texts, model)

    threads = [1]
    monkeypatch.setattr(Rewriter, "rewrite", rewrite)
    assert run(asked, table, tmp_path)["written"] == COUNT
    assert not threads


# Killed for real


@in_turn(2)
def test_killed_twice_it_ends_with_the_same_file(chat: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table", captions(200))

    def command(output: Path) -> list[str]:
        task = ["task=recaption", f"task.table={table}", f"task.output={output}", f"task.rewriter.weights={chat}"]
        model = ["task.rewriter.dtype=float32", "task.rewriter.instruction=describe", "task.text.tokenizer=null"]
        where = [f"paths.data={tmp_path}", f"paths.outputs={tmp_path}", "task.batch=2", "task.devices=cpu"]
        return [sys.executable, "-m", "launchers.prepare", *task, *model, *where]

    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, check=True)
    killed = tmp_path / "killed"

    def done() -> int:
        return len(lines(killed)) if killed.exists() else 0

    for wanted in (20, 120):
        with subprocess.Popen(
            command(killed), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while done() < wanted:
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        assert wanted <= done() < 200
    subprocess.run(command(killed), cwd=ROOT, check=True)
    assert lines(killed) == lines(tmp_path / "whole")
    assert len(lines(killed)) == 200
