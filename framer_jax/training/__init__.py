"""Training: settings, state, one jitted step, sharding, checkpoints, logs and the loop that orders them."""
