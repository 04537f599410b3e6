"""The weights files of a training run, and its model card: written with every checkpoint, and again where needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from framer_jax.commands.model_card import CARD, write_card
from framer_jax.inference.model import BEST, LAST, save_model
from framer_jax.paths import AnyPath, local_copy
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.recipes.base import Params, Recipe
from framer_jax.training import exports
from framer_jax.trees import tree_digest
from framer_jax.version import __version__

FILES = {exports.LATEST: LAST, exports.BEST: BEST}
"""Kind of export → name of its file in the work directory."""

VERSION = "framer_jax_version"
"""Entry of a file's metadata that does not belong to its content."""


class WeightFiles(NamedTuple):
    """Writes the weights files of a run (framer_jax.training.exports.Export).

    Attributes:
      workdir: work directory of the run.
      name: name of the recipe, for the card.
      recipe: its exported groups are written.
      metadata: metadata of the files besides the step.
      network: the exported group whose network alone the files hold, as a ported one; '': all exported groups.
      write_page: (work directory, name, content, metadata) writes the page next to the weights.
    """

    workdir: AnyPath
    name: str
    recipe: Recipe
    metadata: Mapping[str, Any]
    network: str = ""
    write_page: Callable[[Any, str, Params, Mapping[str, Any]], None] = write_card

    def digest(self, params: Params, step: int) -> str:
        """Digest of the exported groups and of the metadata of a step."""
        return _digest(self._content(params), self._metadata(step))

    def write(self, params: Params, step: int, kinds: Sequence[str]) -> None:
        """Write the files of these kinds and, with the newest weights, the card."""
        metadata = self._metadata(step)
        for kind in kinds:
            path = self.workdir / FILES[kind]
            if self.network:
                save_weights(path, params[self.network], {"framer_jax_version": __version__, **metadata})
            else:
                save_model(path, self.recipe, params, metadata)
        if exports.LATEST in kinds or not (self.workdir / CARD).is_file():
            self.write_page(self.workdir, self.name, self._content(params), metadata)

    def outdated(self, kind: str, step: int, digest: str | None) -> str:
        """Why a file must be written again: it is missing, damaged, of an earlier step, or was altered; or ''."""
        path = self.workdir / FILES[kind]
        if not path.is_file():
            return f"{path} is missing"
        try:
            params, metadata = load_weights(local_copy(path))
            written = int(metadata["step"])
        except (ValueError, OSError, KeyError, TypeError):
            return f"{path} is damaged"
        if written < step:
            return f"{path} is of step {written}"
        if written == step and digest is not None and _digest(params, metadata) != digest:
            return f"{path} was altered"
        return ""

    def _content(self, params: Params) -> Params:
        if self.network:
            network: Params = params[self.network]
            return network
        return {group: params[group] for group in self.recipe.exported}

    def _metadata(self, step: int) -> dict[str, Any]:
        return {**self.metadata, "step": step}


def _digest(params: Params, metadata: Mapping[str, Any]) -> str:
    return tree_digest(params, {name: value for name, value in metadata.items() if name != VERSION})
