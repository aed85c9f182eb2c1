"""Files: Parquet, JSON lines, CSV."""
