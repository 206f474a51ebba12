"""Measures how well a model reads, and decides whether it may be pushed."""
