"""The tests; their folders follow the packages."""
