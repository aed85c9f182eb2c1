"""The words every other part of the engine uses; it imports nothing of ours."""
