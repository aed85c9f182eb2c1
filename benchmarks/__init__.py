"""Benchmarks: scripts that print rows per CPU second and a ratio to a limit, never timed tests."""
