"""`builtin:demo`: a real HTTP upstream, run by the supervisor, that speaks the completions API.

It is for first runs, tests and load tests: chat, completions, embeddings, responses and models,
plain and streamed, with deterministic text and true usage, and with faults on demand (`directives`)
by the model's name or the header `x-demo`. It listens on a socket that it inherits (`__main__`).

    directives    what a model name or header asks for
    answers       a path and a body to a request
    chat, completions, embeddings, responses      a request to its answer
    saying        what the pretended model says; tokens, schemas and usage serve it
    faults        how an answer is spoiled
    refusals      the errors it can be asked for
    turns         which of many calls a fault strikes
    delivery      at what pace it leaves, and never faster than the client reads
    counters      what has arrived here, for tests that prove what has not
    exchange, server    these together, as an application of `http1`

Its tokens: each started run of four characters of a text is one. So counting costs nothing, a
stream has one event for each token of text, and usage is what was sent (plus what `reasoning` asks
for). A picture in a prompt counts as 85.

Invariant: it shares no code with the dialects, so that a mistake there does not cancel out here.
"""
