"""Small files that ship: the standard model and the starter with their cards, and a pristine-image model for NIQE."""
