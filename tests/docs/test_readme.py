"""README is short enough to be read in two minutes, and its links lead somewhere."""

import re

import pytest
from pages import NAMES, PAGES, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 150
    text = {number: line for number, line in enumerate(lines, 1) if not line.startswith("|")}
    assert [number for number, line in text.items() if len(line) > 120] == []


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_links_lead_to_files(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#\s]+)", text)
    files = [link for link in links if not link.startswith(("http:", "https:"))]
    assert [link for link in files if not (path.parent / link).exists()] == []
