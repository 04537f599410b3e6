"""How much main memory an image needs and how much there is, to refuse what cannot be computed before it is."""

from __future__ import annotations

import os
from pathlib import Path

GIB = 2**30


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of main memory that this process can still take; None if the system does not say.

    The least of what is free or can be freed (with swap), of what the process's cgroup leaves (in containers and batch
    systems), and of the process's limit of address space.

    Args:
      root: where the file systems /proc and /sys are.
    """
    known = [
        _of_system(root / "proc/meminfo"),
        _of_cgroup(root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        _of_cgroup(
            root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        ),
        _of_limit(root / "proc/self/statm"),
    ]
    return min((bytes_ for bytes_ in known if bytes_ is not None), default=None)


def host_bytes(image: int, result: int, resized: int = 0, color_fix: bool = False, alpha: bool = False) -> int:
    """Approximate peak of the arrays in main memory while one image is upscaled, as measured.

    Args:
      image: number of pixels of the LR image.
      result: number of pixels of the canvas.
      resized: number of pixels of the images that it is resized to first, together.
      color_fix: whether colors are fixed: the canvas, its source and up to four temporaries, each a third of it.
      alpha: whether the image is transparent: the result is divided by its alpha, which is upsampled.
    """
    pixel = 3 * 4  # float32
    copies = 4.0 if alpha else 3.0 if color_fix else 1.85  # the canvas, and what encodes it
    return int(pixel * (image + resized + result * copies))


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Raise MemoryError if more bytes are needed than there are.

    Args:
      needed: number of bytes.
      what: what needs them, for the message.
      remedy: what the message advises.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise MemoryError(
            f"{what} needs about {needed / GIB:,.1f} GiB of main memory, and {available / GIB:,.1f} GiB are available: "
            f"{remedy}"
        )


def _of_system(meminfo: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return sum(int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # of macOS: all memory
    except (AttributeError, ValueError, OSError):
        return None


def _of_cgroup(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used = int((folder / usage).read_text()) - int(stat.get(reclaimable, 0))
        return int((folder / limit).read_text()) - used
    except (OSError, ValueError):  # 'max' for no limit
        return None


def _of_limit(statm: Path) -> int | None:
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return None
        return limit - int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError, IndexError):
        return None
