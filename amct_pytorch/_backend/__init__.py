"""The contract of a device backend, and the registry of the installed ones."""
