"""Imports labelled pictures into spans, and corrects their labels."""
