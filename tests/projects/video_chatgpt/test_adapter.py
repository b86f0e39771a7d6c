"""The published adapter: every form read, ours written in its layout, wrong ones named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from common.weights.source import WeightsError
from projects.video_chatgpt.adapter import (
    enlarged,
    published_state,
    read_adapter,
    refuse_other_base,
    trained_state,
)

VOCAB, WIDTH, FEATURES = 20, 8, 6
PUBLISHED_BYTES = 541_179_904  # of the three tensors of video_chatgpt-7B.bin


def base() -> Tensor:
    return torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(0)).half()


def trained() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "model.projector.weight": torch.randn(WIDTH, FEATURES),
        "model.projector.bias": torch.randn(WIDTH),
        "model.boundary": torch.randn(2, WIDTH),
    }


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


def read_back(path: Path) -> dict[str, Tensor]:
    return trained_state(read_adapter(path), start_id=VOCAB + 1, end_id=VOCAB + 2, source=path.name)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_written_in_the_published_layout_and_read_back(tmp_path: Path) -> None:
    published = published_state(trained(), embedding=base())
    assert list(published) == ["model.embed_tokens.weight", "model.mm_projector.weight", "model.mm_projector.bias"]
    assert all(value.dtype == torch.float32 for value in published.values())
    embedding = published["model.embed_tokens.weight"]
    assert torch.equal(embedding[:VOCAB], base().float())
    torch.testing.assert_close(embedding[VOCAB], base().float().mean(dim=0), rtol=0, atol=1e-3)
    assert torch.equal(embedding[VOCAB + 1 :], trained()["model.boundary"])
    assert same(read_back(save(tmp_path / "a.bin", published)), trained())


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize(
    "names",
    [
        ("model.mm_projector", "model.embed_tokens.weight"),
        ("mm_projector", "embed_tokens.weight"),
        ("mm_projector", "model.embed_in.weight"),
        ("module.model.mm_projector", "module.model.embed_tokens.weight"),
        ("base_model.model.model.mm_projector", "base_model.model.model.embed_tokens.weight"),
    ],
)
def test_every_form_of_the_names_is_read(names: tuple[str, str], suffix: str, tmp_path: Path) -> None:
    published = list(published_state(trained(), embedding=base()).values())
    file = {names[1]: published[0], f"{names[0]}.weight": published[1], f"{names[0]}.bias": published[2]}
    assert same(read_back(save(tmp_path / f"a{suffix}", file)), trained())


def test_the_compact_form_of_this_project_is_read(tmp_path: Path) -> None:
    assert same(read_back(save(tmp_path / "trained.safetensors", trained())), trained())


def test_a_projector_alone_leaves_the_boundary_as_it_starts(tmp_path: Path) -> None:
    wanted = {name: value for name, value in trained().items() if "projector" in name}
    file = {name.replace("projector", "mm_projector"): value.half() for name, value in wanted.items()}
    state = read_back(save(tmp_path / "mm_projector.bin", file))
    assert same(state, {name: value.half().float() for name, value in wanted.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.lm_head.weight": torch.zeros(2)}, r"model\.lm_head\.weight belongs to no adapter"),
        ({"mm_projector.bias": torch.zeros(WIDTH)}, r"mm_projector\.bias is a second bias"),
        ({"model.mm_projector.bias": torch.zeros(WIDTH + 1)}, "bias is 9 wide, the projector 8"),
        ({"model.mm_projector.bias": None}, r"no mm_projector\.bias"),
        ({"model.embed_tokens.weight": torch.zeros(VOCAB, WIDTH)}, "20 rows, so <vid_start>=21"),
        ({"model.embed_tokens.weight": torch.zeros(VOCAB + 4, WIDTH)}, "24 rows.*task.start_id"),
    ],
)
def test_a_wrong_adapter_is_named(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    file = published_state(trained(), embedding=base()) | change
    path = save(tmp_path / "a.bin", {name: value for name, value in file.items() if value is not None})
    with pytest.raises(WeightsError, match=message):
        read_back(path)


def test_the_base_must_be_that_of_the_adapter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = read_adapter(save(tmp_path / "a.bin", published_state(trained(), embedding=base())))
    assert refuse_other_base(adapter, base(), source="a", base="b") == 0
    moved = base()
    moved[3] += 1
    assert refuse_other_base(adapter, moved, source="a", base="b") == 1
    assert "1 of 20 rows" in caplog.text
    with pytest.raises(WeightsError, match="trained on another base"):
        refuse_other_base(adapter, base() + 1, source="a", base="b")
    with pytest.raises(WeightsError, match="8 wide, b is 16 wide"):
        refuse_other_base(adapter, torch.zeros(VOCAB, 16), source="a", base="b")
    with pytest.raises(WeightsError, match="the base is 16 wide, the adapter 8"):
        enlarged(torch.zeros(VOCAB, 16), trained()["model.boundary"])


def test_a_trained_language_model_does_not_fit_into_an_adapter() -> None:
    state = trained() | {"model.language_model.lm_head.weight": torch.zeros(VOCAB, WIDTH)}
    with pytest.raises(WeightsError, match="layout=merged"):
        published_state(state, embedding=base())


def published_size(device: str) -> dict[str, Tensor]:
    with torch.device(device):
        state = {
            "model.projector.weight": torch.zeros(4096, 1024),
            "model.projector.bias": torch.zeros(4096),
            "model.boundary": torch.zeros(2, 4096),
        }
        return published_state(state, embedding=torch.zeros(32003, 4096, dtype=torch.float16))


def test_bytes_at_published_size_are_the_published_ones() -> None:
    tensors = published_size("meta")
    assert tensors["model.embed_tokens.weight"].shape == (32006, 4096)
    assert sum(value.nbytes for value in tensors.values()) == PUBLISHED_BYTES


@pytest.mark.slow
def test_the_file_at_published_size(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", published_size("cpu"))
    assert 0 <= path.stat().st_size - PUBLISHED_BYTES < 4096  # names and shapes
    state = trained_state(read_adapter(path), start_id=32004, end_id=32005, source="a.bin")
    assert sum(value.numel() for value in state.values()) == 4_206_592
