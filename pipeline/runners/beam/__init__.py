"""Checks the engines of the Beam steps, and starts their workers."""
