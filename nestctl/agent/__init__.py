"""What nestctl runs on a machine to look at it and to measure it: standard library only, Python 3.8 and newer.

The package imports nothing else of nestctl and is streamed to machines that have nothing installed
(see `nestctl.adapters.agent`). Every fact it prints is three-valued: {"value": ...} when it is known, else
{"unknown": reason}, with the name of the system's error as "error" where there was one.
"""
