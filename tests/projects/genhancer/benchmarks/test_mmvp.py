"""MMVP-VLM on a made-up benchmark in the official layout: known answers give the known score."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from common.encoders.tower import load_tower
from common.video.clip import VideoReadError
from projects.genhancer.benchmarks.mmvp import PATTERNS, Mmvp
from projects.genhancer.benchmarks.outcome import ALL, BenchmarkError
from projects.genhancer.benchmarks.table import reader_of
from tests.projects.genhancer.benchmarks.towers import grey_reader, noise, write_grey, write_model

WHITE, BLACK = 255, 0
# Statements of a pair whose first picture is white and second black, and whether the pair is right.
KINDS = {
    ("light", "dark"): True,
    ("light", "same"): True,  # a tie goes to the second picture, where an even number belongs
    ("same", "dark"): False,  # and where an odd number does not
    ("dark", "light"): False,
    ("light", "light"): False,  # half right
    ("dark", "dark"): False,
    ("same", "same"): False,
}
RIGHT, WRONG = ([kind for kind, is_right in KINDS.items() if is_right is value] for value in (True, False))


def statements(pair: int) -> tuple[str, str]:
    """Of the nine patterns, the p-th has p right pairs."""
    pattern, place = divmod(pair, 15)
    return RIGHT[place % len(RIGHT)] if place < pattern else WRONG[place % len(WRONG)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders' names are not the patterns', and that of a second row is of no account."""
    root = tmp_path_factory.mktemp("mmvp")
    rows = [["Question ID", "Type", "Statement"]]
    for pair in range(135):
        first, second = 2 * pair + 1, 2 * pair + 2
        folder = f"Pattern {pair // 15}"
        for number, level, statement in zip((first, second), (WHITE, BLACK), statements(pair), strict=True):
            write_grey(root / "MLLM_VLM Images" / folder / f"{number}.jpg", level)
            rows.append([str(number), folder if number == first else "elsewhere", statement])
    write_rows(root, rows)
    return root


@pytest.fixture
def benchmark_folder(original: Path, tmp_path: Path) -> Path:
    """A table of one's own with the pictures of all."""
    shutil.copy(original / "Questions.csv", tmp_path)
    (tmp_path / "MLLM_VLM Images").symlink_to(original / "MLLM_VLM Images")
    return tmp_path


@pytest.fixture
def pictures(benchmark_folder: Path, original: Path) -> Path:
    """Pictures of one's own as well."""
    folder = benchmark_folder / "MLLM_VLM Images"
    folder.unlink()
    shutil.copytree(original / "MLLM_VLM Images", folder)
    return folder


def write_rows(folder: Path, rows: list[list[str]]) -> None:
    with open(folder / "Questions.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)


def read_rows(folder: Path) -> list[list[str]]:
    with open(folder / "Questions.csv", newline="") as file:
        return list(csv.reader(file))


def test_known_answers_give_the_known_score(benchmark_folder: Path) -> None:
    benchmark = Mmvp(folder=str(benchmark_folder))
    benchmark.identity()
    outcome = benchmark.run(grey_reader())
    measure = outcome.measures["pairs"]
    for number, pattern in enumerate(PATTERNS):
        part = measure.within(pattern)
        assert (sum(part.right), len(part.right)) == (number, 15)
    assert sum(measure.right) == 36
    report = outcome.report()["pairs"]
    assert list(report) == [ALL, *PATTERNS]
    assert report[ALL].value == pytest.approx(36 / 135)
    assert report[ALL].low < 36 / 135 < report[ALL].high
    assert report[PATTERNS[3]].value == pytest.approx(0.2)


def test_ties_go_to_the_second_picture_and_odd_numbers_belong_to_the_first(benchmark_folder: Path) -> None:
    choices = {"light": "img1", "dark": "img2", "same": "img2"}
    answers = Mmvp(folder=str(benchmark_folder)).run(grey_reader()).answers
    assert {statements(row["qid1"] // 2) for row in answers} == KINDS.keys()
    for row in answers:
        kind = statements(row["qid1"] // 2)
        assert (row["pred1"], row["pred2"]) == (choices[kind[0]], choices[kind[1]])
        assert (row["gt1"], row["gt2"]) == ("img1", "img2")
        assert row["right"] == KINDS[kind]
        assert all(row[f"score{i}"] == 0.5 for i in (1, 2) if kind[i - 1] == "same")


def reference(folder: Path, model_folder: Path, family: str) -> list[list[float]]:
    """The published script in a few lines: a pair at a time, everything by transformers."""
    model_class, processor_class = {
        "clip": (CLIPModel, CLIPImageProcessorPil),
        "siglip": (SiglipModel, SiglipImageProcessorPil),
    }[family]
    model = model_class.from_pretrained(model_folder).eval().float()
    processor = processor_class.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    rows, scores = read_rows(folder)[1:], []
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        names = [folder / "MLLM_VLM Images" / first[1] / f"{row[0]}.jpg" for row in (first, second)]
        pixels = processor(images=[Image.open(name) for name in names], return_tensors="pt").pixel_values
        pair = []
        for row in (first, second):
            text = tokenizer(["a photo of " + row[2]], padding="max_length", max_length=24, return_tensors="pt")
            with torch.no_grad():
                logits = model(input_ids=text.input_ids, pixel_values=pixels).logits_per_text
            pair.append(float(logits.softmax(dim=-1)[0][0]))
        scores.append(pair)
    return scores


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_it_agrees_with_the_published_script_on_a_model_of(
    family: str, benchmark_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    rows = read_rows(benchmark_folder)
    words = ["red", "blue", "green", "square", "ring", "cross", "left", "right", "top", "large"]
    for number, row in enumerate(rows[1:], start=1):
        row[2] = f"a {words[number % 10]} {words[number * 7 % 9]} and a {words[number // 10 % 10]}"
        folder = rows[number if number % 2 else number - 1][1]
        spots = noise(number, height=40 + number % 30, width=60 - number % 25)
        Image.fromarray(spots).save(pictures / folder / f"{number}.jpg")
    write_rows(benchmark_folder, rows)
    model = write_model(tmp_path / "model", family)
    tower = load_tower(weights=str(model))
    outcome = Mmvp(folder=str(benchmark_folder)).run(reader_of(tower, str(model), batch=16, workers=1, device="cpu"))
    expected = reference(benchmark_folder, model, family)
    found = [[row["score1"], row["score2"]] for row in outcome.answers]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=0, atol=2e-5)
    assert torch.tensor(expected).std() > 0.01
    rights = [pair[0] > 0.5 and not pair[1] > 0.5 for pair in expected]
    assert outcome.measures["pairs"].right == rights
    assert 0 < sum(rights) < 135


def test_269_rows_are_refused(benchmark_folder: Path) -> None:
    write_rows(benchmark_folder, read_rows(benchmark_folder)[:-1])
    with pytest.raises(BenchmarkError, match=r"Questions\.csv has 269 rows below its header, the benchmark has 270"):
        Mmvp(folder=str(benchmark_folder)).identity()


def test_a_missing_picture_is_named(benchmark_folder: Path, pictures: Path) -> None:
    (pictures / "Pattern 4" / "137.jpg").unlink()
    with pytest.raises(BenchmarkError, match=r"Pattern 4/137\.jpg is not there, of 1 missing"):
        Mmvp(folder=str(benchmark_folder)).identity()


def test_another_layout_is_refused(benchmark_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"nowhere/Questions\.csv is not there; fetch MMVP/MMVP_VLM"):
        Mmvp(folder=str(tmp_path / "nowhere")).identity()
    (benchmark_folder / "MLLM_VLM Images").rename(benchmark_folder / "images")
    with pytest.raises(BenchmarkError, match="of 270 missing pictures"):
        Mmvp(folder=str(benchmark_folder)).identity()


@pytest.mark.parametrize(
    ("line", "row", "message"),
    [
        (4, ["4", "Pattern 0"], "line 5 is not a number, a pattern and a statement"),
        (4, ["four", "Pattern 0", "light"], "line 5 is not a number"),
        (4, ["4", "Pattern 0", " "], "line 5 is not a number"),
        (4, ["3", "Pattern 0", "light"], "not numbered 1 to 270"),
    ],
)
def test_a_wrong_row_is_named(line: int, row: list[str], message: str, benchmark_folder: Path) -> None:
    rows = read_rows(benchmark_folder)
    rows[line] = row
    write_rows(benchmark_folder, rows)
    with pytest.raises(BenchmarkError, match=message):
        Mmvp(folder=str(benchmark_folder)).identity()


def test_rows_in_another_order_are_refused(benchmark_folder: Path) -> None:
    rows = read_rows(benchmark_folder)
    rows[1], rows[2] = rows[2], rows[1]
    write_rows(benchmark_folder, rows)
    with pytest.raises(BenchmarkError, match="2 and 1 are no pair"):
        Mmvp(folder=str(benchmark_folder)).identity()


def test_a_damaged_picture_is_named(benchmark_folder: Path, pictures: Path) -> None:
    (pictures / "Pattern 0" / "9.jpg").write_bytes(b"no picture")
    with pytest.raises(VideoReadError, match=r"9\.jpg: not an image"):
        Mmvp(folder=str(benchmark_folder)).run(grey_reader())


def test_the_identity_is_plain_json_and_follows_the_table(benchmark_folder: Path) -> None:
    before = json.dumps(Mmvp(folder=str(benchmark_folder)).identity())
    rows = read_rows(benchmark_folder)
    rows[1][2] = "dark"
    write_rows(benchmark_folder, rows)
    assert json.dumps(Mmvp(folder=str(benchmark_folder)).identity()) != before
