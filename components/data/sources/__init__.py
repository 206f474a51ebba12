"""The sources of pictures: drawn or imported."""
