"""Checkpoints: pure decisions (alignment, coordinator, protocol, manifest, paths) and one I/O edge (store, workflow)."""
