"""A run's team behind OpenAI's chat completions API, on this machine.

Start with `app`: what can be asked for, in the order in which a request goes through it. `requests` is what clients may
send, `layout` makes of it what a role was trained on, `company` says who answers and how, `speaking` lets them speak
through `engine`, where rows join a running batch, and `answers` is what clients get. `running` starts and stops it all.
"""
