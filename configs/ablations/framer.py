"""The ablations of FRAMER (CVPR 2026, arXiv 2512.01390): Tables 2 to 5 and Fig. 10 of its supplement.

Command:  framer-jax ablate framer:table2 --output runs/table2 --photos HR --set data.train=… (as for framer_d_sd35)
          (framer:table3, table4, table5, fig10, or lambda and variants, which are ours; several with commas, which
          share the arm `full`; at laptop size with --base framer_u_taesd_small, or framer_d_taesd3_small for the
          variants and for the arms whose teacher is the next layer)
Hardware: that of the base. Expected time: arms times seeds trainings of the base.
Expected: the stored text has the order of the arms, and numbers for Fig. 10 only; it does not say on which of the two
          networks the tables were made. docs/results/framer_u.md compares `full` with `none` on small U-Nets.
"""

from dataclasses import replace

from framer_jax.evaluation.ablation import Ablation, Overlay

PAPER = "FRAMER (CVPR 2026, arXiv 2512.01390)"

FULL = {"full": Overlay()}

OBJECTIVES = Ablation(
    title="FRAMER, Table 2: the objective",
    source=f"{PAPER}, Table 2",
    base="framer_d_sd35",
    arms={
        "none": Overlay(("framer.objective=none",)),
        "l2": Overlay(("framer.objective=l2",)),
        "contrastive": Overlay(("framer.objective=contrastive",)),
        **FULL,
    },
    reference="none",
    expected=(("l2", "none"), ("full", "l2"), ("full", "none")),
    published="No distillation is worst, plain feature distillation (L2) better, the losses on frequency bands best.",
)

TEACHERS = replace(
    OBJECTIVES,
    title="FRAMER, Table 3: the teacher and the negatives",
    source=f"{PAPER}, Table 3",
    arms=FULL
    | {
        f"{teacher}_{negatives}": Overlay((f"framer.teacher={teacher}", f"framer.negatives={negatives}"))
        for teacher in ("last", "middle", "next")
        for negatives in ("none", "random", "previous")
        if (teacher, negatives) != ("last", "random")  # which is `full`
    },
    reference="full",
    expected=(),
    published="The last layer as the teacher, with random layers as negatives, is best.",
)

BANDS = replace(
    TEACHERS,
    title="FRAMER, Table 4: which loss on which band",
    source=f"{PAPER}, Table 4",
    arms=FULL
    | {
        f"{low}_{high}": Overlay((f"framer.low_loss={low}", f"framer.high_loss={high}"))
        for low, high in (("intra", "intra"), ("inter", "inter"), ("inter", "intra"))
    },
    published="IntraCL on the low band with InterCL on the high band is best.",
)

WEIGHTS = replace(
    TEACHERS,
    title="FRAMER, Table 5: adaptive weight and adaptive modulation",
    source=f"{PAPER}, Table 5",
    arms={
        "neither": Overlay(("framer.faw=False", "framer.fam=False")),
        "faw": Overlay(("framer.fam=False",)),
        "fam": Overlay(("framer.faw=False",)),
        **FULL,
    },
    published="FAW and FAM together are best.",
)


LAMBDA = replace(
    OBJECTIVES,
    title="FRAMER's weight lambda",
    source="framer_jax: the paper's text has 1 on the sum over the blocks, its released code 0.1 on their mean",
    arms={"none": OBJECTIVES.arms["none"], "lambda_0.01": Overlay(("framer.weight=0.01",)), **FULL},
    expected=(("lambda_0.01", "none"), ("full", "none")),
    published="The base's own weight, and a tenth of 0.1, against no distillation.",
)

VARIANTS = replace(
    OBJECTIVES,
    title="FRAMER's variants: as the paper describes it, and as its released code computes it",
    source="framer_jax: docs/methods/framer.md has the differences",
    arms={
        "none": OBJECTIVES.arms["none"],
        **FULL,
        "released": Overlay(config=":released"),
        "released_0.01": Overlay(("framer.weight=0.01",), config=":released"),
    },
    expected=(("full", "none"), ("released", "none"), ("released_0.01", "none")),
    published="The paper describes the one and was published with the code of the other.",
)


def best(ablation: Ablation) -> Ablation:
    """The ablation with the claim that its reference arm is better than every other one."""
    others = (arm for arm in ablation.arms if arm != ablation.reference)
    return replace(ablation, expected=tuple((ablation.reference, arm) for arm in others))


TABLES = {
    "table2": OBJECTIVES,
    "table3": best(TEACHERS),
    "table4": best(BANDS),
    "table5": best(WEIGHTS),
    "fig10": replace(
        best(WEIGHTS),
        title="FRAMER, Fig. 10: adaptive weight and adaptive modulation on single images",
        source=f"{PAPER}, supplement, Fig. 10",
        published="NIQE (lower is better), MANIQA and MUSIQ of two images; `neither` is called distillation only.",
        published_rows={
            f"{metric}, image {image}": dict(zip(WEIGHTS.arms, values, strict=True))
            for (metric, image), values in {
                ("NIQE", 1): (5.54, 4.19, 3.29, 4.03),
                ("MANIQA", 1): (0.377, 0.540, 0.490, 0.595),
                ("MUSIQ", 1): (67.28, 75.98, 75.71, 77.52),
                ("NIQE", 2): (8.83, 9.46, 7.34, 7.04),
                ("MANIQA", 2): (0.362, 0.396, 0.424, 0.522),
                ("MUSIQ", 2): (57.69, 57.72, 64.37, 69.62),
            }.items()
        },
    ),
    "lambda": LAMBDA,
    "variants": VARIANTS,
}


def get_ablation(table: str = "") -> Ablation:
    """The ablation of one table or figure."""
    if table not in TABLES:
        raise ValueError(f"name one of its tables, such as framer:table2: {', '.join(TABLES)}")
    return TABLES[table]
