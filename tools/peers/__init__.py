"""Drivers of other projects that the benchmarks compare with; you provide their checkouts, none is included here."""
