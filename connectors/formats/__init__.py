"""Formats: bytes to record batches and back."""
