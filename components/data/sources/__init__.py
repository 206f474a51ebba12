"""Where pictures come from: drawn, or imported."""
