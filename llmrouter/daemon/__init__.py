"""The processes: a supervisor, its workers, and the demo upstream, each an interpreter of its own.

`supervisor` owns what there is one of: the state, the listeners, the keys, the control socket.
`worker` serves, on the supervisor's listeners, what `build` made of the configuration. The two talk
over one socketpair a worker (`channel`); children are started by exec, never by fork alone, so that
no lock, database or secret of the supervisor's memory is inherited.

    supervisor  opening       what has to be right before anybody serves
                workers       each worker: its process, its channel, what it has confirmed
                treasury      limits and budgets: the ledger that workers ask
                  teller      counts into it what their journals say was spent
                  writebehind has the store follow, and the denials (`eventbook`) with it
                bookkeeper    the books: a thread that keeps them while the daemon runs
                  bookkeeping   folds the journals into them
                  clearing      deletes journals that books and ledger have read
                administer    desks for keys, events and limits, behind the control socket
    worker      purse         its leases and denials, and the way to the ledger

`build` is the composition root: the only module that knows every leaf. Invariant: nothing here
imports the terminal libraries; a worker's imports are what a request needs, and no more.
"""
