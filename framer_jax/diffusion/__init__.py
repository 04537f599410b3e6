"""Diffusion processes and samplers: schedule tables and plain functions, without parameters."""
