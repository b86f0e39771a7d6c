"""The direction of imports: launchers -> common, a project -> common, common -> neither; conf names the rest.

Read from the sources, imports inside functions and for types alone included.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("common", "launchers", "projects")

# A package may be imported by these files only; anywhere else it is an error.
ALLOWED = {
    "hydra": ["launchers/*", "common/config.py"],
    "omegaconf": ["launchers/*", "common/config.py"],
    "lightning": ["launchers/*", "projects/*", "common/*"],
    "av": ["common/video/pyav.py", "common/video/write.py"],
    "decord": ["common/video/decord.py"],
    "peft": ["common/lora.py"],
    # Where models and tokenizers are built, and the projects' own.
    "transformers": [
        "common/encoders/*",
        "common/latent/*",
        "common/chat/*",
        "common/text/*",
        "common/tiny/*",
        "common/weights/names.py",
        "common/weights/pretrained.py",
        "projects/*",
    ],
    "diffusers": ["common/latent/*", "common/tiny/*", "projects/*"],
    "wandb": [],  # named in YAML
    "pytorch_lightning": [],  # its name in this project is lightning
    "torchvision": [],  # decoding and transforms are common/video
    "datasets": ["projects/pix2pix_video/arrow.py"],
}
# Usable from a notebook, without a trainer.
WITHOUT_LIGHTNING = ["video", "encoders", "latent", "text", "chat", "shapes_world"]


def sources() -> Iterator[tuple[str, str]]:
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def imports(source: str) -> Iterator[str]:
    """Dotted names that a source imports; `from a import b` gives a.b, which tells the project."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module":
            yield from (str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant))


def violations(path: str, source: str) -> list[str]:
    """What a file imports and should not."""
    return [f"{path} imports {name}" for name in imports(source) if _forbidden(path.split("/"), path, name)]


def _forbidden(here: list[str], path: str, name: str) -> bool:
    there = name.split(".")
    if there[0] in OURS and _against_direction(here, there):
        return True
    if there[0] == "lightning" and here[0] == "common" and here[1] in WITHOUT_LIGHTNING:
        return True
    return there[0] in ALLOWED and not any(fnmatch(path, pattern) for pattern in ALLOWED[there[0]])


def _against_direction(here: list[str], there: list[str]) -> bool:
    if here[0] == there[0]:
        return here[0] == "projects" and here[1] != there[1]
    return there[0] != "common"


def test_every_import_follows_the_direction() -> None:
    checked = list(sources())
    assert len(checked) > 40
    assert [line for path, source in checked for line in violations(path, source)] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("common/video/decode.py", "import projects.video_chatgpt.model"),
        ("common/text/mask.py", "from launchers import train"),
        ("common/text/mask.py", "def f():\n    from launchers.train import main"),
        ("projects/genhancer/model.py", "from projects.video_chatgpt.model import Projector"),
        ("projects/genhancer/model.py", "from projects import video_chatgpt"),
        ("projects/genhancer/model.py", "import launchers.train"),
        ("launchers/train.py", "from projects.video_chatgpt.module import VideoChatGPT"),
        ("launchers/train.py", "import importlib\nimportlib.import_module('projects.video_chatgpt')"),
        ("projects/genhancer/module.py", "from omegaconf import DictConfig"),
        ("common/optim.py", "import hydra.utils"),
        ("common/text/prompt.py", "import lightning as L"),
        ("common/shapes_world/scene.py", "from lightning.pytorch import seed_everything"),
        ("common/video/sample.py", "import av"),
        ("common/video/decode.py", "from decord import VideoReader"),
        ("projects/llava_video/model.py", "import peft"),
        ("common/data/cache.py", "from transformers import AutoModel"),
        ("common/optim.py", "from diffusers.optimization import get_scheduler"),
        ("common/loggers.py", "import wandb"),
        ("common/video/transform.py", "from torchvision.transforms import v2"),
        ("common/data/module.py", "import pytorch_lightning"),
    ],
)
def test_a_made_up_violation_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("launchers/train.py", "import hydra\nfrom common.config import bind\nimport lightning"),
        ("projects/genhancer/module.py", "import lightning\nfrom common.text.prompt import render"),
        ("projects/genhancer/module.py", "from projects.genhancer.model import Denoiser"),
        ("common/callbacks/ema.py", "from lightning import Callback\nimport torch"),
        ("common/config.py", "from omegaconf import OmegaConf"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations(path, source) == []
