"""Every command that a README or a configuration file names is one that exists, composes and binds."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from common.config import CONF, check
from launchers.command import compose

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("projects/*/README.md")), *sorted(CONF.rglob("*.yaml"))]
COMMAND = re.compile(r"python -m launchers\.(\w+)((?: +(?:\"[^\"]*\"|'[^']*'|[^\s`(),;|<>]|\{[^}]*\}|\[[^]]*\])+)*)")


def commands() -> list[tuple[str, str]]:
    found = set()
    for page in PAGES:
        for launcher, arguments in COMMAND.findall(page.read_text()):
            if not arguments.endswith("="):  # task=<name> stands for any
                found.add((launcher, arguments.strip()))
    return sorted(found)


def overrides(arguments: str) -> list[str]:
    words = [word for word in shlex.split(arguments) if word not in ("-m", "--help")]
    # A sweep composes once for each value; the first stands for all. A quoted text keeps its quotes for hydra.
    return [re.sub(r"^([\w.]+=)([^,\[{]+),.*$", r"\1\2", word) for word in words if "=" in word]


def quoted(word: str) -> str:
    key, _, value = word.partition("=")
    return f"{key}='{value}'" if " " in value else word


@pytest.mark.parametrize(("launcher", "arguments"), commands(), ids=lambda part: str(part)[:60])
def test_command_composes_and_binds(launcher: str, arguments: str) -> None:
    assert (ROOT / "launchers" / f"{launcher}.py").is_file()
    root = "prepare" if launcher == "prepare" else "config"
    words = [quoted(word) for word in overrides(arguments)]
    if launcher == "prepare" and not any(word.startswith("task=") for word in words):
        return
    check(compose("paths.run=run", *words, config_name=root))


def test_enough_commands_are_found() -> None:
    assert len(commands()) >= 15


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text())
    assert {"quickstart", "test"} <= set(targets)
    for target in sorted(set(targets)):
        subprocess.run(["make", "--dry-run", "--silent", target], cwd=ROOT, check=True, capture_output=True)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for page in (page for page in PAGES if page.suffix == ".md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page, link)


def test_the_tree_of_the_readme_is_the_tree() -> None:
    block = (ROOT / "README.md").read_text().split("## The house")[1].split("```")[1]
    named = {line.split("/")[0] for line in block.strip().splitlines()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {path.split("/")[0] for path in tracked.splitlines() if "/" in path and not path.startswith(".")}
    assert named == folders
