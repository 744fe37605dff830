"""One base and its adapter: token ids in, token ids and losses out, within the memory there is.

Start with `policy` (the model and its adapters), `loading` (how it comes to be, from what `hub` finds) and `generate`
(what it says). Roles, tasks and rewards are not known here.
"""
