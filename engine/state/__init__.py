"""Keyed state: columnar slot tables over a key-value store."""
