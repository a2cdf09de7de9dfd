"""Which deployment serves a call: routes by name and pattern, and the strategies that choose.

Pure and synchronous: a choice is made from what is in memory. Deliberately absent: what an upstream
is and how it is reached, which only the gateway knows.
"""
