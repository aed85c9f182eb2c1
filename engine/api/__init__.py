"""The SPI: all that operators and connectors may see of the engine, beside `engine.core`."""
