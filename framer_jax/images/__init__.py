"""Reading image files: one decoder for every command and for training."""
