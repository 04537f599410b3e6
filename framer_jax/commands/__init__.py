"""The roof: one file per sub-command; each reads arguments and calls the floors below."""
