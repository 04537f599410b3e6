"""The page as a file: the template with its style, script, data and images inserted."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from framer_jax.evaluation.comparison_page.embed import EmbeddedImage
from framer_jax.porting.files import atomic_write

FOLDER = Path(__file__).parent

SCRIPTS = ("page.js", "list.js", "viewer.js", "controls.js")
"""The parts of the page's script, in order."""

UNSAFE = {character: f"\\u{ord(character):04x}" for character in "<>&"}
"""Characters that could end a script element or start a comment → escapes that JSON reads as the same characters."""

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def write_page(path: str | Path, data: Mapping[str, Any], embedded: Sequence[EmbeddedImage]) -> int:
    """Write the page; nothing that it shows is loaded from elsewhere.

    Args:
      path: the HTML file.
      data: from framer_jax.evaluation.comparison_page.data.page_data.
      embedded: its images.

    Returns:
      The size of the file in bytes.
    """
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file,
    ):
        file.writelines(page_parts(data, embedded))
    return Path(path).stat().st_size


def page_parts(data: Mapping[str, Any], embedded: Sequence[EmbeddedImage]) -> Iterator[str]:
    """The text of the page, in parts; arguments as of `write_page`."""
    style, script = _text("page.css"), "\n".join(map(_text, SCRIPTS))
    values = {
        "policy": html.escape(content_policy(style, script)),
        "title": html.escape(str(data["title"])),
        "style": style,
        "data": safe_json(data),
        "script": script,
    }
    # The template is split rather than replaced in, so that nothing that was inserted is searched for placeholders.
    for index, part in enumerate(_PLACEHOLDER.split(_text("page.html"))):
        if index % 2 == 0:
            yield part
        elif part == "images":
            yield from _image_blocks(embedded)
        else:
            yield values[part]


def _image_blocks(embedded: Sequence[EmbeddedImage]) -> Iterator[str]:
    """Each image as an element of its own, which the script reads when it is shown."""
    for image, entry in enumerate(embedded):
        for source, text in enumerate(entry.sources):
            yield f'<script type="text/plain" id="image-{image}-{source}">{text}</script>\n'


def safe_json(content: Any) -> str:
    r"""JSON that can stand in a script element: ASCII only, and without `<`, `>` and `&`.

    Names of files can hold any character: ASCII output escapes U+2028, which ends lines of scripts, and halves of
    surrogate pairs, which UTF-8 cannot write.

    Raises:
      ValueError: a number is not finite.
    """
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: UNSAFE[match.group()], text)


def content_policy(style: str, script: str) -> str:
    """A Content-Security-Policy that admits this style, this script and embedded images, and nothing else."""
    digests = [
        base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in (style, script)
    ]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
