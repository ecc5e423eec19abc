"""Fake servers, one per remote API: real HTTP on loopback, as awkward as the real services.

    async with AnthropicFake() as fake:
        fake.reply = "Paris."               # or a function of the request
        ...                                 # point the adapter at fake.base_url, key fake.api_key
        fake.fail("overloaded_529")         # every call from now on; fail_once() for the next one

`AnthropicFake.FAULTS` and its sisters say for every fault what the adapter must report, so that
one contract suite can be parametrized over them. A new fault is a new row in such a table.
"""
