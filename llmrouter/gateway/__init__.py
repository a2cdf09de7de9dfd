"""The path of a request, one file a step.

    accept → parse → authenticate → route → admit → forward → meter → respond

`pipeline` shows the order; `exchange` is what travels along it, and from `admit` on a `spending`:
what the call holds of its limits and budgets, and what it is charged with at its end. `quotas` says
in words and headers what they answer. Until the first byte of an answer has gone downstream an
attempt may be repeated; afterwards never: what cannot be finished then is ended by an error event
and a cut, so that no answer that was cut looks whole.

`forward` makes attempts: `attempt` is one of them, `verdict` judges what came of it, `hedge` runs
two at once, `slots` are the places at an upstream, `timeouts` how long each may take. Where none of
a model's deployments answers, `fallback` has another model take over. Which comes when, and how
often, `routing` decides. `shadow` copies calls that nobody waits for; `explain` says what would
happen.

Every `RouterError` raised on the way becomes a response in one place, `Gateway.serve`. What is
taken on the way (a slot, a hold, a connection, a journal row) is given back by `with` or `finally`,
however the exchange ends: answered, refused, failed, or cancelled because the client has gone; in
that case not before the upstream was heard out, within bounds, for what it says was used (`drain`).

Invariants: nothing goes upstream before every limit and budget that counts the call has room for
it, and before its begin, with its hold, is in the journal; nothing again, where what went before
may be billed as well, before as much is held once more. An attempt has one verdict. A hold is
settled once or released once: the first thing that is said of its end counts. A call that was
refused before it was sent holds, costs and counts nothing. Where a worker's own leases suffice,
admission does not await.

Deliberately absent: the configuration, and which dialects and upstreams there are (`daemon.build`
puts them in); the ledger (`quota` asks it, `daemon` carries the messages); prompts, once they are
forwarded; any attempt after the first byte.
"""
