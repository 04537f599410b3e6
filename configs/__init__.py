"""Configurations: default.py documents every knob; every other file is an overlay of it."""
