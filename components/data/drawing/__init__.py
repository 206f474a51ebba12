"""Draws pictures with known labels."""
