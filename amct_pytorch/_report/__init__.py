"""Reports: tables and figures as data, and how they are printed, drawn and saved."""
