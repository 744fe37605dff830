"""The ways out of a run folder: a page to look at it. Reads what the other wings stored, and trains nothing.

Start with `contents`: what of a run is shown. `page` makes one file of it, `following` serves it while a run goes on.
"""
