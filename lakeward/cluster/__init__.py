"""A session cluster on one machine: a coordinator with a REST API, and jobs in processes of their own."""

from lakeward.cluster.client import Client, JobInfo

__all__ = ["Client", "JobInfo"]
