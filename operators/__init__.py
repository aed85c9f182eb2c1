"""Operators, one family a file; they see only the SPI (`lakeward.engine.api` and `lakeward.engine.core`)."""
