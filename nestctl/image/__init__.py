"""Guest images: one root file system, with a kernel beside it, that boots at every level."""
