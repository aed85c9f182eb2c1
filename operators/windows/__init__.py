"""Windows: assigners (pure) and the window operator."""
