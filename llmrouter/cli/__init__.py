"""The command line: one file a command, registered in `main`.

Exit status: 0 done, 1 refused or failed (the reason is on standard error), 2 used wrongly.
"""
