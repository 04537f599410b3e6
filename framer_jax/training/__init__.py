"""Training: settings, the training state, one jitted step, sharding, checkpoints, logs and the training loop."""
