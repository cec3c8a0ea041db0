"""The commands without a terminal: typed options, the recipe that they stand for, and the run that gives a report.

The command line and the Python API both call this room. It parses no text of the command line and prints nothing.
"""
