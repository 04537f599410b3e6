"""What tools/check_parity.py compares: cases, named weights, and one function per family."""
