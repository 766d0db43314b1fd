"""The backends shipped with amct_pytorch. They are found by their entry points; nothing imports them by name."""
