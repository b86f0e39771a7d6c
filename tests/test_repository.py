"""What holds of the files as such: nothing of one machine in them, everything importable, pins that fit."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "launchers", "projects")
LARGEST = 300_000  # bytes; weights that ship are the exception
WEIGHTS = "common/tiny/weights/"

# Written so that this file does not hold what it looks for.
MACHINE = [rf"(?<![\w.])/{name}/" for name in ("root", "work", "home", "opt", "mnt/[a-z]+")]
REGISTRIES = [
    name.replace(" ", r"\.") for name in ("pypi org", "pythonhosted org", "registry npmjs", "conda anaconda org")
]
SECRETS = [r"\bhf_[A-Za-z0-9]{20,}", r"\bsk-[A-Za-z0-9]{20,}", r"\bghp_[A-Za-z0-9]{20,}"]


def tracked() -> list[str]:
    """Paths of the files in the repository, those not yet committed included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout, so that its files are not known")
    return [path for path in done.stdout.splitlines() if (ROOT / path).is_file()]


def texts() -> dict[str, str]:
    found = {}
    for path in tracked():
        data = (ROOT / path).read_bytes()
        if b"\0" not in data and path != "LICENSE":
            found[path] = data.decode("utf-8")
    return found


@pytest.mark.parametrize("pattern", [*MACHINE, *REGISTRIES, *SECRETS])
def test_no_file_names_a_machine_a_registry_or_a_secret(pattern: str) -> None:
    found = {path: match[0] for path, text in texts().items() if (match := re.search(pattern, text))}
    assert found == {}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE[0], "path: /root" + "/data"),
        (REGISTRIES[0], "https://pypi" + ".org/simple"),
        (SECRETS[0], "hf_" + "a" * 30),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: str, text: str) -> None:
    assert re.search(pattern, text)


def test_every_module_imports() -> None:
    names = [path.relative_to(ROOT).with_suffix("").parts for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    modules = sorted(".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names)
    assert len(modules) > 40
    for module in modules:
        importlib.import_module(module)


def test_every_package_has_an_init() -> None:
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_pipelines_for_diffusers_have_names_of_their_own() -> None:
    """It copies a custom pipeline into one cache by its file name: of two in one process the second finds both."""
    names = [path.name for path in (ROOT / "projects").glob("*/pipeline*.py")]
    assert len(names) == len({*names}) > 1


def test_large_files_are_weights_that_ship() -> None:
    large = [path for path in tracked() if (ROOT / path).stat().st_size > LARGEST and not path.startswith(WEIGHTS)]
    assert large == []


def test_text_files_end_in_one_newline() -> None:
    ours = {path: text for path, text in texts().items() if not path.startswith(WEIGHTS)}  # those a library wrote
    assert [path for path, text in ours.items() if text and not re.search(r"[^\n]\n\Z", text)] == []


def test_notebooks_are_stripped() -> None:
    for path in (path for path in tracked() if path.endswith(".ipynb")):
        for cell in json.loads((ROOT / path).read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs"), path
            assert cell.get("execution_count") is None, path


def pins() -> dict[str, Version]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    found = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): Version(version) for name, version in found}


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    listed = [Requirement(text) for text in [*project["dependencies"], *extras]]
    return [requirement for requirement in listed if requirement.name != project["name"]]


def test_pins_satisfy_the_list() -> None:
    pinned = pins()
    for requirement in requirements():
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} has no pin"
        assert version in requirement.specifier, f"{requirement} is pinned to {version}"


def test_pins_name_no_build_of_one_machine() -> None:
    assert [name for name, version in pins().items() if version.local] == []


def test_every_third_party_import_is_in_the_list() -> None:
    distributions = {"PIL": "pillow", "hydra": "hydra-core", "yaml": "pyyaml"}
    listed = {canonicalize_name(requirement.name) for requirement in requirements()}
    found: set[str] = set()
    for path in (path for name in PACKAGES for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names}
    outside = found - {*PACKAGES, *sys.stdlib_module_names}
    assert {name for name in outside if canonicalize_name(distributions.get(name, name)) not in listed} == set()
