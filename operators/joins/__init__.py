"""Joins of two streams, one kind a file; `rows`, `layout` and `changes` are what they share."""
