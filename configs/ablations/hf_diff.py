"""The ablation of HF-Diff (arXiv 2411.13548, 2024): Table 4, one term alone, both, or another perceptual loss.

Command:  framer-jax ablate hf_diff --output runs/hf_diff_table4 --photos HR --init SINSR --set data.train=PHOTOS …
              (knobs as for the configuration hf_diff)
          (on one CPU core with --base hf_diff_narrow; --arms leaves out arms whose weights are not available)
Hardware: that of the base. Expected time: arms times seeds trainings of the base.
Expected: docs/results/hf_diff.md has the narrow ones. The available text has no numbers of this table.
"""

from framer_jax.evaluation.ablation import Ablation, Overlay

TERMS = ("base", "high_frequency", "distribution", "both", "vgg19", "lpips")
"""Variants of the configuration hf_diff, which says what they change."""


def get_ablation() -> Ablation:
    """The ablation of Table 4."""
    return Ablation(
        title="HF-Diff, Table 4: the terms added to SinSR's loss",
        source="HF-Diff (arXiv 2411.13548, 2024), Table 4",
        base="hf_diff",
        arms={term: Overlay(config=f":{term}") for term in TERMS},
        reference="base",
        expected=tuple(("both", term) for term in TERMS if term != "both"),
        published="Both terms together are the paper's choice; the available text has no numbers.",
    )
