"""How the steps in `components` are joined, configured and started."""
