"""Which deployment serves a call, and what is tried when it does not.

    routes      from the name that was asked for to a model's deployments and its policy
    strategy    which of those that are usable is next; one file each
    condition   how a deployment is: its breaker, its rest, its latency; told between processes
    attempts    retry, failover or fallback, by what failed; repeats and backoff bound them
    hedging     when a second attempt is made beside a first

Pure and synchronous: a choice is made from what is in memory, and time and chance are arguments.
Deliberately absent: what an upstream is and how it is reached, which only the gateway knows.
"""
