"""Formulas of the documentation as MathML: browsers show it without a script and without network access."""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.+?)(?:\\\)|\\\])</\1>', re.DOTALL)
"""How pymdownx.arithmatex marks a formula, within a line or by itself."""


def on_page_content(html: str, **_: Any) -> str:
    """Replace every formula of a page; an invalid one is an error."""
    return FORMULA.sub(_mathml, html)


def _mathml(match: re.Match[str]) -> str:
    tag, latex = match.groups()
    display = "block" if tag == "div" else "inline"
    return f"<{tag}>{convert(unescape(latex).strip(), display=display)}</{tag}>"
