"""Nexmark: the auction stream that stream processors are compared on, as a source."""

from lakeward.connectors.nexmark.json_lines import bid_json_lines, json_lines
from lakeward.connectors.nexmark.source import BASE_TIME, NexmarkSource

__all__ = ["BASE_TIME", "NexmarkSource", "bid_json_lines", "json_lines"]
