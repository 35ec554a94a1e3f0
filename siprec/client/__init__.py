"""A real SIPREC client (SRC): demo, tests and load."""
