"""Lakeward: stream processing in Python, from Kafka to your lakehouse, exactly once."""

__version__ = "0.1.0"
