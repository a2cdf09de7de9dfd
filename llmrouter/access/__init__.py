"""Who calls, and what they may call: keys, the principals they stand for, and model policy.

A key is a text `sk-lr-<id>-<secret>` that we issue and show once; only a keyed digest of it is kept
(`key`). What it stands for is an `IssuedKey`, written to a store by the `KeyBook`: the supervisor
and, with the daemon down, the CLI use the same one. Every worker holds a `Keyring`, the table that
turns the text a request presents into a `Principal`; the supervisor sends it every change. Which
models a principal may call is `ModelPolicy`: org, team and key, each that is set. It also knows
which model serves those who ask for another (`mapping`), and which tags a deployment must have;
`nearest` finds what a name that leads nowhere may have meant. A key carries limits and budgets of
its own too; `ruletext` reads and writes them as people do. Here they are only kept: what is used of
them is counted by `quota`, under the key's id, so that a key that is changed keeps its count.

Invariant: nothing here awaits, touches a file or a socket, or reads a clock; time is an argument.
Deliberately absent: a cache of presented texts. It would save the digest (0.6 us) and keep secrets
in memory.
"""
