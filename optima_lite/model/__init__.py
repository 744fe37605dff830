"""One base and its adapter: token ids in, token ids and losses out, within the memory there is.

Start with `policy` (what is loaded) and `generate` (what it says). Roles, tasks and rewards are not known here.
"""
