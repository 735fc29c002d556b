"""The snippets of a document."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def snippets(document: str, language: str = "python") -> list[str]:
    """The fenced blocks of a page under docs/, in order."""
    text = (DOCS / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def fits_a_screen(document: str) -> bool:
    return len((DOCS / document).read_text().splitlines()) <= 60
