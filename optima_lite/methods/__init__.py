"""Ways to improve a team, one page each, in the order in which it runs.

Start with `train`, then `optima/loop`. What two methods share belongs to `stage`, a wing below.
"""
