"""From reports to the sections of a page, in English or Chinese."""
