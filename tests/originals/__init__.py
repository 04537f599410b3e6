"""What we compute next to the originals' own classes: diffusers, transformers and peft, on tiny random weights.

Run by `tools/test.sh --originals` in an environment of its own; nothing here is skipped. One file per kind of class.
"""
