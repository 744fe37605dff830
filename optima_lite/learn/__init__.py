"""What is worth learning, and learning it: rewards, selection, and the trainers.

Start with `reward` (the formula) and `rollout` (agents that talk and are rewarded); `sft` and `dpo` train.
"""
