"""Finds the style of real pictures, so that `components.data.drawing` can draw such pictures."""
