"""SinSR (CVPR 2024): ResShift v1 distilled into one step.

Command:  framer-jax train --config sinsr --workdir runs/sinsr --set data.train=PHOTOS
              --set recipe.space.checkpoint=AUTOENCODER --set recipe.sinsr.teacher_checkpoint=TEACHER
          (TEACHER: resshift_realsrx4_s15_v1.pth or v2, ported or not, or the weights of a run of resshift_v1)
Hardware: not stated by the authors. Expected time: not measured; 30,000 steps. The released configuration has a limit
          of 500,000, but its README reports convergence within a few thousand steps and stops early.
Expected: the published model; this training has not been run. With a teacher whose schedule is not v1's, the schedule
          here is the teacher's; the authors' code caps its least noise at .0316.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped, with_method


def get_config() -> ConfigDict:
    """SinSR."""
    config = with_method(shipped("resshift_v1"), "sinsr")
    config.training.steps = 30_000
    config.training.checkpoint_every = 2000
    config.training.validate_every = 2000
    return config
