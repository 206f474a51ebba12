"""How well a model reads, and whether it may be pushed."""
