"""The public test kit: everything needed to test jobs, operators and connectors."""
