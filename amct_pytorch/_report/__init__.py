"""Reports: tables as data, and how they are printed and saved."""
