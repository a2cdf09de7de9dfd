"""The processes: a supervisor, its workers, and the demo upstream, each an interpreter of its own.

`supervisor` owns what there is one of: the state, the listeners, the keys, the control socket.
`worker` serves, on the supervisor's listeners, what `build` made of the configuration. The two talk
over one socketpair a worker (`channel`); children are started by exec, never by fork alone, so that
no lock, database or secret of the supervisor's memory is inherited.

`build` is the composition root: the only module that knows every leaf. Invariant: nothing here
imports the terminal libraries; a worker's imports are what a request needs, and no more.
"""
