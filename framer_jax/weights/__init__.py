"""Small files that ship: `standard`, `diffusion`, `starter` and their cards, and a pristine-image model for NIQE."""
