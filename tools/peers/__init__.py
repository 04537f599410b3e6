"""Other projects, run beside ours by the benchmarks; their checkouts are the user's and never part of this one."""
