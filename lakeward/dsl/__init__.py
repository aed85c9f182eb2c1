"""The DSL: environment, streams, expressions, windows, aggregates."""
