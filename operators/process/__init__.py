"""Functions of users with state, timers and side outputs: Flink's process functions."""
