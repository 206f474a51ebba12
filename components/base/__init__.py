"""What all rooms use: errors, files, names, and the hash of the code."""
