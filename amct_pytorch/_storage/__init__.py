"""The user's paths, and files and folders that are written as a whole or not at all."""
