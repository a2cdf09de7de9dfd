"""HTTP/1.1 on asyncio Protocols: a library that imports nothing of ours.

Bytes are read by httptools (llhttp in its strict mode); what llhttp lets pass and a proxy must not
is refused in `reader`. The server runs one task a connection and hands exchanges to an application;
the client delivers answers to a receiver by plain calls, so that bytes of a running stream go from
one transport to the other without a task waking.

Deliberately absent: HTTP/2, upgrades, content codings, and any look at what the bodies mean.
"""
