"""Converts a pushed version to files that other programs read pictures with."""
