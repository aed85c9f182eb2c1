"""Files: Parquet, JSON lines, CSV."""

from lakeward.connectors.files.options import Csv
from lakeward.connectors.files.sink import FilesSink
from lakeward.connectors.files.source import FilesSource

__all__ = ["Csv", "FilesSink", "FilesSource"]
