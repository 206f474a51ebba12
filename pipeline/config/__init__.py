"""The configuration: its sections, and how it is loaded."""
