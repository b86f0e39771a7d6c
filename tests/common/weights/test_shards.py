"""Folders of weights: every layout reads the same, shards are bounded, and one tensor is in memory at a time."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.made import make_folder
from common.weights.shards import INDEX, divide, write_shards
from common.weights.source import Header, Weights, WeightsError, weights_folder

ROOT = Path(__file__).resolve().parents[3]


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "model.embed_tokens.weight": torch.randn(6, 4).half(),
        "model.a": torch.randn(3, 4).bfloat16(),
        "model.b": torch.randn(3, 4),
        "model.flag": torch.tensor([True, False, True]),
        "model.count": torch.tensor(7),
        "lm_head.weight": torch.randn(6, 4).half(),
    }


def save(folder: Path, layout: str) -> None:
    values = tensors()
    kind, _, sharding = layout.partition(" ")
    suffix, stem = ("safetensors", "model") if kind == "safetensors" else ("bin", "pytorch_model")

    def write(part: dict[str, Tensor], file: str) -> None:
        save_file(part, folder / file) if suffix == "safetensors" else torch.save(part, folder / file)

    if not sharding:
        return write(values, f"{stem}.{suffix}")
    names = list(values)
    files = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    for part, file in zip((names[:3], names[3:]), files, strict=True):
        write({name: values[name] for name in part}, file)
    if sharding == "index":
        weight_map = {name: files[position >= 3] for position, name in enumerate(names)}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return None


LAYOUTS = [f"{kind}{more}" for kind in ("safetensors", "bin") for more in ("", " shards", " index")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_the_same(layout: str, tmp_path: Path) -> None:
    save(tmp_path, layout)
    weights, expected = Weights(tmp_path), tensors()
    assert weights.headers.keys() == expected.keys()
    for name, value in expected.items():
        assert weights.headers[name] == Header(tuple(value.shape), value.dtype)
        assert torch.equal(weights.read(name), value)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.partition(" ")[2]])
def test_a_missing_shard_is_named(layout: str, tmp_path: Path) -> None:
    save(tmp_path, layout)
    next(iter(tmp_path.glob("*00002-of-*"))).unlink()
    with pytest.raises(WeightsError, match=r"00002-of-00002|1 of 2 shards"):
        Weights(tmp_path)


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_a_truncated_file_is_named(layout: str, tmp_path: Path) -> None:
    save(tmp_path, layout)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for kept in (*range(0, len(whole), max(1, len(whole) // 50)), len(whole) - 40, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(WeightsError, match=f"{path.name}.*fetch it again"):
            Weights(tmp_path)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_a_bin_that_calls_a_function_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        Weights(tmp_path)
    assert capsys.readouterr().out == ""


def test_an_index_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "safetensors index")
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"]["model.absent"] = "model-00001-of-00002.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"model\.absent"):
        Weights(tmp_path)


def test_names_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such folder"):
        weights_folder(str(tmp_path / "absent"))
    with pytest.raises(WeightsError, match="hf download nobody/nothing"):
        weights_folder("nobody/nothing")
    with pytest.raises(WeightsError, match="neither model"):
        Weights(tmp_path)


def write(folder: Path, values: dict[str, Tensor], max_shard_bytes: int) -> int:
    headers = {name: Header(tuple(value.shape), value.dtype) for name, value in values.items()}
    return write_shards(folder, headers=headers, read=values.__getitem__, max_shard_bytes=max_shard_bytes)


@pytest.mark.parametrize("bound", [1, 100, 10**9])
def test_what_is_written_reads_back_also_by_the_library(bound: int, tmp_path: Path) -> None:
    values = tensors()
    total = write(tmp_path, values, bound)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == {1: 6, 100: 3, 10**9: 1}[bound]
    again = {name: value for file in files for name, value in load_file(file).items()}
    assert again.keys() == values.keys()
    assert all(torch.equal(again[name], values[name]) for name in values)
    ours = Weights(tmp_path)
    assert all(torch.equal(ours.read(name), values[name]) for name in values)
    assert total == sum(value.nbytes for value in values.values())
    if len(files) > 1:
        index = json.loads((tmp_path / INDEX).read_text())
        assert index["metadata"]["total_size"] == total
        assert {name: file.name for file in files for name in load_file(file)} == index["weight_map"]


def test_shards_are_bounded_unless_one_tensor_is_greater() -> None:
    headers = {str(number): Header((size,), torch.int8) for number, size in enumerate([4, 4, 4, 20, 1, 9])}
    assert divide(headers, max_shard_bytes=10) == [["0", "1"], ["2"], ["3"], ["4", "5"]]


def test_one_tensor_lives_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def read(name: str) -> Tensor:
        nonlocal most
        tensor = torch.full((8, 8), float(name))
        alive.append(weakref.ref(tensor))
        most = max(most, sum(ref() is not None for ref in alive))
        return tensor

    write_shards(tmp_path, headers={str(n): Header((8, 8), torch.float32) for n in range(20)}, read=read)
    assert len(alive) == 20
    assert most <= 2


# Copies 96 MB in tensors of 2 MB and prints the peak of memory that is the process's own, in MB.
COPY = """
import sys, threading, time
from pathlib import Path
import torch
from common.weights.shards import write_shards
from common.weights.source import Weights

def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1000

folder = Path(sys.argv[1])
torch.zeros(1 << 20) + 1
source = Weights(folder)
before, peak, done = own(), 0.0, False
def watch():
    global peak
    while not done:
        peak = max(peak, own())
        time.sleep(0.001)
thread = threading.Thread(target=watch)
thread.start()
target = folder / "copy"
target.mkdir()
write_shards(target, headers=source.headers, read=lambda name: source.read(name) + 1, max_shard_bytes=40_000_000)
done = True
thread.join()
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_memory_is_that_of_a_few_tensors(suffix: str, tmp_path: Path) -> None:
    values = {str(number): torch.full((512, 1024), float(number)) for number in range(48)}
    if suffix == "bin":
        torch.save(values, tmp_path / "pytorch_model.bin")
    else:
        save_file(values, tmp_path / "model.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", COPY, str(tmp_path)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert float(done.stdout) < 20
    again = Weights(tmp_path / "copy")
    assert len(again.files) == 3
    assert torch.equal(again.read("5"), values["5"] + 1)


def test_a_made_folder_is_whole_known_and_made_once(tmp_path: Path) -> None:
    target, calls = tmp_path / "made", []

    def make(folder: Path) -> dict[str, int]:
        calls.append(folder)
        (folder / "x").write_text("x")
        return {"files": 1}

    def fail(folder: Path) -> dict[str, int]:
        (folder / "x").write_text("half")
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        make_folder(target, source={"a": 1}, make=fail)
    assert list(tmp_path.iterdir()) == []
    assert make_folder(target, source={"a": (1, 2)}, make=make) == {"files": 1}
    assert make_folder(target, source={"a": (1, 2)}, make=make) == {"files": 1}
    assert len(calls) == 1
    with pytest.raises(ValueError, match="made from something else"):
        make_folder(target, source={"a": (1, 3)}, make=make)
