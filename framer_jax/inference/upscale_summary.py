"""What became of the images of one call of framer_jax.inference.folder.upscale_files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.data.files import LeftOut

Reasons = list[tuple[Path, str]]
"""(image, one sentence)."""


class Summary(NamedTuple):
    """Results of `upscale_files`.

    Attributes:
      written: SR images that were written.
      skipped: outputs that existed and were not touched (skip_existing).
      failed: (source, reason) of the images that could not be upscaled.
      notes: (image, what reading or writing it lost, or what is odd about it).
      left_out: what may be an image of the input, or hold images, and cannot be read.
    """

    written: tuple[Path, ...]
    skipped: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    notes: tuple[tuple[Path, str], ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def exit_status(self) -> int:
        """0 if every image was written or skipped, and nothing left out, else 1."""
        return int(bool(self.failed or self.left_out))

    def as_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return {
            "written": [str(path) for path in self.written],
            "skipped": [str(path) for path in self.skipped],
            "failed": [{"image": str(source), "reason": reason} for source, reason in self.failed],
            "notes": [{"image": str(source), "note": note} for source, note in self.notes],
            "left_out": [{"path": str(item.path), "reason": item.reason} for item in self.left_out],
        }

    def __str__(self) -> str:
        counts = f"{len(self.written)} written, {len(self.skipped)} skipped, {len(self.failed)} failed"
        counts += f", {len(self.left_out)} left out" if self.left_out else ""
        lines = [counts]
        lines += [f"  note: {source}: {note}" for source, note in self.notes]
        lines += [f"  failed: {reason}" for _, reason in self.failed]
        lines += [f"  left out: {item}" for item in self.left_out]
        return "\n".join(lines)


def merge_summaries(planned: Summary, parts: Sequence[Summary]) -> Summary:
    """The summary of a job whose shards were upscaled with `skip_existing`.

    Args:
      planned: of a dry run before, which knows what was skipped; a shard that was repeated also skips what its first
        attempt wrote.
      parts: of the shards that came to an end.
    """
    done = {path for part in parts for path in (*part.written, *part.skipped)}
    failed = tuple(entry for part in parts for entry in part.failed)
    notes = dict.fromkeys([*planned.notes, *(note for part in parts for note in part.notes)])
    written = tuple(path for path in planned.written if path in done)
    return Summary(written, planned.skipped, failed, tuple(notes), planned.left_out)
