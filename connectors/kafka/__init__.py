"""Apache Kafka: the source."""

from lakeward.connectors.kafka.bad_records import BadKafkaRecord, BadRecordHandler
from lakeward.connectors.kafka.source import KafkaSource

__all__ = ["BadKafkaRecord", "BadRecordHandler", "KafkaSource"]
