"""Sources and sinks, one system a folder; they see only the SPI and do not know each other."""
