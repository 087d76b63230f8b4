"""Benchmarks by name: one TOML entry each, rows from a local data folder or from the hub."""
