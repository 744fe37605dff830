"""What the user wrote: the recipe (the science) and the machine file, checked whole before anything starts.

Start with `config`: every key, its default, its range. No torch, no model, no task may be known here.
"""
