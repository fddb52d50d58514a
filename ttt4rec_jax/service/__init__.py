"""The HTTP service: sessions in a store, requests in batches, one device process, HTTP workers.

    HTTP worker (asyncio)  -- Unix socket -->  device process
    app.py, guard.py                          batching.py -> executor.py -> models.py (device)
                                                                         -> a Store (clicks)

A session is its clicks. They are what the store keeps, and a click is acknowledged when they are
durable. A model's state of a session is derived from them: it is cached in memory, saved now and
then, and otherwise computed again from the clicks, so that neither a crash nor another replica nor
a new run can make it wrong.
"""
