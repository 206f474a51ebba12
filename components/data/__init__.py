"""Pictures and records: what is on them, how they lie on disk, and the checks they pass."""
