"""The engines of the Beam steps."""
