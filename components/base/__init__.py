"""Basics that all other packages use: errors, files, names, and the hash of the source code."""
