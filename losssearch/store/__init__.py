"""The store: the SQL database that remembers every loss, every training and every search."""
