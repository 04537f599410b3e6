"""Published sizes of Stable Diffusion 3's transformer: name → the arguments in which they differ from the defaults."""

PUBLISHED = {
    "sd3_medium": {},
    "sd35_medium": {"qk_norm": True, "dual_blocks": 13, "position_grid": 384},
    "sd35_large": {"qk_norm": True, "depth": 38, "heads": 38},
}
