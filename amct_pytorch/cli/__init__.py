"""The command line, `amct-decompose`. It comes with the extra `cli`."""
