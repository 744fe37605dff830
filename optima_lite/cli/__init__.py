"""The command line: what a user types. Heavy imports live inside the commands.

Start with `app`. Only here do errors become messages and exit codes.
"""
