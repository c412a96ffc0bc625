"""Labs: from a file to running guests at every level, and back to nothing."""
