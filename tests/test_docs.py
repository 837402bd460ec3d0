"""The documentation says what the program does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from linnet import cli, options

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The linnet commands of the shell blocks of a page, continued lines joined."""
    lines = "\n".join(FENCE.findall(page)).replace("\\\n", " ").splitlines()
    verbs = "|".join(cli.VERBS)
    found = [re.search(rf"\blinnet (?:{verbs})\b[^|;&#>]*", line) for line in lines]
    return [match.group() for match in found if match]


def test_option_tables_are_those_of_the_program() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_verb_has_a_page_and_a_row_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in cli.VERBS:
        assert (ROOT / "docs" / f"{verb}.md").exists(), verb
        assert f"docs/{verb}.md" in readme, verb


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_are_understood(page: object) -> None:
    found = commands(page.read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    assert found or page.stem not in cli.VERBS  # type: ignore[attr-defined]
    for command in found:
        given = vars(cli.build_parser().parse_args(shlex.split(command)[1:]))
        config, _ = cli.VERBS[given.pop("verb")]
        options.from_arguments(config, given)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: object) -> None:
    text = page.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert (page.parent / target).exists(), target  # type: ignore[attr-defined]
