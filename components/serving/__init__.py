"""The exported model, and the folder of its versions."""
