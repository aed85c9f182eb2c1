"""The engine: vocabulary, SPI, graph, state, checkpoints and the runtime that joins them."""
