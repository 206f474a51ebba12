"""Imports pictures, and corrects their labels."""
