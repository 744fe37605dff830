"""The run folder, and what is told of it: stored records, progress, reports. No torch.

Start with `folder`: what a run leaves behind. Then `store` writes it, and `manifest` says what may resume.
"""
