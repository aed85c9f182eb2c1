"""Every Python block of the README and docs runs, in order, file by file; every link within the project resolves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)")


def blocks(document: Path) -> str:
    return "\n".join(BLOCK.findall(document.read_text()))


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d)], ids=lambda d: d.name)
def test_the_python_of_a_document_runs(document: Path, tmp_path: Path) -> None:
    script = tmp_path / "document.py"
    script.write_text(blocks(document))
    environment = {**os.environ, "CATALOG_TOKEN": "a secret"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if "def test_" in blocks(d)], ids=lambda d: d.name)
def test_the_tests_of_a_document_pass(document: Path, tmp_path: Path) -> None:
    script = tmp_path / "test_document.py"
    script.write_text(blocks(document))
    plugin = "lakeward.testing.pytest_plugin"
    installed = any(one.value == plugin for one in entry_points(group="pytest11"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *([] if installed else ["-p", plugin])]
    done = subprocess.run([*command, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_the_links_of_a_document_resolve(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize(
    "example", sorted(p for p in (ROOT / "examples").glob("*.py") if p.name != "__init__.py"), ids=lambda p: p.name
)
def test_an_example_can_be_explained(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lakeward.cli.main", "explain", str(example)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "task " in done.stdout
