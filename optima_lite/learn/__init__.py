"""What is worth learning, and learning it: rewards, selection, and the trainers.

Start with `reward` (the formula), `rollout` (agents that talk) and `ranking` (what that is worth); `sft` and `dpo`
train.
"""
