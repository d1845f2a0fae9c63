"""One file for each kind of task that comes with the package."""
