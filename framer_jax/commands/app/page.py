"""The page itself, in Gradio (extra `app`)."""

from __future__ import annotations

import html
import threading
from pathlib import Path
from typing import Any

from framer_jax.commands.app.work import Models, upscale_uploads
from framer_jax.errors import is_correctable, one_line

SCALES = {"as the model": None, "2": 2.0, "3": 3.0, "4": 4.0}
"""Label → size of the result relative to the image."""

FONTS = ("system-ui", "sans-serif")
"""Of the machine itself: the theme's own would be fetched from the network."""


def build(models: Models, folder: Path) -> Any:
    """The page: images, model, strength and size on the left; comparison, files and messages on the right."""
    import gradio

    def upscale(
        uploads: list[str] | None,
        name: str,
        strength: float,
        size: str,
        progress: Any = gradio.Progress(),  # noqa: B008 (how Gradio knows of it)
    ) -> tuple[Any, list[str], str]:
        if not uploads:
            raise gradio.Error("Choose one or more images first.", print_exception=False)
        try:
            results = upscale_uploads(
                [Path(upload) for upload in uploads],
                models.model(name),
                folder,
                strength,
                SCALES[size],
                lambda done, total: progress((done, total), unit="images"),
            )
        except Exception as error:
            if not is_correctable(error):
                raise
            raise gradio.Error(html.escape(one_line(error)), print_exception=False) from error
        pair = None if results.before is None else (str(results.before), str(results.after))
        return pair, [str(path) for path in results.files], message(len(results.files), results.failures)

    with gradio.Blocks(title="framer_jax", analytics_enabled=False) as page:
        gradio.Markdown("# framer_jax\nUpscale photographs on this machine. Nothing leaves it.")
        with gradio.Row():
            with gradio.Column(scale=1):
                uploads = gradio.File(label="Images", file_count="multiple", file_types=["image"], type="filepath")
                name = gradio.Dropdown(list(models.names), value=models.chosen, label="Model")
                strength = gradio.Slider(0, 1, value=1, step=0.05, label="Strength (0: bicubic, 1: the model)")
                size = gradio.Radio(list(SCALES), value=next(iter(SCALES)), label="Times larger")
                start = gradio.Button("Upscale", variant="primary", elem_id="upscale")
            with gradio.Column(scale=2):
                slider = gradio.ImageSlider(label="Before (bicubic) and after", type="filepath", interactive=False)
                files = gradio.File(label="Results", interactive=False, elem_id="results")
                messages = gradio.Markdown(elem_id="messages")
        start.click(upscale, [uploads, name, strength, size], [slider, files, messages], concurrency_limit=1)
    return page


def message(written: int, failures: tuple[str, ...]) -> str:
    """What happened, for people; names of files are text, whatever they look like."""
    lines = [f"{written} {'image' if written == 1 else 'images'} upscaled."]
    lines += [f"- <code>{html.escape(failure)}</code>" for failure in failures]
    return "\n".join(lines)


def serve(models: Models, folder: Path, host: str, port: int, largest_upload: float, open_browser: bool) -> str:
    """Start to serve the page in the background, to `host` only; its address.

    Raises:
      OSError: the port is taken.
    """
    import gradio

    _, url, _ = (
        build(models, folder)
        .queue(max_size=16)
        .launch(
            server_name=host,
            server_port=port or None,
            share=False,
            inbrowser=open_browser,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=f"{round(largest_upload * 1000)}kb",
            allowed_paths=[str(folder)],
            theme=gradio.themes.Base(font=list(FONTS), font_mono=["monospace"]),
            footer_links=[],
            run_history=False,
            ssr_mode=False,
        )
    )
    return str(url)


def wait() -> None:
    """Wait for Ctrl-C."""
    threading.Event().wait()
