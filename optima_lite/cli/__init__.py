"""The command line: what a user types. Heavy imports live inside the commands.

Start with `app`, which lists the verbs. Only in `console` do errors become messages and exit codes.
"""
