"""The path of a request, one file a step.

    accept → parse → authenticate → route → admit → forward → meter → respond

`pipeline` shows the order; `exchange` is what travels along it. Until the first byte of an answer
has gone downstream an attempt may be repeated; afterwards never: what cannot be finished then is
ended by an error event and a cut, so that no answer that was cut looks whole.

Every `RouterError` raised on the way becomes a response in one place, `Gateway.serve`. What is
taken on the way (a slot, a connection, a journal row) is given back by `with` or `finally`, however
the exchange ends: answered, refused, failed, or cancelled because the client has gone.

Deliberately absent: the configuration, and which dialects and upstreams there are; `daemon.build`
puts them in.
"""
