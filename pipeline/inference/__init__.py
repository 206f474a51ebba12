"""Reads pictures with an exported model."""
