"""Reports as one HTML page that needs nothing beside it: parts of the page as data, and how they are drawn."""
