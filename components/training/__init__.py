"""Builds and fits the model."""
