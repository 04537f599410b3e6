"""Frequency bands of images and feature maps: Fourier masks and wavelets, as pure functions of arrays."""
