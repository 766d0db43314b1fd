"""The backends that come with amct_pytorch, found by their entry points: nothing imports this package by name."""
