"""The processes driver: the tasks of a job in several worker processes, of this host or of others."""
