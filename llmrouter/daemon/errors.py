"""What the daemon, and commands on its state, cannot do."""


class DaemonError(Exception):
    """Something cannot be done; the message tells an operator why, and what to do."""


class StartError(DaemonError):
    """The daemon cannot start; the message says why."""
