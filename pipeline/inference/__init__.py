"""Reading pictures with an exported model."""
