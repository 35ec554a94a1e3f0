"""The use case: runs each session's effects, for all calls."""
