"""Apache Iceberg tables: an exactly-once sink. Importing this does not import pyiceberg; using it does."""

from lakeward.connectors.iceberg.sink import IcebergSink
from lakeward.connectors.iceberg.transforms import PartitionTransform, bucket, day, hour, month, truncate, year

__all__ = ["IcebergSink", "PartitionTransform", "bucket", "day", "hour", "month", "truncate", "year"]
