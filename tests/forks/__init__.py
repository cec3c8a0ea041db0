"""Commands and their child processes as forks of a process that has imported everything: no start takes a second.

`tests.command_line.modelopt` uses it. A fork is a process of its own, with its own working directory, environment,
streams, limits and exit code. What it leaves out is the start of the interpreter and the imports; the hash seed is that
of the server. `tests.command_line.installed` runs the installed command where these are the subject.
"""

NUMBER_BYTES = 4
"""Of a number that the server writes: an integer with its sign, in network order."""
