"""Examples, one runnable file an idea."""
