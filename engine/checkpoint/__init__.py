"""Checkpoints: pure decisions (alignment, coordinator, protocol, manifest) and one I/O edge (store, workflow)."""
