"""Small files that ship: the starter model with its card, and a pristine-image model for NIQE."""
