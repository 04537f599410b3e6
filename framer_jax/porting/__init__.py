"""Reading and writing weights: safetensors, PyTorch files, and maps between the names of other projects and ours."""
