"""What a training step needs, planned by the compiler without weights, data or the chips that it is meant for."""
