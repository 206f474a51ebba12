"""Exports the model, and manages the folder of its versions."""
