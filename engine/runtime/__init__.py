"""Everything that runs: tasks, chains, channels, drivers."""
