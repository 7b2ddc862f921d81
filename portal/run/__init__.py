"""`make run`: everything on one machine, under a supervisor of our own."""
