"""Weights in and out: safetensors, and the maps between other projects' names and ours."""
