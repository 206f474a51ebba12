"""How the model is built and fitted."""
